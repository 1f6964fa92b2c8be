"""Accuracies set beside each other: how sure a difference is, of seeds and of test images, and how
many seeds would make it so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from scipy import stats as scipy_stats

from .stats import ALPHA, Estimate, Interval, holm, mean_sd

WITHIN = 0.01  # accuracies that differ by less are as good as equal
POWER = 0.8  # with which a difference is to be found
LEAST_SEEDS = 3  # fewer settle nothing: the sd of two is a matter of luck
MOST_SEEDS = 1000
LEAST_P = 0.0001  # that is told
WORDS = ("ahead", "behind", "ahead, within the margin", "behind, within the margin", "within")
NOT_SETTLED = "not settled"


def with_test_images(values: Sequence[float], test_variance: float) -> Estimate | None:
    """Mean of one value per seed, with the variance that the choice of test images adds, which is
    the same for all seeds.
    """
    mean, sd, n = mean_sd(values)
    if not n:
        return None
    se, df = error_and_freedom(sd or 0.0, n, test_variance)
    return Estimate(n, mean, se, max(df, 1))


def error_and_freedom(sd: float, n: int, test_variance: float) -> tuple[float, float]:
    """(standard error, Welch and Satterthwaite's degrees of freedom) of a mean over n seeds."""
    of_seeds = sd**2 / n
    total = of_seeds + test_variance
    df = (n - 1) * (total / of_seeds) ** 2 if of_seeds else math.inf
    return math.sqrt(total), df


def binomial(accuracy: float, images: int | None) -> float:
    """Variance of an accuracy over test sets of so many images; 0 where their number is not
    known.
    """
    return accuracy * (1 - accuracy) / images if images else 0.0


def accuracy_interval(values: Sequence[float], images: int | None) -> Interval | None:
    """95 % interval of an accuracy over seeds and test sets; None without values."""
    mean, _, n = mean_sd(values)
    found = with_test_images(values, binomial(mean, images)) if n else None
    return None if found is None else found.interval()


@dataclass(frozen=True)
class Gap:
    """Accuracy of one method less another's, paired by seed.

    pairs: (ours, theirs) of each seed. images: of the test set, None where that is not known, and
    the interval then is of the seeds alone. The two are taken to err on test images independently,
    which makes the interval wider than it is where they err on the same ones. within: the margin
    inside which they are as good as equal.
    """

    pairs: tuple[tuple[float, float], ...]
    images: int | None = None
    within: float = WITHIN

    @property
    def differences(self) -> list[float]:
        return [ours - theirs for ours, theirs in self.pairs]

    @property
    def test_variance(self) -> float:
        ours, theirs = (mean_sd(side)[0] for side in zip(*self.pairs))
        return binomial(ours, self.images) + binomial(theirs, self.images)

    @property
    def estimate(self) -> Estimate:
        return with_test_images(self.differences, self.test_variance)

    @property
    def interval(self) -> Interval:
        return self.estimate.interval()

    def word(self, level: float = ALPHA) -> str:
        """What the two-sided interval at 1 - level says: one of WORDS, or NOT_SETTLED."""
        if len(self.pairs) < LEAST_SEEDS:
            return NOT_SETTLED
        found = self.estimate.interval(1 - level)
        side = "ahead" if found.low > 0 else "behind" if found.high < 0 else ""
        is_small = -self.within < found.low and found.high < self.within
        if side:
            return f"{side}, within the margin" if is_small else side
        return "within" if is_small else NOT_SETTLED

    def p(self) -> float:
        """Two-sided p of the word that is easiest to say: that they differ, or that they do so by
        less than the margin.
        """
        if len(self.pairs) < LEAST_SEEDS:
            return 1.0
        found = self.estimate
        above = found.p_above(0.0)
        not_below = found.p_above(-self.within)
        not_above = 1 - found.p_above(self.within)
        return min(1.0, 2 * min(above, 1 - above, max(not_below, not_above)))

    @property
    def effect(self) -> float | None:
        """The difference in sds over seeds (Hedges' g of pairs); None where there is none."""
        mean, sd, n = mean_sd(self.differences)
        return mean / sd * (1 - 3 / (4 * (n - 1) - 1)) if sd and n >= LEAST_SEEDS else None

    @property
    def detectable(self) -> float | None:
        """The difference that as many seeds find with a power of 80 %; None below three."""
        if len(self.pairs) < LEAST_SEEDS:
            return None
        found = self.estimate
        both = sum(scipy_stats.t.ppf(q, found.df) for q in (1 - ALPHA / 2, POWER))
        return float(both * found.se)

    @property
    def seeds_needed(self) -> int | None:
        """How many seeds would settle it, if mean and sd stay what they are; None where no number
        does, as the test set is too small, or there are too few seeds to have an sd.
        """
        mean, sd, n = mean_sd(self.differences)
        if sd is None:
            return None
        room = max(abs(mean), self.within - abs(mean))
        if NormalDist().inv_cdf(1 - ALPHA / 2) * math.sqrt(self.test_variance) >= room:
            return None
        sizes = range(LEAST_SEEDS, MOST_SEEDS + 1)
        return next((k for k in sizes if self._half_width(sd, k) < room), None)

    def _half_width(self, sd: float, n: int) -> float:
        se, df = error_and_freedom(sd, n, self.test_variance)
        return float(scipy_stats.t.isf(ALPHA / 2, df) * se)

    def told(self, word: str, p: float) -> str:
        """The comparison in words: difference, interval, effect, what is settled, and what it would
        take.
        """
        found, margin = self.interval, f"{100 * self.within:g} points"
        said = {
            "within": f"equal to within {margin}",
            "ahead, within the margin": f"ahead, by less than {margin}",
            "behind, within the margin": f"behind, by less than {margin}",
            NOT_SETTLED: f"not settled by {self._count()}",
        }.get(word, word)
        details = []
        if word != NOT_SETTLED:
            details.append(f"p = {p:.2g}" if p >= LEAST_P else f"p < {LEAST_P}")
        if self.effect is not None:
            details.append(f"g = {self.effect:.1f}")
        out = f"{found}: {said}" + (f" ({'; '.join(details)})" if details else "")
        return out + (f"; {self._way_out()}" if word == NOT_SETTLED else "")

    def _count(self) -> str:
        n = len(self.pairs)
        return f"{n} seed" + "s" * (n > 1)

    def _way_out(self) -> str:
        if len(self.pairs) < 2:
            return f"give {LEAST_SEEDS} or more"
        needed = self.seeds_needed
        if needed is None:
            return f"nor by more of them, on a test set of {self.images or 'this number of'} images"
        if needed <= len(self.pairs):
            return f"a single comparison would be, among {LEAST_SEEDS} or more seeds"
        shortest = self.detectable
        power = f"they find a difference of {shortest:.3f} in 80 % of cases, " if shortest else ""
        return f"{power}and about {needed} would settle this one"


def paired_gap(ours, theirs, images: int | None = None, within: float = WITHIN) -> Gap | None:
    """The Gap of two lists of records, matched by seed; None where no seed has both accuracies."""
    other = {r.config.seed: r.accuracy for r in theirs if r.accuracy is not None}
    found = [
        (r.accuracy, other[r.config.seed])
        for r in ours
        if r.accuracy is not None and r.config.seed in other
    ]
    return Gap(tuple(found), images, within) if found else None


def settle_together(gaps: Sequence[Gap]) -> list[tuple[str, float]]:
    """(word, Holm's p) of each of a family of comparisons, of which all words together err in at
    most 5 % of cases.
    """
    levels, adjusted = holm([gap.p() for gap in gaps])
    return [(gap.word(level), p) for gap, level, p in zip(gaps, levels, adjusted)]
