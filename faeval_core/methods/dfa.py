"""Direct feedback alignment (Nøkland, 2016): every level hears the output error through a fixed random matrix."""

from __future__ import annotations

import torch

from .base import LocalMethod, output_error


class DFA(LocalMethod):
    """a_l = e_T B_l, B_l (C, width) with entries N(0, feedback_scale² / C), one per level 0..L."""

    name = "dfa"
    options = {"feedback_scale": 1.0}
    member_options = ("feedback_scale",)

    def init_state(self, cfg, generator):
        classes = self.model.classes
        shape = (self.model.depth + 1, classes, self.model.width)
        return {"feedback": torch.randn(shape, generator=generator) * (cfg.options["feedback_scale"] / classes**0.5)}

    def credit(self, p, s, hs, logits, y):
        return output_error(logits, y) @ s["feedback"]  # (batch, C) @ (L+1, C, width)
