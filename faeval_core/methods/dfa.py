"""Direct feedback alignment (Nøkland, 2016): every level hears the output error through a fixed
random matrix.
"""

import torch

from .bp import BlocksAtInit
from .local import LocalMethod


class DFA(LocalMethod):
    """a_l = e_T B_l, B_l (C, size of level l) with entries N(0, feedback_scale² / C), one per level
    0..L.

    Tokens and feature maps are one long vector each: every position has feedback of its own.
    """

    name = "dfa"
    options = {"feedback_scale": 1.0}
    member_options = ("feedback_scale",)

    @classmethod
    def check(cls, cfg):
        up = cfg.upstream
        if up is not None and up.method != "fa" and "feedback_scale" in up.options:
            if (up.seed, up.options["feedback_scale"]) != (cfg.seed, cfg.options["feedback_scale"]):
                raise ValueError(
                    f"run continues {up.id} with other feedback; give it the seed {up.seed} "
                    "and its feedback_scale"
                )

    def init_state(self, cfg, generator):
        classes, sizes = self.model.classes, self.model.sizes
        scale = cfg.options["feedback_scale"] / classes**0.5
        if len(set(sizes)) == 1:  # one tensor, so that one product serves all levels
            return {
                "feedback": torch.randn((len(sizes), classes, sizes[0]), generator=generator)
                * scale
            }
        return {
            f"feedback.{l}": torch.randn((classes, n), generator=generator) * scale
            for l, n in enumerate(sizes)
        }

    def direct(self, s, logits, y):
        """a_0..a_L of DFA, whatever the method's own credit is."""
        return self.sent(s, self.model.output_error(logits, y))

    def sent(self, s, e):
        """What the feedback makes of e, (batch, C), at each level 0..L."""
        a = (
            e @ s["feedback"]
            if "feedback" in s
            else [e @ s[f"feedback.{l}"] for l in range(len(self.model.levels))]
        )
        return [level.view(len(e), *shape) for level, shape in zip(a, self.model.levels)]

    def credit(self, p, s, hs, logits, y):
        return self.direct(s, logits, y)


class FrozenDFA(BlocksAtInit, DFA):
    """The frozen baseline without any back-propagation: blocks at init, the embedding by DFA's
    a_0.
    """

    name = "frozen_dfa"
    stream = "dfa"
