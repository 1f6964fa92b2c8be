"""Measurements to fired diagnostics to verdict: the protocol as published, and its scale-invariant
counterpart.

Published (SCIENCE section 4): (a) growth > 50, (b) ‖g_L‖ < 1e-7, (c) stability > 0.30, (d) accuracy
less the frozen baseline < 2.0 points. Growth, stability and accuracy do not change when the
residual stream is rescaled without changing the function; ‖g_L‖ does. Its counterpart (b') asks
what (b) is meant to ask: is the reference gradient numerically valid?
"""

import math
from collections import Counter
from collections.abc import Iterable
from statistics import fmean
from typing import NamedTuple

from .stats import mean_sd

THRESHOLDS = {"a": 50.0, "b": 1e-7, "c": 0.30, "d": 0.02}
TWIN_FLOOR = 0.99  # (b'): cosine of the fp32 gradient with its fp64 twin, at every level
# update and what credit makes are one above; cosines further apart than this differ
OWN_FLOOR, OWN_GAP = 0.99, 0.1
RESCALE_DRIFT = 0.01  # (b'): change of exact Γ_l under function-preserving rescaling of the stream
UPHILL = -0.1  # Γ below which credit is likely to have the wrong sign

MEANING = {
    "a": "growth: the scale of the residual stream runs away",
    "b": "floor: ‖g_L‖ is below the published floor of 1e-7",
    "twin": "reference: the fp32 gradient fails its fp64 twin",
    "rescaling": (
        "reference: Γ moves when the stream is rescaled and no logit changes; credit "
        "hangs on the scale in direction"
    ),
    "c": "stability: the gradient direction is shared across batches",
    "d": "depth: accuracy is less than 2 points above the frozen baseline",
}
WITHDRAW = {
    "a": "comparisons of norms or of unnormalised credit across levels or methods",
    "b": (
        "alignment figures taken with an eps-clamped cosine (exact cosines stand where b' is "
        "silent)"
    ),
    "b'": (
        "every alignment figure of this net: its reference is not valid, or depends on the "
        "scale of its stream"
    ),
    "twin": "every alignment figure of this net: its reference is not valid",
    "rescaling": (
        "alignment figures as a property of what the net computes (the gradient itself is valid)"
    ),
    "c": "that alignment on a batch says anything about single samples",
    "d": "that the method trains the hidden blocks to any use",
    "own": "every alignment figure as evidence of how the net was trained",
}
PUBLISHED, INVARIANT = ("a", "b", "c", "d"), ("a", "b'", "c", "d")


def deep_cos(diagnosis: dict) -> dict:
    """Deep cosines of one diagnosis, each a mean of Γ over levels (None where one of them is
    undefined).

    hidden: levels 1..L-1, exact. with_top: levels 1..L, exact; the top credit of FA is exact by
    construction.
    published: blocks 1..L-1 in the study's reading (a_{l+1} against g_l, so the top credit enters)
    and its clamped cosine.
    published_exact: the same reading with the exact cosine.
    """
    gamma, block, clamped = (diagnosis[k] for k in ("gamma", "gamma_block", "gamma_block_clamped"))
    parts = {
        "hidden": gamma[1:-1],
        "with_top": gamma[1:],
        "published": clamped[1:],
        "published_exact": block[1:],
    }
    return {k: None if None in v or not v else fmean(v) for k, v in parts.items()}


def over_copy(diagnosis: dict) -> float | None:
    """Mean lead, at the hidden levels, of the exact Γ over that of δ_L copied to every level of the
    same net; None where one is undefined, or the record is older than the copy."""
    pairs = list(zip(diagnosis["gamma"], diagnosis.get("gamma_copied", ())))[1:-1]
    return (
        fmean(a - b for a, b in pairs)
        if pairs and all(None not in pair for pair in pairs)
        else None
    )


def trained_by(diagnosis: dict, level: str) -> dict:
    """Cosines of what trained the blocks, a mean over them each, None where one is undefined: with
    BP's gradient, of the 'credit' that they hear, of their 'update' and of the optimiser's 'step';
    'own', the least of the update with what that credit makes. level: `credit_level` of the config;
    older records hold no 'own'.
    """
    heard = diagnosis["gamma"][1:] if level == "output" else diagnosis["gamma"][:-1]
    parts = {k: diagnosis.get(f"{k}_cos", ())[1:-1] for k in ("update", "step")} | {"credit": heard}
    own = [v for v in diagnosis.get("credit_cos", ()) if v is not None]
    return {k: None if None in v or not v else fmean(v) for k, v in parts.items()} | {
        "own": min(own, default=None)
    }


