"""State Bridge: a net predicts the terminal state, and credit is the gradient of the loss of its
prediction.
"""

import torch

from .learned import TINY, Learned


class StateBridge(Learned):
    """a_l = ∇_{h_l} CE(readout(G(h_l, t_l, s)), y); G predicts h_L, in units of the batch's RMS of
    h_L.

    skip: G = h_l + net, where the two levels have one size, so that credit starts near δ_L at every
    level. The study's students ask for False, its toy for True (benchmarks/calibration.md).
    loss: 'nmse', ‖G - h_L‖² over the batch's mean ‖h_L‖², or 'mse', the mean over features (and
    units of 1).
    """

    name = "sb"
    options = Learned.options | {"loss": "nmse", "skip": False}
    choices = Learned.choices | {"loss": ("nmse", "mse")}

    def outputs(self):
        return self.model.sizes[-1:] * (self.model.depth + 1)

    def predicted(self, p, hs, code, top):
        """G at every level, (L+1, batch, size of level L)."""
        unit = top.square().mean().sqrt() if self.cfg.options["loss"] == "nmse" else 1.0
        guesses = zip(self.net(p, hs, code), (h.flatten(1) for h in hs))
        return torch.stack(
            [
                unit * g + (h if self.cfg.options["skip"] and h.shape == g.shape else 0)
                for g, h in guesses
            ]
        )

    def learned(self, p, s, hs, logits, y):
        code, top = self.code(p, s, hs, logits, y), hs[-1]

        def bridged(hs):
            guess = self.predicted(p, hs, code, top).reshape(-1, *top.shape[1:])
            return self.model.losses(self.model.readout(p, guess), y.repeat(len(hs))).sum()

        return torch.func.grad(bridged)(list(hs))

    def auxiliary(self, p, s, hs, logits, y):
        top = hs[-1].flatten(1)
        error = (self.predicted(p, hs, self.code(p, s, hs, logits, y), top) - top).square()
        scale = top.square().mean().clamp_min(TINY) if self.cfg.options["loss"] == "nmse" else 1.0
        return error.mean((1, 2)).sum() / scale, {}
