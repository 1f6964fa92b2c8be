"""Measurements to fired diagnostics to verdict: the study's protocol, and its scale-invariant
counterpart, whose letters are told in `letters`.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable
from statistics import fmean
from typing import NamedTuple

from .copies import beside_copy, copy_gap, over_copy, reason
from .letters import (
    ALL,
    COUNTERPART,
    INVARIANT,
    MEANING,
    OWN_FLOOR,
    OWN_GAP,
    PUBLISHED,
    RESCALE_DRIFT,
    SPELLED,
    THRESHOLDS,
    TWIN_FLOOR,
    UPHILL,
    WITHDRAW,
)
from .stats import mean_sd

__all__ = [
    "ALL",
    "COUNTERPART",
    "INVARIANT",
    "MEANING",
    "OWN_FLOOR",
    "OWN_GAP",
    "PUBLISHED",
    "RESCALE_DRIFT",
    "THRESHOLDS",
    "TWIN_FLOOR",
    "UPHILL",
    "WITHDRAW",
    "Verdict",
    "beside_copy",
    "cases",
    "beyond",
    "crosses",
    "deep_cos",
    "fires",
    "first_fire",
    "over_copy",
    "reason",
    "reference",
    "reference_fault",
    "rescaling_took",
    "sentences",
    "trained_by",
    "undefined",
    "verdict",
]


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
    """Whether a value is beyond the threshold of a, b, c, d or e: above it for a and c, below it
    for the others. None: undefined.
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
    """Which of a, b, b', c, d, e fire on one diagnosis; None where the quantity is undefined or not
    measured, or no baseline is given (`undefined` says which).
    """
    measured = {k: diagnosis.get(quantity) for k, quantity in LETTERS.items()}
    measured["b"] = measured["b"][-1] if measured["b"] else None
    measured["d"] = None if accuracy is None or frozen is None else accuracy - frozen
    beside = beside_copy(diagnosis)
    measured["e"] = None if beside is None else beside.share
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
    why["e"] = copy_gap(diagnosis)
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
            k: (sum(bool(f[k]) for f in found), sum(f[k] is not None for f in found)) for k in ALL
        }
        return cls(counts, len(found) + diverged, diverged)

    def fired(self, letters=PUBLISHED, powerless: Collection[str] = ()) -> list[str]:
        """Letters that fire, but for those that have no power on this task."""
        asked = [k for k in letters if k not in powerless]
        return [k for k in asked if 2 * self.counts[k][0] > self.counts[k][1]]

    def text(self, letters=PUBLISHED, powerless: Collection[str] = (), spelled=False) -> str:
        """What fires, else 'trustworthy'; beside it what is undefined or has no power here.

        powerless: letters that BP itself does not clear, which then tell nothing about a rule.
        spelled: what fires in words, too.
        """
        if self.diverged == self.runs:
            return "diverged" if self.runs else "not run"

        def named(group, in_words=False):
            return ", ".join(f"({k})" + (f" {SPELLED[k]}" if in_words else "") for k in group)

        asked = [k for k in letters if k not in powerless]
        gaps = [k for k in asked if self.counts[k][1] == 0]
        fired = self.fired(asked)
        silent = [k for k in asked if k not in (*fired, *gaps)]
        doubts = [f"undefined: {named(gaps)}"] * bool(gaps)
        no_power = named(k for k in letters if k in powerless)
        doubts += [f"no power here: {no_power}"] * bool(no_power)
        doubts += [f"diverged: {self.diverged} of {self.runs} seeds"] * bool(self.diverged)
        told = f"fires {named(fired, spelled)}" if fired else f"none of {named(silent)} fires"
        if not doubts:
            return told if fired else "trustworthy"
        return "; ".join([told] * bool(fired or silent) + doubts)

    def withdraw(self, letters=PUBLISHED, powerless: Collection[str] = ()) -> list[str]:
        return [WITHDRAW[k] for k in self.fired(letters, powerless)]


class Case(NamedTuple):
    """What one run that did not diverge is judged by."""

    diagnosis: dict
    accuracy: float | None
    frozen: float | None  # of its baseline


def cases(records, frozen_records=()) -> list[Case]:
    """The runs of one method that did not diverge. The frozen baseline is that of a run's own seed,
    and where there is none, the mean over the baseline's seeds."""
    frozen = {r.config.seed: r.accuracy for r in frozen_records if r.accuracy is not None}
    mean = mean_sd(list(frozen.values()))[0]
    return [
        Case(r.final, r.accuracy, frozen.get(r.config.seed, mean))
        for r in records
        if r.final is not None
    ]


def verdict(records, frozen_records=()) -> Verdict:
    """The verdict on the records of one method (its seeds), by its `cases`."""
    found = [fires(*case) for case in cases(records, frozen_records)]
    return Verdict.of(found, diverged=len(records) - len(found))


def sentences(
    judged: Verdict, faults: Iterable[str | None], powerless: Collection[str] = ()
) -> list[str]:
    """For each letter that fires in most seeds: what it means, in how many, and what to withdraw.

    faults: `reference_fault` of each seed. powerless: letters that are left out.
    """
    found, out = Counter(faults), []
    letters = (*judged.fired(PUBLISHED, powerless), *judged.fired(INVARIANT, powerless))
    for k in dict.fromkeys(letters):
        fired, n = judged.counts[k]
        causes = {k: fired} if k != "b'" else {c: found[c] for c in ("twin", "rescaling")}
        for cause, count in causes.items():
            told = f"({k}) {MEANING[cause]}: {count} of {n} seeds. Withdraw: {WITHDRAW[cause]}."
            out += [told] if count else []
    return out
