"""Back-propagation, and the frozen baseline: BP that leaves the blocks at their initialisation."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .base import Method


class BP(Method):
    """Exact end-to-end gradient of the cross-entropy (plus the penalties, through the whole net)."""

    name = "bp"

    def surrogate(self, p, s, x, y):
        hs, fs = [self.model.embed(p, x)], []
        for l in range(self.model.depth):
            fs.append(self.model.block(p, l, hs[-1]))
            hs.append(self.model.add(hs[-1], fs[-1]))
        loss = F.cross_entropy(self.model.readout(p, hs[-1]), y)
        return loss + self.penalties(s, hs[0], torch.stack(fs)), (loss.detach(), {})

    def credit(self, p, s, hs, logits, y):
        h0 = hs[0].detach().requires_grad_()
        with torch.enable_grad():
            states = self.model.states(p, h0)
            loss = F.cross_entropy(self.model.readout(p, states[-1]), y, reduction="sum")
            return torch.stack(torch.autograd.grad(loss, states))


class Frozen(BP):
    """The baseline that depth has to beat: blocks at init; embedding and readout by BP through them."""

    name = "frozen"

    @classmethod
    def check(cls, cfg):
        if cfg.penalty:
            raise ValueError("method 'frozen' does not train its blocks, so penalty must be 0; penalty_h0 is available")

    def trains(self, name):
        return super().trains(name) and not name.startswith("blocks.")
