"""Means over seeds, paired comparisons, and claims decided with their uncertainty."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

ALPHA = 0.05  # how often an interval, or one of a family of claims, may mislead
# what can become of a claim
WORDS = ("holds", "in sign only", "does not hold", "undecided", "not run")


def mean_sd(values):
    """(mean, sd with ddof=1, n) of the defined values; sd is None for fewer than two, mean None for
    none.
    """
    v = np.array([x for x in values if x is not None], dtype=float)
    sd = v.std(ddof=1).item() if len(v) > 1 else None
    return (v.mean().item(), sd, len(v)) if len(v) else (None, None, 0)


class Interval(NamedTuple):
    """Interval of an estimate, by default Student's at 95 %; a percentile bootstrap is far too
    narrow at three seeds.
    """

    n: int
    mean: float
    low: float
    high: float
    unit: str = ""  # what n counts, where it is not seeds
    # the one thing that all of them are parts of: then they tell nothing about another one
    of: str = ""

    def __str__(self):
        n = f"n=1 {self.of}, {self.n} {self.unit}" if self.of else f"n={self.n} {self.unit}".strip()
        if self.n < 2:
            return f"{self.mean:.3g} ({n}, no interval)"
        return f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}] ({n})"


@dataclass(frozen=True)
class Estimate:
    """A figure with its standard error: a mean (Student's t), or a rank correlation (normal on the
    arctanh scale).

    se and df are those of the scale on which the error is symmetric; n, unit and of are as in
    `Interval`.
    """

    n: int
    value: float
    se: float
    df: float
    unit: str = ""
    of: str = ""
    correlation: bool = False

    def interval(self, confidence=1 - ALPHA) -> Interval:
        """Two-sided; unbounded where n is 1."""
        if self.n < 2:
            return Interval(self.n, self.value, -math.inf, math.inf, self.unit, self.of)
        half = stats.t.isf((1 - confidence) / 2, self.df) * self.se
        ends = [self._scaled(self.value) + side * half for side in (-1, 1)]
        low, high = np.tanh(ends).tolist() if self.correlation else ends
        return Interval(self.n, self.value, low, high, self.unit, self.of)

    def p_above(self, bound) -> float:
        """One-sided p of the hypothesis that the true value is not above `bound`; 1 where n is
        1.
        """
        off = self._scaled(self.value) - self._scaled(bound)
        if self.n < 2 or not self.se:
            return float(self.n < 2 or off <= 0)
        return stats.t.sf(off / self.se, self.df).item()

    def _scaled(self, value):
        return math.atanh(value) if self.correlation else value


def mean(values, unit="", of="") -> Estimate | None:
    """Mean of the defined values (one per seed, or per unit), None where there are none."""
    found, sd, n = mean_sd(values)
    return Estimate(n, found, (sd or 0.0) / math.sqrt(n), max(n - 1, 1), unit, of) if n else None


def rank_correlation(x, y, unit="") -> Estimate | None:
    """Spearman's, with Fisher's standard error 1.06 / sqrt(n - 3); None for fewer than four pairs
    or a constant side.
    """
    if len(x) < 4 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    # a perfect one has no interval
    value = np.clip(stats.spearmanr(x, y).statistic, -0.999, 0.999).item()
    return Estimate(len(x), value, 1.06 / math.sqrt(len(x) - 3), math.inf, unit, correlation=True)


def interval(values, unit="", of="") -> Interval | None:
    """95 % interval of the mean of the defined values (one per seed, or per unit); None where there
    are none.
    """
    found = mean(values, unit, of)
    return found.interval() if found else None


def paired(ours, theirs, value=lambda record: record.accuracy) -> list[float]:
    """Differences of a value of two record lists, matched by seed; a record whose value is None is
    left out.
    """
    mine, other = (
        {r.config.seed: v for r in records if (v := value(r)) is not None}
        for records in (ours, theirs)
    )
    return [v - other[seed] for seed, v in mine.items() if seed in other]


# -- claims


@dataclass(frozen=True)
class Bound:
    """What a claim says: its figure is above (or below) `at`, by more than `smallest`, the least
    effect that matters.
    """

    at: float
    smallest: float
    is_above: bool

    @classmethod
    def of(cls, above=None, below=None, smallest=0.0) -> "Bound":
        """From the arguments of `decide`; exactly one of above and below is given, smallest is not
        negative.
        """
        if (above is None) == (below is None):
            raise ValueError("a claim needs exactly one of above and below")
        if smallest < 0:
            raise ValueError(f"the smallest effect of interest is a size, not {smallest}")
        return cls(below if above is None else above, smallest, above is not None)

    def decide(self, found: Estimate | None, confidence=1 - ALPHA) -> str:
        """See `decide`."""
        if found is None:
            return "not run"
        _, _, low, high, *_ = found.interval(confidence)
        low, high, at = (low, high, self.at) if self.is_above else (-high, -low, -self.at)
        if low > at:
            return "holds" if low > at + self.smallest else "in sign only"
        return "does not hold" if high <= at + self.smallest else "undecided"

    def ps(self, found: Estimate) -> dict[str, float]:
        """Two-sided p of each word that says more than 'undecided'."""
        side = 1 if self.is_above else -1

        def beyond(bound, sign):
            above = found.p_above(bound)
            return min(1.0, 2 * (above if sign == 1 else 1 - above))

        enough = self.at + side * self.smallest
        return {
            "in sign only": beyond(self.at, side),
            "does not hold": beyond(enough, -side),
            "holds": beyond(enough, side),
        }


def decide(values, above=None, below=None, smallest=0.0) -> str:
    """What the 95 % interval of the mean of `values` says of the claim that it is above (or below)
    a bound.

    'holds': the interval lies beyond the bound by more than `smallest`; 'in sign only': beyond the
    bound, not by so much; 'does not hold': it does not reach so far; else 'undecided'; 'not run'
    without values.
    """
    return Bound.of(above, below, smallest).decide(mean(values))


def holm(ps, alpha=ALPHA) -> tuple[list[float], list[float]]:
    """(levels, adjusted p) by Holm's method, of which all decisions together err in at most a share
    `alpha` of cases.

    A test is decided where its p is at most its level, which is where its adjusted p is at most
    alpha. Tests behind the first that is not decided share its level.
    """
    levels, adjusted, worst = [0.0] * len(ps), [0.0] * len(ps), 0.0
    going, level = True, alpha
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        left = len(ps) - rank
        level = alpha / left if going else level
        going = going and ps[i] <= level
        worst = max(worst, min(1.0, left * ps[i]))
        levels[i], adjusted[i] = level, worst
    return levels, adjusted


def decide_together(claims) -> list[tuple[str, float | None]]:
    """(word of `decide`, Holm's p of that word) for each of a family of (Bound, Estimate or None).

    A claim takes its place in the family by the word that is easiest to say of it. p is None where
    nothing can be tested.
    """
    tested = {
        i: bound.ps(found)
        for i, (bound, found) in enumerate(claims)
        if found is not None and found.n > 1
    }
    levels, adjusted = holm([min(ps.values()) for ps in tested.values()])
    known = {}
    for (i, ps), level, least in zip(tested.items(), levels, adjusted):
        word = claims[i][0].decide(claims[i][1], 1 - level)
        known[i] = word, max(least, min(1.0, ps.get(word, 0.0) * ALPHA / level))
    return [known.get(i, (bound.decide(found), None)) for i, (bound, found) in enumerate(claims)]


def _errors(ours_sd, ours_n, sd, n) -> tuple[float, float]:
    """Standard errors of two means; an unknown sd counts as that of the other side, an unknown n as
    1.
    """
    known = (sd if ours_sd is None else ours_sd, ours_n), (ours_sd if sd is None else sd, n)
    first, second = ((s or 0.0) / math.sqrt(k or 1) for s, k in known)
    return first, second


def diff_in_se(ours, ours_sd, ours_n, value, sd, n) -> float | None:
    """(ours - reference) over the standard error of that difference; an unknown sd counts as that
    of the other side.
    """
    total = math.hypot(*_errors(ours_sd, ours_n, sd, n))
    return (ours - value) / total if total > 0 else None


def ours_in_se(ours_sd, ours_n, sd, n) -> float:
    """The part of that standard error which our seeds make: all of it where the reference has no sd
    of its own.
    """
    first, second = _errors(ours_sd, ours_n, sd, n)
    return math.hypot(first, second) if sd is None else first
