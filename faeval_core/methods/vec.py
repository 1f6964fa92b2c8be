"""Vector credit field: a net writes the credit itself, fitted to finite differences of the loss
along random directions.
"""

import torch

from .learned import TINY, Learned
from .tensors import rms, unit


def norm(v):
    """Norms of directions (M, batch, …), in a shape that divides them."""
    return v.square().sum(tuple(range(2, v.ndim)), keepdim=True).sqrt()


class VectorField(Learned):
    """a_l = a_φ(h_l, t_l, s).

    Per level and step, M random unit directions v: <a, v> is fitted to the loss's central
    difference along v through the true remaining blocks (one_sided: forward difference). step:
    'relative', ε = fd_step·‖h_l‖, or 'absolute', ε = fd_step.
    units: 'delta_L', where a_φ is in units of the batch's RMS of δ_L and its squared errors are
    over the batch's mean squared difference, or 'own', where a_φ and its errors are taken as they
    are. tw weighs ‖a_L - δ_L‖² over the batch's mean ‖δ_L‖², or in units of its own the mean
    squared error over batch and features (0: noTerm; of no effect under the control targets).
    target: 'fd', or controls: 'shuffled' over the batch, 'zero', 'random' (fresh numbers of the
    differences' RMS).
    inputs: 'full', or 'time' (no state, no code), or 'constant' (no time either).
    source: 'net', or 'level' (one learned vector per level), 'gaussian' (fresh noise at DFA's RMS),
    or 'scaled_dfa' (DFA's direction with the norm that the blend with the net would have).
    """

    name = "vec"
    options = Learned.options | {
        "M": 4,
        "fd_step": 0.01,
        "one_sided": False,
        "tw": 1.0,
        "target": "fd",
        "inputs": "full",
        "source": "net",
        "step": "relative",
        "units": "delta_L",
    }
    member_options = (*Learned.member_options, "tw", "fd_step")
    gates = ("tw",)
    choices = Learned.choices | {
        "target": ("fd", "shuffled", "zero", "random"),
        "inputs": ("full", "time", "constant"),
        "source": ("net", "level", "gaussian", "scaled_dfa"),
        "step": ("relative", "absolute"),
        "units": ("delta_L", "own"),
    }

    def outputs(self):
        return self.model.sizes

    def init_params(self, cfg, generator):
        if cfg.options["source"] == "gaussian":
            return {}
        if cfg.options["source"] == "level":
            return {
                f"aux.level{l}": torch.empty(n).normal_(0, 0.1, generator=generator)
                for l, n in enumerate(self.model.sizes)
            }
        return super().init_params(cfg, generator)

    def noise(self, batch):
        levels = list(enumerate(self.model.levels))
        if self.cfg.options["source"] == "gaussian":
            return {f"gaussian.{l}": (batch, *level) for l, level in levels}
        if not self.phase.fits:
            return {}
        shapes = {f"direction.{l}": (self.cfg.options["M"], batch, *level) for l, level in levels}
        if self.cfg.options["target"] == "random":
            shapes |= {f"target.{l}": (self.cfg.options["M"], batch) for l, _ in levels}
        return shapes

    def learned(self, p, s, hs, logits, y):
        if "field.0" in s:
            return [s[f"field.{l}"] for l in range(len(hs))]
        if self.cfg.options["source"] == "gaussian":
            return [s[f"gaussian.{l}"] * rms(a) for l, a in enumerate(self.direct(s, logits, y))]
        inputs, scale = self.cfg.options["inputs"], 1.0
        if self.cfg.options["units"] == "delta_L":
            scale = self.terminal(p, hs, y).square().mean().sqrt()
        if self.cfg.options["source"] == "level":
            raw = [p[f"aux.level{l}"].expand(len(y), -1) for l in range(len(hs))]
        else:
            code = self.code(p, s, hs, logits, y)
            seen = hs if inputs == "full" else [torch.zeros_like(h) for h in hs]
            raw = self.net(
                p,
                seen,
                code if inputs == "full" else torch.zeros_like(code),
                timed=inputs != "constant",
            )
        return [scale * a.view_as(h) for a, h in zip(raw, hs)]

    def blended(self, s, fields, logits, y):
        blended = super().blended(s, fields, logits, y)
        if self.cfg.options["source"] != "scaled_dfa":
            return blended
        return [unit(dfa) * rms(a) for a, dfa in zip(blended, self.direct(s, logits, y))]

    def slopes(self, p, hs, y, directions, step):
        """Per level: unit directions v (M, batch, …) and the loss's finite differences along them
        over ε, (M, batch).

        Displaced copies of all levels pass through a block together.
        """
        one, moved, found = self.cfg.options["one_sided"], None, []
        for l, (h, v) in enumerate(zip(hs, directions)):
            v = v / norm(v)
            size = h.square().sum(tuple(range(1, h.ndim)), keepdim=True).sqrt()
            eps = step * (size if self.cfg.options["step"] == "relative" else torch.ones_like(size))
            found.append((v, eps.flatten() * (1 if one else 2)))
            copies = [h + eps * v] if one else [h + eps * v, h - eps * v]
            moved = torch.cat(
                [c.flatten(0, 1) for c in copies] + ([] if moved is None else [moved])
            )
            if l < self.model.depth:
                moved = self.model.add(moved, self.model.block(p, l, moved, {}))
        losses = self.model.losses(
            self.model.readout(p, moved), y.repeat(len(moved) // len(y))
        ).view(-1, len(y))
        # (level, M, batch), up and down
        sides = losses.view(len(hs), 1 if one else 2, -1, len(y)).flip(0).unbind(1)
        base = self.model.losses(self.model.readout(p, hs[-1]), y) if one else sides[1]
        return [(v, change / over) for (v, over), change in zip(found, sides[0] - base)]

    def measured(self, p, s, hs, gs, y, generator):
        """How good the finite differences are in the net's own precision, per level: `fd_zero`, the
        share of them that is exactly zero, and `fd_corr`, their correlation over samples and
        directions with the exact directional derivatives.
        """
        if self.cfg.options["source"] == "gaussian":
            return {}
        shapes = [(self.cfg.options["M"], *h.shape) for h in hs]
        directions = [
            torch.randn(n, generator=generator, device=generator.device).to(h)
            for n, h in zip(shapes, hs)
        ]
        found = {"fd_zero": [], "fd_corr": []}
        for g, (v, slope) in zip(gs, self.slopes(p, hs, y, directions, s["fd_step"])):
            exact = (v * g).flatten(2).sum(-1)
            pair = torch.stack([slope, exact]).flatten(1).double()
            pair = pair / pair.abs().amax(1, keepdim=True).clamp_min(TINY)
            centred = pair - pair.mean(1, keepdim=True)
            corr = (centred[0] @ centred[1] / (centred[0].norm() * centred[1].norm())).item()
            found["fd_zero"].append((slope == 0).double().mean().item())
            found["fd_corr"].append(corr if corr == corr else None)
        return found

    def common(self, p, s, hs, logits, y):
        if not self.phase.hears or self.cfg.options["source"] == "gaussian":
            return {}
        return {f"field.{l}": a for l, a in enumerate(self.learned(p, s, hs, logits, y))}

    def auxiliary(self, p, s, hs, logits, y):
        if self.cfg.options["source"] == "gaussian":
            return 0.0, {}
        fields = self.learned(p, s, hs, logits, y)
        scalar, target, own = 0.0, self.cfg.options["target"], self.cfg.options["units"] == "own"
        directions = [s[f"direction.{l}"] for l in range(len(hs))]
        if own and target == "zero":  # no difference of the loss enters
            return sum(
                (a * v / norm(v)).sum(tuple(range(2, v.ndim))).square().mean()
                for a, v in zip(fields, directions)
            ), {}
        for l, (a, (v, slope)) in enumerate(
            zip(fields, self.slopes(p, hs, y, directions, s["fd_step"]))
        ):
            scale, slope = slope.square().mean().detach().clamp_min(TINY), slope.detach()
            if target == "shuffled":
                slope = slope.roll(1, 1)
            elif target != "fd":
                slope = (
                    s[f"target.{l}"] * scale.sqrt()
                    if target == "random"
                    else torch.zeros_like(slope)
                )
            told = (a * v).sum(tuple(range(2, v.ndim)))
            scalar = scalar + (told - slope).square().mean() / (1.0 if own else scale)
        if self.cfg.options["tw"] > 0 and target == "fd":
            exact = self.terminal(p, hs, y)
            error = (fields[-1] - exact).square()
            error = error.mean() if own else error.sum() / exact.square().sum().clamp_min(TINY)
            scalar = scalar + s["tw"] * error
        return scalar, {}
