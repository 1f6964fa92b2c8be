"""Feedback alignment (Lillicrap et al., 2016) on a residual stack: exact credit at the top, random matrices below."""

from __future__ import annotations

import torch

from .base import LocalMethod


class FA(LocalMethod):
    """a_L = δ_L exactly, then a_l = a_{l+1} B_l, B_l (width, width) with entries N(0, feedback_scale² / width)."""

    name = "fa"
    options = {"feedback_scale": 1.0}
    member_options = ("feedback_scale",)

    def init_state(self, cfg, generator):
        d = self.model.width
        shape = (self.model.depth, d, d)
        return {"feedback": torch.randn(shape, generator=generator) * (cfg.options["feedback_scale"] / d**0.5)}

    def credit(self, p, s, hs, logits, y):
        a = [self.exact_credit(p, hs, y, self.model.depth)]  # through the readout only
        for l in reversed(range(self.model.depth)):
            a.append(a[-1] @ s["feedback"][l])
        return torch.stack(a[::-1])
