"""Direct Kolen-Pollack: direct feedback alignment whose feedback gets the update of a readout.

Webster, Choi and Ahn, "Learning the Connections in Direct Feedback Alignment", 2020
(openreview.net/forum?id=zgGmAx9ZcY).
"""

import torch

from faeval_core import LocalMethod, register
from faeval_core.methods.base import flat_norm, inner


@register
class DirectKolenPollack(LocalMethod):
    """a_l = e B_l. B_l learns as a readout of its level would, by e and h_l (normalised where the
    net's own readout normalises), and decays `feedback_decay` times as fast as the weights: decay
    forgets where feedback and weights began, and what is left of both is their common updates.
    """

    name = "direct_kolen_pollack"
    options = {"feedback_decay": 1.0}

    def init_params(self, cfg, generator):
        classes = self.model.classes
        return {
            f"aux.B{l}": torch.randn(classes, n, generator=generator) / classes**0.5
            for l, n in enumerate(self.model.sizes)
        }

    def rates(self, cfg, name):
        return {"weight_decay": cfg.options["feedback_decay"]} if name.startswith("aux.") else {}

    def credit(self, p, s, hs, logits, y):
        e = self.model.output_error(logits, y)
        return [(e @ p[f"aux.B{l}"]).view_as(h) for l, h in enumerate(hs)]

    def auxiliary(self, p, s, hs, logits, y):
        e = self.model.output_error(logits, y)
        read = [flat_norm(h) if self.model.terminal_ln else h.flatten(1) for h in hs]
        return sum(inner(r @ p[f"aux.B{l}"].T, e) for l, r in enumerate(read)) / len(y), {}
