"""How sure a difference of accuracies is: what seeds settle, what a test set adds, what equality
takes.
"""

import math

import numpy as np
import pytest
from conftest import drawn
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from faeval_core.measure import stats
from faeval_core.measure.comparisons import (
    NOT_SETTLED,
    WORDS,
    Gap,
    accuracy_interval,
    binomial,
    settle_together,
    with_test_images,
)

ACCURACY = st.floats(0.02, 0.98)
PAIRS = st.lists(st.tuples(ACCURACY, ACCURACY), min_size=3, max_size=6).map(tuple)


def around(mean, spread, n=3, base=0.5):
    """Pairs whose differences have this mean and, but for rounding, this sd."""
    steps = np.linspace(-1, 1, n)
    steps = spread * steps / steps.std(ddof=1)
    return tuple((base + mean + step, base) for step in steps.tolist())


def test_without_a_test_set_it_is_students_interval():
    values = [0.61, 0.64, 0.66]
    wanted = scipy_stats.ttest_1samp(values, 0).confidence_interval()
    found = accuracy_interval(values, None)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))


def test_seeds_that_agree_leave_the_error_of_the_test_set():
    """Which more seeds do not make smaller, as all of them are tested on the same images."""
    half = 1.959964 * math.sqrt(0.9 * 0.1 / 400)
    for n in (3, 30):
        found = accuracy_interval([0.9] * n, 400)
        assert (found.low, found.high) == pytest.approx((0.9 - half, 0.9 + half))


def test_an_interval_of_accuracies_covers_what_it_says():
    """Over drawn seeds and drawn test sets, in about 95 of 100 cases."""
    random, truth, images = np.random.default_rng(0), 0.7, 400
    covered = 0
    for _ in range(400):
        shift = random.normal(0, math.sqrt(truth * (1 - truth) / images))  # of the test set
        values = truth + shift + random.normal(0, 0.02, size=4)
        found = accuracy_interval(values.tolist(), images)
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / 400 <= 0.99


@drawn(60)
@given(PAIRS, st.integers(50, 5000))
def test_a_test_set_only_widens_an_interval_and_the_more_the_smaller_it_is(pairs, images):
    bare, small, large = (Gap(pairs, n).estimate for n in (None, images, 4 * images))
    assert bare.se < large.se < small.se
    assert small.df >= large.df >= bare.df - 1e-9


@drawn(60)
@given(st.lists(st.tuples(ACCURACY, ACCURACY), min_size=1, max_size=2).map(tuple))
def test_two_seeds_settle_nothing(pairs):
    gap = Gap(pairs, 10**6)
    assert gap.word() == NOT_SETTLED and gap.p() == 1.0
    assert gap.effect is None and gap.detectable is None
    assert "not settled by" in gap.told(gap.word(), gap.p())


@pytest.mark.parametrize(
    "mean, spread, word",
    [
        (0.10, 0.001, "ahead"),
        (-0.10, 0.001, "behind"),
        (0.002, 0.0005, "ahead, within the margin"),
        (-0.002, 0.0005, "behind, within the margin"),
        (0.0005, 0.002, "within"),
        (0.0, 0.02, NOT_SETTLED),
        (0.05, 0.05, NOT_SETTLED),
        (0.012, 0.001, "ahead"),
    ],
)
def test_equal_to_within_a_margin_is_another_answer_than_not_settled(mean, spread, word):
    assert Gap(around(mean, spread)).word() == word


@drawn(80)
@given(PAIRS, st.none() | st.integers(100, 10000), st.floats(0.001, 0.2))
def test_a_word_is_said_where_its_p_allows_it(pairs, images, within):
    """The p of a comparison alone is at most 5 % exactly where a word is said of it."""
    gap = Gap(pairs, images, within)
    assume(abs(gap.p() - stats.ALPHA) > 1e-6)
    assert (gap.word() in WORDS) == (gap.p() <= stats.ALPHA)


@drawn(40)
@given(PAIRS, st.integers(200, 5000))
def test_as_many_seeds_as_are_asked_for_settle_it(pairs, images):
    """If mean and sd stay what they are; one seed fewer does not."""
    gap = Gap(pairs, images)
    mean, sd, _ = stats.mean_sd(gap.differences)
    needed = gap.seeds_needed
    assume(needed and needed > 3 and sd > 1e-6)

    def settles(n):
        wide = with_test_images(around_values(mean, sd, n), gap.test_variance).interval()
        inside = -gap.within < wide.low and wide.high < gap.within
        return wide.low > 0 or wide.high < 0 or inside

    assert settles(needed) and not settles(needed - 1)


def around_values(mean, sd, n):
    return [ours - theirs for ours, theirs in around(mean, sd, n)]


def test_a_test_set_can_be_too_small_for_any_number_of_seeds():
    gap = Gap(around(0.005, 0.01), 300)
    assert gap.seeds_needed is None
    assert "nor by more of them, on a test set of 300 images" in gap.told(gap.word(), gap.p())
    assert Gap(around(0.005, 0.01), 10**6).seeds_needed > 3


def test_the_difference_that_is_detectable_is_found_in_four_of_five_cases():
    random, n, sd = np.random.default_rng(1), 5, 0.02
    found = 0
    size = np.mean([Gap(around(0.0, sd, n)).detectable for _ in range(1)])
    for _ in range(600):
        draws = random.normal(size, sd, size=n)
        found += Gap(tuple((0.5 + d, 0.5) for d in draws.tolist())).interval.low > 0
    assert 0.72 <= found / 600 <= 0.9


def test_comparisons_are_settled_as_one_family():
    """What one alone would settle is open among ten of them."""
    weak, none = Gap(around(0.05, 0.02)), Gap(around(0.0, 0.02))
    assert weak.word() == "ahead"
    alone, together = settle_together([weak]), settle_together([weak, *[none] * 9])
    assert alone[0][0] == "ahead" and together[0][0] == NOT_SETTLED
    assert together[0][1] == pytest.approx(10 * weak.p())


def test_the_variance_of_an_accuracy_is_binomial():
    assert binomial(0.9, 400) == pytest.approx(0.9 * 0.1 / 400) and binomial(0.9, None) == 0
