"""ResMLP and its synthetic relatives (SCIENCE section 2): vector states, pre-LN blocks, or plain
linear layers.
"""

import torch
import torch.nn.functional as F

from .base import Init, Model


class ResMLP(Model):
    """Linear embedding, L blocks LN → Linear → GELU → Linear, LN + Linear readout; states are
    (batch, width).

    terminal_ln=False drops the LayerNorm before the head; residual=False makes h_{l+1} = f_l(h_l).
    """

    controls = True
    activation = staticmethod(F.gelu)

    def init(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """PyTorch's default Linear and LayerNorm init; each block's second Linear is N(0, 0.01²)
        with zero bias.

        Without the residual add that Linear is N(0, 0.5²), since a stack of near-zero maps would
        carry no signal.
        """
        d, new = self.width, Init(generator)
        if self.embedded:
            new.uniform("embed", d, self.features)
        for l in range(self.depth):
            new.norm(f"blocks.{l}.ln", d)
            new.uniform(f"blocks.{l}.fc1", d, d)
            new.normal(f"blocks.{l}.fc2", 0.01 if self.residual else 0.5, d, d)
        if self.terminal_ln:
            new.norm("readout.ln", d)
        new.uniform("readout.head", self.classes, d)
        return new.p

    def embed(self, p, x, stats=None):
        return self.linear(p, "embed", x.flatten(1)) if self.embedded else x.flatten(1)  # h_0

    def block(self, p, l, h, stats=None):
        """f_l(h), before the residual add."""
        b = f"blocks.{l}."
        z = self.activation(self.linear(p, b + "fc1", self.layer_norm(p, b + "ln", h)))
        return self.linear(p, b + "fc2", z)


class StudentNet(ResMLP):
    """ResMLP without embedding and terminal LN whose activation is φ_α(z) = (1-α) z + α tanh(z); so
    are its teachers.
    """

    embedded = terminal_ln = controls = False
    options = {"alpha": 1.0}

    @classmethod
    def check(cls, cfg):
        super().check(cfg)
        if cfg.model_options["alpha"] > 1:
            raise ValueError(
                f"model option alpha must lie in [0, 1], not {cfg.model_options['alpha']}"
            )

    def activation(self, z):
        alpha = self.cfg.model_options["alpha"]
        return (1 - alpha) * z + alpha * torch.tanh(z)


class ToyLQ(ResMLP):
    """h_{l+1} = A_l h_l + 0.03 noise, cost ½‖W h_L‖²: the exact costate is A_l^T ... A_{L-1}^T W^T
    e_T, with e_T = W h_L.

    A_l = I + N(0, mixing²/width), W = N(0, 1/width), h_0 the input itself. The study trains nothing
    of it: credit estimators are fitted to its states (train_net=False).
    """

    embedded = terminal_ln = controls = False
    options = {"mixing": 0.14}
    process_noise = 0.03

    def init(self, generator):
        new, d = Init(generator), self.width
        for l in range(self.depth):
            new.normal(f"blocks.{l}.fc2", self.cfg.model_options["mixing"] / d**0.5, d, d)
        new.normal("readout.head", 1 / d**0.5, self.classes, d)
        return new.p

    def block(self, p, l, h, stats=None):
        return self.linear(p, f"blocks.{l}.fc2", h)

    def losses(self, logits, y):
        return 0.5 * self.output_error(logits, y).square().sum(-1)

    def loss(self, logits, y):
        return self.losses(logits, y).mean()

    def output_error(self, logits, y):
        return logits