def rescaling_took(diagnosis: dict) -> bool:
    """Whether writing the stream larger made every gradient smaller, as it must: where it changed
    nothing (a model without an embedding stays as it is), that Γ did not move says nothing."""
    moved = diagnosis["rescaled"]
    least = math.sqrt(moved["factor"])  # by the factor itself, where nothing is rounded
    return all(
        after * least < before
        for before, after in zip(diagnosis["g_norm"], moved["g_norm"])
        if before
    )


def reason(diagnosis: dict, quantity: str) -> str:
    """Why a quantity of a diagnosis is undefined: what the diagnosis says, or that it lacks it."""
    return diagnosis.get("undefined", {}).get(quantity, f"no `{quantity}` was measured")


def reference(diagnosis: dict) -> tuple[str | None, str]:
    """(`reference_fault`, why that is undefined, or '')."""
    twin, moved = diagnosis.get("twin", (None,)), diagnosis.get("rescaled")
    if any(t is not None and t < TWIN_FLOOR for t in twin):
        return "twin", ""
    if None in twin:
        return None, reason(diagnosis, "twin")
    if moved is None:
        return None, reason(diagnosis, "rescaled")
    gamma, after = diagnosis.get("gamma", (None,)), moved["gamma"]
    for quantity in ("gamma", "g_norm"):
        if None in diagnosis.get(quantity, (None,)):
            return None, reason(diagnosis, quantity)
    if None in after:
        return None, "Γ is undefined at some level once the stream is rescaled"
    if not rescaling_took(diagnosis):
        return None, "rescaling the stream made no gradient smaller"
    if not moved.get("repeatable", True):
        return None, "the credit is drawn anew whenever it is asked for"
    drift = max(abs(a - b) for a, b in zip(gamma, after))
    return ("rescaling" if drift > RESCALE_DRIFT else ""), ""


def reference_fault(diagnosis: dict) -> str | None:
    """What makes (b') fire: 'twin', fp32 disagrees with fp64 at some level, or 'rescaling', which
    exact Γ does not survive; '' where it is silent, None where it is undefined.

    Γ is compared where it is defined at every level, before and after: a credit that the rescaling
    extinguishes at some level (EP's, a small difference of large states) says nothing about the
    reference. Nor does a rescaling that changed nothing, or a credit that is drawn anew whenever it
    is asked for (older records hold none).
    """
    return reference(diagnosis)[0]


def crosses(letter: str, value: float | None) -> bool | None:
    """Whether a value is beyond the threshold of a, b, c or d: above it for a and c, below it for b
    and d. None: undefined.
    """
    if value is None:
        return None
    return value > THRESHOLDS[letter] if letter in ("a", "c") else value < THRESHOLDS[letter]


LETTERS = {
    "a": "growth",
    "b": "g_norm",
    "c": "stability",
}  # the quantity of a diagnosis behind each


def fires(
    diagnosis: dict, accuracy: float | None = None, frozen: float | None = None
) -> dict[str, bool | None]:
    """Which of a, b, b', c, d fire on one diagnosis; None where the quantity is undefined or not
    measured, or no baseline is given (`undefined` says which).
    """
    measured = {k: diagnosis.get(quantity) for k, quantity in LETTERS.items()}
    measured["b"] = measured["b"][-1] if measured["b"] else None
    measured["d"] = None if accuracy is None or frozen is None else accuracy - frozen
    fault = reference_fault(diagnosis)
    return {k: crosses(k, v) for k, v in measured.items()} | {
        "b'": None if fault is None else fault != ""
    }


