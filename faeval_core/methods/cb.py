"""Credit Bridge: a scalar value of the state, tied to the loss at the top and to itself one level
up below.
"""

import math

import torch

from .learned import TINY, Learned


class CreditBridge(Learned):
    """a_l = ∇_{h_l} V(h_l, t_l, s).

    V is fitted at the top to the sample's loss, and for l < L to the soft minimum -λ log mean_k
    exp(-V'(h_{l+1} + noise_k) / λ) over K noisy copies (N(0, noise²)) one level up, V' being an
    exponential moving average of V (decay ema). tgw weighs ‖∇V(h_L) - δ_L‖² over the batch's mean
    ‖δ_L‖².
    """

    name = "cb"
    options = Learned.options | {
        "wr": 0.2,
        "temperature": 0.1,
        "K": 8,
        "noise": 0.1,
        "ema": 0.995,
        "tgw": 1.0,
    }
    member_options = (*Learned.member_options, "temperature", "noise", "ema", "tgw")
    gates = ("tgw",)

    @classmethod
    def check(cls, cfg):
        super().check(cfg)
        if cfg.options["temperature"] == 0 or cfg.options["ema"] >= 1:
            raise ValueError(
                f"method 'cb' needs temperature above 0 and ema below 1: {cfg.options}"
            )

    def outputs(self):
        return [1] * (self.model.depth + 1)

    def init_copies(self, params):
        return {f"ema.{k}": v.clone() for k, v in params.items() if k.startswith("aux.")}

    def noise(self, batch):
        levels = enumerate(self.model.levels[1:], 1) if self.phase.fits else ()
        return {f"bridge.{l}": (self.cfg.options["K"], batch, *level) for l, level in levels}

    def values(self, p, hs, code, levels=None):
        """V of every state, (levels, batch)."""
        return torch.stack(self.net(p, hs, code, levels))[..., 0]

    def learned(self, p, s, hs, logits, y):
        code = self.code(p, s, hs, logits, y)
        return torch.func.grad(lambda hs: self.values(p, hs, code).sum())(list(hs))

    def auxiliary(self, p, s, hs, logits, y):
        code, top = self.code(p, s, hs, logits, y), self.model.depth
        copies, batch = self.cfg.options["K"], len(y)
        slow = {k: s[f"ema.{k}"] for k in p if k.startswith("aux.")}
        noisy = [(h + s["noise"] * s[f"bridge.{l}"]).flatten(0, 1) for l, h in enumerate(hs[1:], 1)]
        ahead = self.values(slow, noisy, code, range(1, top + 1)).view(top, copies, batch)
        target = -s["temperature"] * ((-ahead / s["temperature"]).logsumexp(1) - math.log(copies))
        value = self.values(p, hs, code)
        scalar = (value[:-1] - target.detach()).square().mean()
        scalar = scalar + (value[-1] - self.model.losses(logits, y)).square().mean()
        if self.cfg.options["tgw"] > 0:
            found = torch.func.grad(lambda h: self.values(p, [h], code, [top]).sum())(hs[-1])
            exact = self.terminal(p, hs, y)
            scalar = scalar + s["tgw"] * (
                found - exact
            ).square().sum() / exact.square().sum().clamp_min(TINY)
        moved = {f"ema.{k}": torch.lerp(p[k].detach(), v, s["ema"]) for k, v in slow.items()}
        return scalar, moved
