"""Vector credit field: a net writes the credit itself, fitted to finite differences of the loss
along random directions.
"""

import torch

from .finite_differences import norm, quality, slopes
from .learned import TINY, Learned
from .tensors import rms, unit


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
        over ε, (M, batch) (finite_differences.py).
        """
        one_sided, relative = self.cfg.options["one_sided"], self.cfg.options["step"] == "relative"
        return slopes(self.model, p, hs, y, directions, step, one_sided, relative)

    def measured(self, p, s, hs, gs, y, generator):
        """How good the finite differences are in the net's own precision (`quality`)."""
        if self.cfg.options["source"] == "gaussian":
            return {}
        shapes = [(self.cfg.options["M"], *h.shape) for h in hs]
        directions = [
            torch.randn(n, generator=generator, device=generator.device).to(h)
            for n, h in zip(shapes, hs)
        ]
        steps = self.slopes(p, hs, y, directions, s["fd_step"])
        return quality(gs, steps)

    def common(self, p, s, hs, logits, y):
        if not self.phase.hears or self.cfg.options["source"] == "gaussian":
            return {}
        return {f"field.{l}": a for l, a in enumerate(self.learned(p, s, hs, logits, y))}

    def target(self, slope, scale, drawn):
        """What the field is to fit at one level, (M, batch): the differences, or a control.

        scale: their mean square; drawn: standard normal numbers of their shape, where the target is
        'random'.
        """
        kind = self.cfg.options["target"]
        if kind == "shuffled":
            return slope.roll(1, 1)
        if kind == "random":
            return drawn * scale.sqrt()
        return torch.zeros_like(slope) if kind == "zero" else slope

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
            slope = self.target(slope, scale, s.get(f"target.{l}"))
            told = (a * v).sum(tuple(range(2, v.ndim)))
            scalar = scalar + (told - slope).square().mean() / (1.0 if own else scale)
        if self.cfg.options["tw"] > 0 and target == "fd":
            exact = self.terminal(p, hs, y)
            scalar = scalar + s["tw"] * terminal_error(fields[-1], exact, own)
        return scalar, {}


def terminal_error(field, exact, own: bool):
    """Squared error of the top field: its mean over entries, or relative to the exact δ_L."""
    error = (field - exact).square()
    return error.mean() if own else error.sum() / exact.square().sum().clamp_min(TINY)