def undefined(
    diagnosis: dict, accuracy: float | None = None, frozen: float | None = None
) -> dict[str, str]:
    """Letter -> why it is undefined, for those that `fires` gives as None."""
    silent = [k for k, fired in fires(diagnosis, accuracy, frozen).items() if fired is None]
    why = {k: reason(diagnosis, quantity) for k, quantity in LETTERS.items()}
    why["b'"] = reference(diagnosis)[1]
    lacking = "accuracy" if accuracy is None else "accuracy of a frozen baseline"
    why["d"] = f"no {lacking} is given"
    return {k: why[k] for k in silent}


def first_fire(record, letter: str) -> int | None:
    """First epoch after which (a) or (b) fires, from the per-epoch curves; None if it never
    does.
    """
    curve = record.curves["growth"] if letter == "a" else [g[-1] for g in record.curves["g_norm"]]
    return next(
        (epoch for epoch, value in enumerate(curve, start=1) if crosses(letter, value)), None
    )


def beyond(record, letter: str) -> float | None:
    """Decades by which a run's worst epoch is beyond the threshold of (a) or (b), from the
    per-epoch curves; negative where it never fires, None without an epoch. Where first_fire says
    yes or no, this says by how much.
    """
    if letter == "a":
        ratios = [v / THRESHOLDS["a"] for v in record.curves["growth"]]
    else:
        ratios = [THRESHOLDS["b"] / max(g[-1], 1e-45) for g in record.curves["g_norm"]]
    return math.log10(max(ratios)) if ratios else None


class Verdict(NamedTuple):
    """What fired over the seeds of one method: `counts[letter]` = (fired, defined) seeds; a letter
    fires where it does so in more than half of the seeds in which it is defined."""

    counts: dict
    runs: int
    diverged: int

    @classmethod
    def of(cls, found: list[dict], diverged: int = 0) -> "Verdict":
        """From what `fires` says of each seed that did not diverge, and the number of those that
        did.
        """
        counts = {
            k: (sum(bool(f[k]) for f in found), sum(f[k] is not None for f in found))
            for k in ("a", "b", "b'", "c", "d")
        }
        return cls(counts, len(found) + diverged, diverged)

    def fired(self, letters=PUBLISHED) -> list[str]:
        return [k for k in letters if 2 * self.counts[k][0] > self.counts[k][1]]

    def text(self, letters=PUBLISHED) -> str:
        if self.diverged == self.runs:
            return "diverged" if self.runs else "not run"
        fired = ", ".join(f"({k})" for k in self.fired(letters))
        silent = ", ".join(
            f"({k})" for k in letters if self.counts[k][1] and k not in self.fired(letters)
        )
        gaps = ", ".join(f"({k})" for k in letters if self.counts[k][1] == 0)
        doubts = [f"undefined: {gaps}"] * bool(gaps) + [
            f"diverged: {self.diverged} of {self.runs} seeds"
        ] * bool(self.diverged)
        if not doubts:
            return f"fires {fired}" if fired else "trustworthy"
        known = f"fires {fired}" if fired else f"none of {silent} fires"
        return "; ".join([known] * bool(fired or silent) + doubts)

    def withdraw(self, letters=PUBLISHED) -> list[str]:
        return [WITHDRAW[k] for k in self.fired(letters)]


def verdict(records, frozen_records=()) -> Verdict:
    """The verdict on the records of one method (its seeds). The frozen baseline is that of a run's
    own seed, and where there is none, the mean over the baseline's seeds."""
    frozen = {r.config.seed: r.accuracy for r in frozen_records if r.accuracy is not None}
    mean = mean_sd(list(frozen.values()))[0]
    found = [
        fires(r.final, r.accuracy, frozen.get(r.config.seed, mean))
        for r in records
        if r.final is not None
    ]
    return Verdict.of(found, diverged=len(records) - len(found))


def sentences(judged: Verdict, faults: Iterable[str | None]) -> list[str]:
    """For each letter that fires in most seeds: what it means, in how many, and what to withdraw.

    faults: `reference_fault` of each seed.
    """
    found, out = Counter(faults), []
    for k in dict.fromkeys((*judged.fired(), *judged.fired(INVARIANT))):
        fired, n = judged.counts[k]
        causes = {k: fired} if k != "b'" else {c: found[c] for c in ("twin", "rescaling")}
        for cause, count in causes.items():
            told = f"({k}) {MEANING[cause]}: {count} of {n} seeds. Withdraw: {WITHDRAW[cause]}."
            out += [told] if count else []
    return out
