"""Measurements to fired diagnostics to verdict: the protocol as published, and its scale-invariant counterpart.

Published (SCIENCE section 4): (a) growth > 50, (b) ‖g_L‖ < 1e-7, (c) stability > 0.30, (d) accuracy less the frozen
baseline < 2.0 points. Growth, stability and accuracy do not change when the residual stream is rescaled without changing
the function; ‖g_L‖ does. Its counterpart (b') asks what (b) is meant to ask: is the reference gradient numerically valid?
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import fmean

THRESHOLDS = {"a": 50.0, "b": 1e-7, "c": 0.30, "d": 0.02}
TWIN_FLOOR = 0.99  # (b'): cosine of the fp32 gradient with its fp64 twin, at every level
RESCALE_DRIFT = 0.01  # (b'): change of exact Γ_l under function-preserving rescaling of the stream

MEANING = {
    "a": "growth: the scale of the residual stream runs away",
    "b": "floor: ‖g_L‖ is below the published floor of 1e-7",
    "b'": "reference: the gradient fails its fp64 twin, or Γ moves under function-preserving rescaling",
    "c": "stability: the gradient direction is shared across batches",
    "d": "depth: accuracy is less than 2 points above the frozen baseline",
}
WITHDRAW = {
    "a": "comparisons of norms or of unnormalised credit across levels or methods",
    "b": "alignment figures taken with an eps-clamped cosine (exact cosines stand where b' is silent)",
    "b'": "every alignment figure of this net: its reference is not valid",
    "c": "that alignment on a batch says anything about single samples",
    "d": "that the method trains the hidden blocks to any use",
}
PUBLISHED, INVARIANT = ("a", "b", "c", "d"), ("a", "b'", "c", "d")


def deep_cos(diagnosis: dict) -> dict:
    """Deep cosines of one diagnosis, each a mean of Γ over levels (None where one of them is undefined).

    hidden: levels 1..L-1, exact. with_top: levels 1..L, exact; the top credit of FA is exact by construction.
    published: blocks 1..L-1 in the study's reading (a_{l+1} against g_l, so the top credit enters) and its clamped cosine.
    published_exact: the same reading with the exact cosine.
    """
    gamma, block, clamped = (diagnosis[k] for k in ("gamma", "gamma_block", "gamma_block_clamped"))
    parts = {"hidden": gamma[1:-1], "with_top": gamma[1:], "published": clamped[1:], "published_exact": block[1:]}
    return {k: None if None in v or not v else fmean(v) for k, v in parts.items()}


def reference_valid(diagnosis: dict) -> bool | None:
    """(b') does not fire: fp32 agrees with fp64 at every level, and exact Γ survives every rescaling. None: undefined."""
    if None in diagnosis["twin"] or None in diagnosis["gamma"]:
        return None
    if min(diagnosis["twin"]) < TWIN_FLOOR:
        return False
    moved = diagnosis["rescaled"]["gamma"]
    if None in moved:
        return None
    return max(abs(a - b) for a, b in zip(diagnosis["gamma"], moved)) <= RESCALE_DRIFT


def fires(diagnosis: dict, accuracy: float | None = None, frozen: float | None = None) -> dict[str, bool | None]:
    """Which of a, b, b', c, d fire on one diagnosis; None where the quantity is undefined or no baseline is given."""
    valid = reference_valid(diagnosis)
    top = diagnosis["g_norm"][-1]
    found = {
        "a": None if diagnosis["growth"] is None else diagnosis["growth"] > THRESHOLDS["a"],
        "b": None if top is None else top < THRESHOLDS["b"],
        "b'": None if valid is None else not valid,
        "c": None if diagnosis["stability"] is None else diagnosis["stability"] > THRESHOLDS["c"],
        "d": None,
    }
    if accuracy is not None and frozen is not None:
        found["d"] = accuracy - frozen < THRESHOLDS["d"]
    return found


def first_fire(record, letter: str) -> int | None:
    """First epoch after which (a) or (b) fires, from the per-epoch curves; None if it never does."""
    curve = record.curves["growth"] if letter == "a" else [g[-1] for g in record.curves["g_norm"]]
    for epoch, value in enumerate(curve, start=1):
        if value is not None and (value > THRESHOLDS["a"] if letter == "a" else value < THRESHOLDS["b"]):
            return epoch
    return None


@dataclass
class Verdict:
    """What fired over the seeds of one method: `counts[letter]` = (fired, defined) seeds; a letter fires where it does so
    in more than half of the seeds in which it is defined."""

    counts: dict
    runs: int
    diverged: int = 0
    undefined: list = field(default_factory=list)

    def fired(self, letters=PUBLISHED) -> list[str]:
        return [k for k in letters if 2 * self.counts[k][0] > self.counts[k][1]]

    def text(self, letters=PUBLISHED) -> str:
        if self.runs == 0:
            return "not run"
        if self.diverged == self.runs:
            return "diverged"
        fired = self.fired(letters)
        gaps = [k for k in letters if k in self.undefined]
        told = "trustworthy" if not fired else "fires " + ", ".join(f"({k})" for k in fired)
        return told + (f"; undefined: {', '.join(f'({k})' for k in gaps)}" if gaps else "")

    def withdraw(self, letters=PUBLISHED) -> list[str]:
        return [WITHDRAW[k] for k in self.fired(letters)]


def verdict(records, frozen_records=()) -> Verdict:
    """The verdict on the records of one method (its seeds), against the mean accuracy of the frozen baseline's records."""
    baseline = [r.accuracy for r in frozen_records if r.accuracy is not None]
    frozen = fmean(baseline) if baseline else None
    done = [r for r in records if r.final is not None]
    counts = {k: [0, 0] for k in MEANING}
    for r in done:
        for k, value in fires(r.final, r.accuracy, frozen).items():
            if value is not None:
                counts[k][0] += value
                counts[k][1] += 1
    undefined = [k for k, (_, n) in counts.items() if n == 0]
    return Verdict({k: tuple(v) for k, v in counts.items()}, len(records), len(records) - len(done), undefined)
