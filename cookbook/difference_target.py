"""Difference target propagation: targets come down through learned inverses.

Lee, Zhang, Fischer and Bengio, "Difference Target Propagation", ECML PKDD 2015.
"""

from faeval_core import LocalMethod, register
from faeval_core.methods.base import flat_norm, rms
from faeval_core.models.base import Init


@register
class DifferenceTarget(LocalMethod):
    """t_L = h_L - η δ_L, then t_l = h_l + g_l(t_{l+1}) - g_l(h_{l+1}), and a_l = (h_l - t_l) / η,
    η being such that targets at the top are `step` of the states' size away. The inverse g_l, a
    linear map of the normalised state at its size (beside the skip connection where there is one),
    learns to undo block l on states under noise of `corruption` times their size, at `inverse_lr`
    times the learning rate.
    """

    name = "difference_target"
    options = {"step": 0.1, "corruption": 0.1, "inverse_lr": 3.0}

    def init_params(self, cfg, generator):
        new, sizes = Init(generator), self.model.sizes
        for l in range(self.model.depth):
            new.uniform(f"aux.inverse{l}", sizes[l], sizes[l + 1])
        return new.p

    def rates(self, cfg, name):
        return {"lr": cfg.options["inverse_lr"]} if name.startswith("aux.") else {}

    def noise(self, batch):
        return {f"xi.{l}": (batch, *level) for l, level in enumerate(self.model.levels[:-1])}

    def inverse(self, p, l, h):
        f = self.model.linear(p, f"aux.inverse{l}", flat_norm(h)) * rms(h.flatten(1))
        return self.model.add(h, f.view(len(h), *self.model.levels[l]))

    def credit(self, p, s, hs, logits, y):
        a = [self.exact_credit(p, hs, y, self.model.depth)]
        eta = self.cfg.options["step"] * hs[-1].norm() / a[0].norm().clamp_min(1e-30)
        target = hs[-1] - eta * a[0]
        for l, h in reversed(list(enumerate(hs[:-1]))):
            target = h + self.inverse(p, l, target) - self.inverse(p, l, hs[l + 1])
            a.append((h - target) / eta)
        return a[::-1]

    def auxiliary(self, p, s, hs, logits, y):
        size, below = self.cfg.options["corruption"], list(enumerate(hs[:-1]))
        noisy = [h + size * rms(h) * s[f"xi.{l}"] for l, h in below]
        above = [self.model.add(h, self.model.block(p, l, h, {})) for l, h in enumerate(noisy)]
        missed = [self.inverse(p, l, a) - h for l, (a, h) in enumerate(zip(above, noisy))]
        return sum(m.square().sum() for m in missed) / len(y), {}
