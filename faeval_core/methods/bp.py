"""Back-propagation, the frozen baseline that leaves the blocks at their initialisation, and the oracle of local rules."""

from __future__ import annotations

import torch

from .base import LocalMethod, Method


class BP(Method):
    """Exact end-to-end gradient of the loss (plus the penalties, through the whole net)."""

    name = "bp"

    def surrogate(self, p, s, x, y):
        model, changed = self.model, {}
        hs, fs = [model.embed(p, x, changed)], []
        for l in range(model.depth):
            fs.append(model.block(p, l, hs[-1], changed))
            hs.append(model.add(hs[-1], fs[-1]))
            if model.process_noise:
                hs[-1] = hs[-1] + model.process_noise * s["process"][l]
        loss = model.losses(model.readout(p, hs[-1]), y).mean()
        return loss + self.penalties(s, hs[0], fs), (loss.detach(), changed)

    def credit(self, p, s, hs, logits, y):
        h0 = hs[0].detach().requires_grad_()
        with torch.enable_grad():
            states = self.model.states(p, h0)
            loss = self.model.losses(self.model.readout(p, states[-1]), y).sum()
            return list(torch.autograd.grad(loss, states))


class Frozen(BP):
    """The baseline that depth has to beat: blocks at init; embedding and readout by BP through them."""

    name = "frozen"

    @classmethod
    def check(cls, cfg):
        if cfg.penalty:
            raise ValueError("method 'frozen' does not train its blocks, so penalty must be 0; penalty_h0 is available")

    def trains(self, name):
        return super().trains(name) and not name.startswith("blocks.")


class Oracle(LocalMethod):
    """Exact credit in a local method's place: what a local update rule does with it. With the inner product it is BP."""

    name = "oracle"
    credit = BP.credit
