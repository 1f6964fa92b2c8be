"""ResMLP: Linear embedding, L pre-LN residual blocks, LN + Linear readout (SCIENCE section 2)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


class ResMLP:
    """Pure functions of a parameter dict; shapes are per member: x (batch, C, H, W) or flat, h (batch, width).

    terminal_ln=False drops the LayerNorm before the head; residual=False makes h_{l+1} = f_l(h_l).
    """

    def __init__(self, cfg, image_shape, classes):
        self.features, self.classes = math.prod(image_shape), classes
        self.width, self.depth = cfg.width, cfg.depth
        self.terminal_ln, self.residual = cfg.terminal_ln, cfg.residual

    def init(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """PyTorch's default Linear and LayerNorm init; each block's second Linear is N(0, 0.01²) with zero bias.

        Without the residual add that Linear is N(0, 0.5²), since a stack of near-zero maps would carry no signal.
        """
        d, p = self.width, {}

        def uniform(name, rows, cols):
            bound = 1 / math.sqrt(cols)  # kaiming_uniform with a=√5, torch.nn.Linear's default
            p[f"{name}.weight"] = torch.empty(rows, cols).uniform_(-bound, bound, generator=generator)
            p[f"{name}.bias"] = torch.empty(rows).uniform_(-bound, bound, generator=generator)

        def norm(name):
            p[f"{name}.weight"], p[f"{name}.bias"] = torch.ones(d), torch.zeros(d)

        uniform("embed", d, self.features)
        for l in range(self.depth):
            norm(f"blocks.{l}.ln")
            uniform(f"blocks.{l}.fc1", d, d)
            std = 0.01 if self.residual else 0.5
            p[f"blocks.{l}.fc2.weight"] = torch.empty(d, d).normal_(0, std, generator=generator)
            p[f"blocks.{l}.fc2.bias"] = torch.zeros(d)
        if self.terminal_ln:
            norm("readout.ln")
        uniform("readout.head", self.classes, d)
        return p

    def embed(self, p, x):
        return F.linear(x.flatten(1), p["embed.weight"], p["embed.bias"])  # h_0

    def block(self, p, l, h):
        """f_l(h), before the residual add."""
        b = f"blocks.{l}."
        z = F.layer_norm(h, (self.width,), p[b + "ln.weight"], p[b + "ln.bias"])
        z = F.gelu(F.linear(z, p[b + "fc1.weight"], p[b + "fc1.bias"]))
        return F.linear(z, p[b + "fc2.weight"], p[b + "fc2.bias"])

    def add(self, h, f):
        """h_{l+1} from h_l and f_l."""
        return h + f if self.residual else f

    def readout(self, p, h):
        if self.terminal_ln:
            h = F.layer_norm(h, (self.width,), p["readout.ln.weight"], p["readout.ln.bias"])
        return F.linear(h, p["readout.head.weight"], p["readout.head.bias"])

    def states(self, p, h, start=0):
        """States h_start..h_L from h at level `start`, differentiable end to end."""
        hs = [h]
        for l in range(start, self.depth):
            hs.append(self.add(hs[-1], self.block(p, l, hs[-1])))
        return hs

    def rescaled(self, p, c: float) -> dict[str, torch.Tensor]:
        """Parameters of the same function whose stream h_0..h_L is c times as large.

        LayerNorm ignores the scale of its input (up to its eps of 1e-5), so scaling what writes to the stream changes
        no logit; without the terminal LN the head divides the factor out again.
        """
        writers = ["embed"] + [f"blocks.{l}.fc2" for l in range(self.depth)]
        q = dict(p)
        for name in writers:
            q[f"{name}.weight"], q[f"{name}.bias"] = p[f"{name}.weight"] * c, p[f"{name}.bias"] * c
        if not self.terminal_ln:
            q["readout.head.weight"] = p["readout.head.weight"] / c
        return q
