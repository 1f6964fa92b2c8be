"""Means over seeds, paired comparisons, and claims decided with their uncertainty."""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats


def mean_sd(values):
    """(mean, sd with ddof=1, n) of the defined values; sd is None for fewer than two, mean None for none."""
    v = np.array([x for x in values if x is not None], dtype=float)
    sd = v.std(ddof=1).item() if len(v) > 1 else None
    return (v.mean().item(), sd, len(v)) if len(v) else (None, None, 0)


class Interval(NamedTuple):
    """Student's 95 % interval of a mean; a percentile bootstrap is far too narrow at the three seeds that are usual here."""

    n: int
    mean: float
    low: float
    high: float
    unit: str = ""  # what n counts, where it is not seeds

    def __str__(self):
        n = f"n={self.n} {self.unit}".strip()
        return f"{self.mean:.3g} ({n}, no interval)" if self.n < 2 else f"{self.mean:.3g} [{self.low:.3g}, {self.high:.3g}] ({n})"


def interval(values, unit="") -> Interval | None:
    """Interval of the mean of the defined values (one per seed, or per unit); None where there are none."""
    mean, sd, n = mean_sd(values)
    half = stats.t.ppf(0.975, n - 1) * sd / math.sqrt(n) if n > 1 else math.inf
    return Interval(n, mean, mean - half, mean + half, unit) if n else None


def paired(ours, theirs, value=lambda record: record.accuracy) -> list[float]:
    """Differences of a value of two record lists, matched by seed; a record whose value is None is left out."""
    mine, other = ({r.config.seed: v for r in records if (v := value(r)) is not None} for records in (ours, theirs))
    return [v - other[seed] for seed, v in mine.items() if seed in other]


def decide(values, above=None, below=None) -> str:
    """'holds' where the 95 % interval of the mean lies beyond the bound, 'does not hold' where it lies on the other side,
    else 'undecided'; 'not run' without values. Exactly one of above and below is given."""
    if (above is None) == (below is None):
        raise ValueError("decide needs exactly one of above and below")
    if (found := interval(values)) is None:
        return "not run"
    low, high, bound = (found.low, found.high, above) if above is not None else (-found.high, -found.low, -below)
    return "holds" if low > bound else "does not hold" if high <= bound else "undecided"


def diff_in_se(ours, ours_sd, ours_n, value, sd, n) -> float | None:
    """(ours - reference) over the standard error of that difference; an unknown sd counts as that of the other side."""
    known = [(b if a is None else a, k or 1) for a, b, k in ((ours_sd, sd, ours_n), (sd, ours_sd, n))]
    total = math.sqrt(sum((s or 0.0) ** 2 / k for s, k in known))
    return (ours - value) / total if total > 0 else None
