"""Weight mirrors: feedback that learns the forward weights from noise alone.

Akrout, Wilson, Humphreys, Lillicrap and Tweed, "Deep Learning without Weight Transport", NeurIPS
2019.
"""

import math

import torch

from faeval_core import register
from faeval_core.methods.fa import Structured


@register
class WeightMirror(Structured):
    """Errors travel back through B in place of W. Beside each step, in its mirror mode, white noise
    ξ goes into every layer, and B ← (1 - r) B + r mean((W ξ) ξᵀ), r being `mirror_rate`.
    """

    name = "weight_mirror"
    options = {"mirror_rate": 0.1}
    member_options = ("mirror_rate",)

    def __init__(self, cfg, model):
        super().__init__(cfg, model)
        weights = self.weights(model.init(torch.Generator()))
        self.fan_in = {k: math.prod(w.shape[1:]) for k, w in weights.items()}

    def init_state(self, cfg, generator):
        weights = self.weights(self.model.init(generator))
        return {f"{k}.feedback": w for k, w in weights.items()}

    def feedback(self, p, s):
        return {f"{k}.feedback": s[f"{k}.feedback"] for k in self.fan_in}

    def noise(self, batch):
        return {f"xi.{k}": (batch, n) for k, n in self.fan_in.items()}

    def auxiliary(self, p, s, hs, logits, y):
        learnt = {}
        for k, w in self.weights(p).items():
            xi, before = s[f"xi.{k}"], s[f"{k}.feedback"]
            response = xi @ w.flatten(1).T
            mirrored = (response.T @ xi / len(xi)).view_as(w)
            learnt[f"{k}.feedback"] = torch.lerp(before, mirrored, s["mirror_rate"])
        return 0.0, learnt
