"""Learned credit: what the State Bridge, the Credit Bridge and the vector field share, blends and schedules included."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ..models.base import Init
from .base import normalise, rms, unit
from .dfa import DFA

CODES = ("eT", "deltaL", "eT_hL", "deltaL_hL")
PROJECTED = 32  # features of the fixed random projection of h_L in the codes that end in _hL
MIXES = ("raw", "unit", "dfa")
TINY = 1e-30  # what a squared scale is divided by at least: a fitted batch may have no gradient left


class Learned(DFA):
    """Credit α·aux + (1-α)·DFA, where aux comes from a net trained beside the model on detached states.

    The net: W_h LN(h_l) + W_s [t_l, s] → GELU → `layers` more of width `hidden` → output. States of tokens or feature
    maps enter as one long vector, with one W_h for each size of level.
    code: what s holds: e_T, or δ_L over its RMS, each alone or with a fixed random projection of LN(h_L).
    wr, start: α is 0 for the first wr·epochs, and for the first `start` epochs; stop: α is 0 from there on (0: never);
    decay: α falls linearly to 0 at the end, where the last diagnosis then sees DFA alone; last: only the last so many blocks
    hear aux (0: all levels).
    mix: blend the parts raw, each over its per-sample RMS ('unit'), or aux at DFA's per-sample RMS ('dfa').
    freeze_after: the net learns for so many epochs (-1: always); refit_every: it learns in the first epoch of each so many,
    while the model trains on.
    """

    options = DFA.options | {
        "code": "eT", "hidden": 256, "layers": 2, "alpha": 1.0, "wr": 0.0, "start": 0, "stop": 0, "decay": False, "last": 0,
        "mix": "raw", "freeze_after": -1, "refit_every": 0,
    }  # fmt: skip
    member_options = ("feedback_scale", "alpha", "wr", "start", "stop", "decay", "last", "freeze_after", "refit_every")
    stream = "dfa"  # the feedback of a DFA run with the same seed, so that a run can go on from one
    choices = {"code": CODES, "mix": MIXES}

    @classmethod
    def check(cls, cfg):
        super().check(cfg)
        o = cfg.options
        for name, valid in cls.choices.items():
            if o[name] not in valid:
                raise ValueError(f"option {name} of method {cls.name!r} must be one of {', '.join(valid)}, not {o[name]!r}")
        for name in ("wr", "alpha"):
            if not 0 <= o[name] <= 1:
                raise ValueError(f"option {name} of method {cls.name!r} must lie in [0, 1], not {o[name]}")
        for name in {"hidden", "M", "K"} & set(o):
            if o[name] < 1:
                raise ValueError(f"option {name} of method {cls.name!r} must be at least 1, not {o[name]}")
        if o["last"] > cfg.depth or 0 < o["stop"] <= o["start"]:
            raise ValueError(f"method {cls.name!r} needs last of at most the depth, and stop after start: {o}")

    # -- the net ------------------------------------------------------------------------------------------------------

    def outputs(self) -> list[int]:
        """Sizes of the output for levels 0..L."""
        raise NotImplementedError

    def sizes(self):
        return [math.prod(level) for level in self.model.levels]

    def init_params(self, cfg, generator):
        new, h, sizes = Init(generator), cfg.options["hidden"], self.sizes()
        for n in dict.fromkeys(sizes):
            new.uniform(f"aux.in{n}", h, n)
        code = {"e": self.model.classes, "d": sizes[-1]}[cfg.options["code"][0]]
        code += PROJECTED if cfg.options["code"].endswith("_hL") else 0
        new.uniform("aux.code", h, 1 + code)
        for i in range(cfg.options["layers"]):
            new.uniform(f"aux.mid{i}", h, h)
        for n in dict.fromkeys(self.outputs()):
            new.uniform(f"aux.out{n}", n, h)
        return new.p

    def init_state(self, cfg, generator):
        state, n = super().init_state(cfg, generator), self.sizes()[-1]
        if cfg.options["code"].endswith("_hL"):
            state["projection"] = torch.randn((n, PROJECTED), generator=generator) / n**0.5
        return state

    def code(self, p, s, hs, logits, y):
        """The conditioning s, (batch, features)."""
        name = self.cfg.options["code"]
        error = self.model.output_error(logits, y) if name.startswith("eT") else self.terminal(p, hs, y)
        error = error if name.startswith("eT") else unit(error.flatten(1))
        if name.endswith("_hL"):
            top = hs[-1].flatten(1)
            error = torch.cat([error, F.layer_norm(top, top.shape[1:]) @ s["projection"]], -1)
        return error

    def terminal(self, p, hs, y):
        """δ_L, the exact per-sample gradient at the top."""
        return self.exact_credit(p, hs, y, self.model.depth)

    def net(self, p, hs, code, levels=None, timed=1):
        """Outputs, (rows, size), for the states hs at `levels` (default 0..L); timed=0 hides which level it is.

        A state may hold several copies of the batch, one after another; the code holds the batch once.
        """
        levels, out, heads = list(range(len(hs)) if levels is None else levels), self.outputs(), []
        time = timed * code.new_tensor(levels)[:, None] / self.model.depth
        w_time, w_code = p["aux.code.weight"].split([1, code.shape[1]], 1)
        given = F.linear(time, w_time)[:, None] + F.linear(code, w_code, p["aux.code.bias"])
        for h in hs:
            h = h.flatten(1)
            z = F.linear(F.layer_norm(h, h.shape[1:]), p[f"aux.in{h.shape[1]}.weight"], p[f"aux.in{h.shape[1]}.bias"])
            heads.append(z.unflatten(0, (-1, len(code))))
        z = F.gelu(torch.stack(heads) + given[:, None])  # (levels, copies, batch, hidden)
        for i in range(self.cfg.options["layers"]):
            z = F.gelu(F.linear(z, p[f"aux.mid{i}.weight"], p[f"aux.mid{i}.bias"]))
        ends = zip(z.flatten(1, 2), (f"aux.out{out[l]}" for l in levels))
        return [F.linear(zl, p[f"{name}.weight"], p[f"{name}.bias"]) for zl, name in ends]

    def learned(self, p, s, hs, logits, y):
        """aux: its credit a_0..a_L."""
        raise NotImplementedError

    # -- blend and schedule -------------------------------------------------------------------------------------------

    def at_epoch(self, cfg, epoch):
        o, depth = cfg.options, self.model.depth
        start, stop = max(o["start"], math.ceil(o["wr"] * cfg.epochs - 1e-9)), o["stop"] or cfg.epochs
        weight = o["alpha"] if start <= epoch < stop else 0.0
        if o["decay"]:
            weight *= 1 - (epoch - start) / max(stop - 1 - start, 1)
        first = depth + (cfg.credit_level == "output") - o["last"] if o["last"] else 0
        return {"blend": torch.tensor([weight if l >= first else 0.0 for l in range(depth + 1)])}

    def learns(self, cfg, epoch, name):
        o = cfg.options
        if not name.startswith("aux."):
            return True
        frozen = 0 <= o["freeze_after"] <= epoch
        return not frozen and (o["refit_every"] == 0 or epoch % o["refit_every"] == 0)

    def credit(self, p, s, hs, logits, y):
        if not self.hears:
            return self.direct(s, logits, y)
        blended = []
        for w, aux, dfa in zip(s["blend"], self.learned(p, s, hs, logits, y), self.direct(s, logits, y)):
            if self.cfg.options["mix"] == "unit":
                aux, dfa = normalise(aux, "sample_rms"), normalise(dfa, "sample_rms")
            elif self.cfg.options["mix"] == "dfa":
                aux = unit(aux) * rms(dfa)
            blended.append(torch.where(w > 0, w * aux, 0.0) + (1 - w) * dfa)  # 0 · inf must not reach a member at w = 0
        return blended

    def parts(self, p, s, hs, logits, y):
        return {"dfa": self.direct(s, logits, y), "aux": self.learned(p, s, hs, logits, y)}
