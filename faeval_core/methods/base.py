"""A method is one scalar: a pure function of (params, state, batch) whose gradient is the whole update.

Everything here is written for one member; the engine maps it over the ensemble. h is (batch, width), credit is
(L+1, batch, width): a_l at level l, on the scale of the per-sample gradient. The level convention is that a_{l+1}
trains block l, whose output is part of h_{l+1}, and a_0 trains the embedding; a perfect credit has a_l ∝ g_l.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def inner(u, v):
    """Sum of elementwise products of two tensors of one shape."""
    return torch.dot(u.reshape(-1), v.reshape(-1))


def output_error(logits, y):
    """e_T = softmax(logits) - onehot(y), (batch, C)."""
    onehot = y[:, None] == torch.arange(logits.shape[-1], device=logits.device)
    return torch.softmax(logits, -1) - onehot.to(logits.dtype)


def normalise(credit, how: str):
    """Credit over its RMS + 1e-6: over features ('sample_rms') or batch and features ('batch_rms'); 'raw' as it is."""
    if how == "raw":
        return credit
    dims = (-1,) if how == "sample_rms" else (-2, -1)
    return credit / (credit.square().mean(dims, keepdim=True).sqrt() + 1e-6)


class Method:
    """Base of every method. Subclasses set `name`, `version` and `options` and define `surrogate` and `credit`."""

    name = ""
    version = 1
    options: dict = {}  # option -> default
    member_options: tuple = ()  # options that may differ inside an ensemble

    def __init__(self, cfg, model):
        self.cfg, self.model = cfg, model

    @classmethod
    def check(cls, cfg):
        """Raise ValueError for a config that this method cannot train."""

    def init_state(self, cfg, generator) -> dict[str, torch.Tensor]:
        """Tensors of one member that no gradient trains, such as fixed feedback."""
        return {}

    def trains(self, name: str) -> bool:
        """Whether the parameter `name` is trained at all."""
        return not (name.startswith("embed.") and self.cfg.embedding == "init")

    def surrogate(self, p, s, x, y):
        """(scalar whose gradient is the update, (cross-entropy, changed state tensors)) for one batch."""
        raise NotImplementedError

    def credit(self, p, s, hs, logits, y):
        """a_0..a_L as (L+1, batch, width) from the detached states hs and logits of one batch."""
        raise NotImplementedError

    def penalties(self, s, h0, fs):
        """λ‖f_l‖² over the blocks and λ‖h_0‖², batch means; `fs` is (L, batch, width)."""
        total, cells = 0.0, h0.shape[0] * (h0.shape[1] if self.cfg.penalty_reduction == "mean" else 1)
        if self.cfg.penalty > 0:
            total = total + s["penalty"] * inner(fs, fs) / cells
        if self.cfg.penalty_h0 > 0:
            total = total + s["penalty_h0"] * inner(h0, h0) / cells
        return total

    def tail_loss(self, p, h, y, start=0):
        """Sum over the batch of the cross-entropy from level `start` on: its gradient is g per sample (δ)."""
        return F.cross_entropy(self.model.readout(p, self.model.states(p, h, start)[-1]), y, reduction="sum")

    def exact_credit(self, p, hs, y, level):
        """δ_level, the exact per-sample gradient at `level`, by back-propagation through blocks level..L-1."""
        return torch.func.grad(lambda h: self.tail_loss(p, h, y, level))(hs[level])


class LocalMethod(Method):
    """Trains block l on <f_l(sg(h_l)), sg(a_{l+1})>, the embedding on <h_0, sg(a_0)>, the readout on CE of sg(h_L).

    A rule of your own is a subclass with a `credit`.
    """

    def surrogate(self, p, s, x, y):
        model, batch = self.model, x.shape[0]
        h0 = model.embed(p, x)
        hs, fs = [h0.detach()], []
        for l in range(model.depth):
            fs.append(model.block(p, l, hs[-1]))
            hs.append(model.add(hs[-1], fs[-1]).detach())
        logits = model.readout(p, hs[-1])
        loss = F.cross_entropy(logits, y)
        fixed = {k: v.detach() for k, v in p.items()}
        a = normalise(self.credit(fixed, s, hs, logits.detach(), y), self.cfg.credit_norm).detach()
        fs = torch.stack(fs)
        scalar = loss + inner(fs, a[1:]) / batch + self.penalties(s, h0, fs)
        if self.cfg.embedding != "init":
            a0 = self.exact_credit(fixed, hs, y, 0).detach() if self.cfg.embedding == "exact" else a[0]
            scalar = scalar + inner(h0, a0) / batch
        return scalar, (loss.detach(), {})
