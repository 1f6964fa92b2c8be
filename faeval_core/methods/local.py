"""Local losses (greedy layerwise learning, Belilovsky et al., 2019): an auxiliary linear classifier at every level."""

import math

import torch
import torch.nn.functional as F

from ..models.base import Init
from .base import LocalMethod


class LocalLoss(LocalMethod):
    """a_l = ∇_{h_l} of the loss of a linear classifier on LN(h_l), trained beside the model; every state is one long vector."""

    name = "local"
    cost = 1.3

    def init_params(self, cfg, generator):
        new = Init(generator)
        for l, level in enumerate(self.model.levels):
            new.uniform(f"aux.head{l}", self.model.classes, math.prod(level))
        return new.p

    def local_losses(self, p, hs, y):
        zs = [F.layer_norm(h.flatten(1), (h[0].numel(),)) for h in hs]
        heads = [F.linear(z, p[f"aux.head{l}.weight"], p[f"aux.head{l}.bias"]) for l, z in enumerate(zs)]
        return sum(self.model.losses(logits, y).sum() for logits in heads)

    def credit(self, p, s, hs, logits, y):
        return torch.func.grad(lambda hs: self.local_losses(p, hs, y))(list(hs))

    def auxiliary(self, p, s, hs, logits, y):
        return self.local_losses(p, hs, y) / len(y), {}
