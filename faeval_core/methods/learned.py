"""Learned credit: what the State Bridge, the Credit Bridge and the vector field share, blends and
schedules included.
"""

import math

import torch

from .auxiliary_net import initial, outputs
from .dfa import DFA
from .shared import Phase
from .tensors import flat_norm, normalise, rms, unit

PROJECTED = 32  # features of the fixed random projection of h_L in the codes that end in _hL
# what a squared scale is divided by at least: a fitted batch may have no gradient left
TINY = 1e-30


def check_options(name: str, choices: dict, o: dict) -> None:
    """Raise ValueError for an option of the method `name` that is outside what it may be."""
    rules = {k: (o[k] in valid, f"be one of {', '.join(valid)}") for k, valid in choices.items()}
    rules |= {k: (0 <= o[k] <= 1, "lie in [0, 1]") for k in ("wr", "alpha")}
    rules |= {k: (o[k] >= 1, "be at least 1") for k in ("hidden", "M", "K") if k in o}
    rules |= {k: (o[k] > 0, "be above 0") for k in ("fd_step",) if k in o}
    for k, (kept, rule) in rules.items():
        if not kept:
            raise ValueError(f"option {k} of method {name!r} must {rule}, not {o[k]!r}")


def blend(w, aux, dfa, mix: str, heard):
    """w·aux + (1-w)·dfa of one level, (batch, …), the parts brought to a common size as `mix` says.

    heard: whether any level hears the auxiliary; where none does, dfa stays as it is.
    """
    if mix == "unit":
        aux = normalise(aux, "sample_rms")
        dfa = torch.where(heard, normalise(dfa, "sample_rms"), dfa)
    elif mix == "dfa":
        aux = unit(aux) * rms(dfa)
    # 0 · inf must not reach a member at w = 0
    return torch.where(w > 0, w * aux, 0.0) + (1 - w) * dfa


class Learned(DFA):
    """Credit α·aux + (1-α)·DFA, where aux comes from a net trained beside the model on detached
    states.

    Subclasses define `outputs` (sizes of the net's output for levels 0..L), `learned` (a_0..a_L of
    aux) and `auxiliary`.
    The net: W_h LN(h_l) + W_s [t_l, s] → GELU → `layers` more of width `hidden` → output. States of
    tokens or feature maps enter as one long vector, with one W_h for each size of level.
    code: what s holds: e_T, or δ_L as it is (so that it shrinks as the stream grows), each alone or
    with a fixed random projection of LN(h_L).
    wr, start: α is 0 for the first wr·epochs, and for the first `start` epochs; stop: α is 0 from
    there on (0: never);
    decay: α falls linearly to 0 at the end, where the last diagnosis then sees DFA alone; last:
    only the last so many blocks hear aux (0: all levels).
    mix: blend the parts raw, each over its per-sample RMS ('unit'), or aux at DFA's per-sample RMS
    ('dfa').
    freeze_after: the net learns for so many epochs (-1: always); refit_every: it learns in the
    first epoch of each so many, while the model trains on.
    """

    options = DFA.options | {
        "code": "eT",
        "hidden": 256,
        "layers": 2,
        "alpha": 1.0,
        "wr": 0.0,
        "start": 0,
        "stop": 0,
        "decay": False,
        "last": 0,
        "mix": "raw",
        "freeze_after": -1,
        "refit_every": 0,
    }
    member_options = (
        "feedback_scale",
        "alpha",
        "wr",
        "start",
        "stop",
        "decay",
        "last",
        "freeze_after",
        "refit_every",
    )
    stream = "dfa"  # the feedback of a DFA run with the same seed, so that a run can go on from one
    choices = {"code": ("eT", "deltaL", "eT_hL", "deltaL_hL"), "mix": ("raw", "unit", "dfa")}

    @classmethod
    def check(cls, cfg):
        super().check(cfg)
        check_options(cls.name, cls.choices, cfg.options)
        o = cfg.options
        if o["last"] > cfg.depth or 0 < o["stop"] <= o["start"]:
            raise ValueError(
                f"method {cls.name!r} needs last of at most the depth, and stop after start: {o}"
            )

    # -- the net

    def init_params(self, cfg, generator):
        o, sizes = cfg.options, self.model.sizes
        code = self.model.classes if o["code"].startswith("eT") else sizes[-1]
        code += PROJECTED if o["code"].endswith("_hL") else 0
        return initial(generator, sizes, code, o["hidden"], o["layers"], self.outputs())

    def init_state(self, cfg, generator):
        state, n = super().init_state(cfg, generator), self.model.sizes[-1]
        if cfg.options["code"].endswith("_hL"):
            state["projection"] = torch.randn((n, PROJECTED), generator=generator) / n**0.5
        return state

    def code(self, p, s, hs, logits, y):
        """The conditioning s, (batch, features)."""
        name = self.cfg.options["code"]
        error = (
            self.model.output_error(logits, y)
            if name.startswith("eT")
            else self.terminal(p, hs, y).flatten(1)
        )
        if name.endswith("_hL"):
            error = torch.cat([error, flat_norm(hs[-1]) @ s["projection"]], -1)
        return error

    def terminal(self, p, hs, y):
        """δ_L, the exact per-sample gradient at the top."""
        return self.exact_credit(p, hs, y, self.model.depth)

    def net(self, p, hs, code, levels=None, timed=1):
        """Outputs, (rows, size), for the states hs at `levels` (default 0..L); timed=0 hides which
        level it is (auxiliary_net.py).
        """
        levels = list(range(len(hs)) if levels is None else levels)
        layers, sizes = self.cfg.options["layers"], self.outputs()
        return outputs(self.model, p, hs, code, levels, layers, sizes, timed)

    # -- blend and schedule

    def at_epoch(self, cfg, epoch):
        o, depth = cfg.options, self.model.depth
        start, stop = (
            max(o["start"], math.ceil(o["wr"] * cfg.epochs - 1e-9)),
            o["stop"] or cfg.epochs,
        )
        weight = o["alpha"] if start <= epoch < stop else 0.0
        if o["decay"]:
            weight *= 1 - (epoch - start) / max(stop - 1 - start, 1)
        first = depth + (cfg.credit_level == "output") - o["last"] if o["last"] else 0
        return {"blend": torch.tensor([weight if l >= first else 0.0 for l in range(depth + 1)])}

    def learns(self, cfg, epoch, name):
        after, every = cfg.options["freeze_after"], cfg.options["refit_every"] or 1
        return not name.startswith("aux.") or (epoch % every == 0 and not 0 <= after <= epoch)

    def phase_of(self, cfg, epoch):
        """While no level hears the net, it makes no credit; while the net does not learn, it is not
        fitted.
        """
        heard = self.at_epoch(cfg, epoch)["blend"] > 0
        return Phase(hears=bool(heard.any()), fits=self.learns(cfg, epoch, "aux."))

    def credit(self, p, s, hs, logits, y):
        if not self.phase.hears:
            return self.direct(s, logits, y)
        return self.blended(s, self.learned(p, s, hs, logits, y), logits, y)

    def blended(self, s, fields, logits, y):
        """The blend of `fields`, the auxiliary's a_0..a_L, with DFA's credit, which alone stays as
        it is, whatever `mix` says.
        """
        direct, heard = self.direct(s, logits, y), (s["blend"] > 0).any()
        levels = zip(s["blend"], fields, direct)
        return [blend(w, aux, dfa, self.cfg.options["mix"], heard) for w, aux, dfa in levels]

    def parts(self, p, s, hs, logits, y):
        return {"dfa": self.direct(s, logits, y), "aux": self.learned(p, s, hs, logits, y)}
