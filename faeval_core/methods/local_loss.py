"""Local losses (greedy layerwise learning, Belilovsky et al., 2019): an auxiliary linear classifier
at every level.
"""

import torch

from ..models.base import Init
from .local import LocalMethod
from .tensors import flat_norm


class LocalLoss(LocalMethod):
    """a_l = ∇_{h_l} of the loss of a linear classifier on LN(h_l), trained beside the model; every
    state is one long vector.
    """

    name = "local"

    def init_params(self, cfg, generator):
        new = Init(generator)
        for l, n in enumerate(self.model.sizes):
            new.uniform(f"aux.head{l}", self.model.classes, n)
        return new.p

    def local_losses(self, p, hs, y):
        heads = [self.model.linear(p, f"aux.head{l}", flat_norm(h)) for l, h in enumerate(hs)]
        return sum(self.model.losses(logits, y).sum() for logits in heads)

    def credit(self, p, s, hs, logits, y):
        return torch.func.grad(lambda hs: self.local_losses(p, hs, y))(list(hs))

    def auxiliary(self, p, s, hs, logits, y):
        return self.local_losses(p, hs, y) / len(y), {}
