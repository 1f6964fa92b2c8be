"""From measurements to what a reader is told: thresholds, verdicts, intervals, the comparison with
the reference, LaTeX.
"""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import tiny
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matplotlib import pyplot as plt
from scipy import stats as scipy_stats

from faeval_core.ground import files
from faeval_core.measure import protocol, stats
from faeval_core.report import figures, latex, readme, reference, tables
from faeval_core.report.audit import Audit
from faeval_core.report.study import Study
from faeval_core.runs.store import RunRecord

# the same cases everywhere, however slow the machine
DRAWN = settings(deadline=None, derandomize=True, max_examples=60)


def diagnosis(rescaled=None, **changes):
    """A sound one of a net with three blocks, but for the changes; rescaling divides its gradients
    by 1e5.
    """
    sound = {
        "growth": 2.0,
        "g_norm": [1e-3] * 4,
        "stability": 0.1,
        "twin": [1.0] * 4,
        "gamma": [0.5, 0.4, 0.2, 1.0],
        "gamma_copied": [0.1, 0.1, 0.1, 1.0],
        "gamma_block": [0.1, 0.2, 0.3],
        "gamma_block_clamped": [0.0, 0.1, 0.2],
        "rho": [0.5] * 4,
        "h_norm": [1.0] * 4,
        "sensitivity": [1.0] * 4,
    } | changes
    moved = {
        "factor": 1e5,
        "gamma": [0.5, 0.4, 0.2, 1.0],
        "g_norm": [g / 1e5 for g in sound["g_norm"]],
    }
    return sound | {"rescaled": moved | (rescaled or {})}


def record(accuracy=0.5, seed=1, growth=(1.0, 2.0), g_norm=(1e-3, 1e-3), **changes):
    cfg = tiny("dfa", epochs=2, seed=seed)
    curves = {
        "test_acc": [0.1, accuracy],
        "growth": list(growth),
        "g_norm": [[1.0, g] for g in g_norm],
    }
    return RunRecord(cfg, "complete", curves, {"2": diagnosis(**changes)}, None, {})


@pytest.mark.parametrize(
    "changes, letter, fired",
    [
        ({"growth": 50.0}, "a", False),
        ({"growth": 50.1}, "a", True),
        ({"growth": None}, "a", None),
        ({"g_norm": [0.0, 0.0, 0.0, 1e-7]}, "b", False),
        ({"g_norm": [1.0, 1.0, 1.0, 9e-8]}, "b", True),
        ({"stability": 0.3}, "c", False),
        ({"stability": 0.31}, "c", True),
        ({"twin": [1.0, 0.98, 1.0, 1.0]}, "b'", True),
        ({"twin": [1.0, None, 1.0, 1.0]}, "b'", None),
        ({"rescaled": {"gamma": [0.5, 0.42, 0.2, 1.0]}}, "b'", True),
        ({"rescaled": {"gamma": [0.5, None, 0.2, 1.0]}}, "b'", None),
        ({"twin": [0.9, None, 1.0, 1.0]}, "b'", True),
        ({"gamma": [None, 0.5, 0.2, 1.0]}, "b'", None),
        ({"rescaled": {"gamma": [0.5, 0.409, 0.2, 1.0]}}, "b'", False),
        ({"rescaled": {"g_norm": [1e-3] * 4}}, "b'", None),
        ({"rescaled": {"g_norm": [1e-8, 1e-3, 1e-8, 1e-8]}}, "b'", None),
        ({"twin": [0.9] * 4, "rescaled": {"g_norm": [1e-3] * 4}}, "b'", True),
        ({"g_norm": [0.0, 1e-3, 1e-3, 1e-3]}, "b'", False),
        ({"rescaled": {"gamma": [0.1] * 4, "repeatable": False}}, "b'", None),
        ({"gamma_copied": [0.0, 0.2, 0.2, 1.0]}, "e", False),
        ({"gamma_copied": [0.0, 0.3, 0.2, 1.0]}, "e", True),
        ({"gamma_copied": [0.0, 0.9, 0.9, 1.0]}, "e", True),
        ({"gamma": [0.1, 0.99, 0.99, 1.0], "gamma_copied": [0.1, 0.99, 0.98, 1.0]}, "e", None),
        ({"gamma": [0.1, 0.9, 0.9, 1.0], "gamma_copied": [0.1, 0.99, 0.99, 1.0]}, "e", True),
        ({"gamma": [None, 0.4, 0.2, None]}, "e", False),
        ({"gamma_copied": [0.1, None, 0.1, 1.0]}, "e", None),
        ({"gamma": [0.5, 1.0], "gamma_copied": [0.1, 1.0]}, "e", None),
    ],
)
def test_each_diagnostic_fires_beyond_its_published_threshold(changes, letter, fired):
    assert protocol.fires(diagnosis(**changes))[letter] is fired


def test_what_is_not_measured_is_undefined_with_its_reason():
    """Every letter of every diagnosis is True, False, or undefined with a reason that names it."""
    sound = diagnosis()
    assert protocol.undefined(sound, 0.5, 0.3) == {}
    hang_on = {"growth": "a", "g_norm": ("b", "b'"), "stability": "c"}
    hang_on |= dict.fromkeys(("twin", "rescaled"), ("b'",))
    hang_on |= {"gamma": ("b'", "e"), "gamma_copied": ("e",)}
    for key, letters in hang_on.items():
        without = {k: v for k, v in sound.items() if k != key}
        why = protocol.undefined(without, 0.5, 0.3)
        assert why == dict.fromkeys(letters, f"no `{key}` was measured")
        told = without | {"undefined": {key: "a state is zero"}}
        assert protocol.undefined(told, 0.5, 0.3) == dict.fromkeys(letters, "a state is zero")
    assert set(protocol.undefined({})) == set(protocol.ALL)
    assert protocol.undefined(sound) == {"d": "no accuracy is given"}
    assert "frozen" in protocol.undefined(sound, 0.5)["d"]
    for changes in (
        {"rescaled": {"g_norm": [1e-3] * 4}},
        {"rescaled": {"repeatable": False}},
        {"rescaled": {"gamma": [None] * 4}},
        {"gamma": [None, 0.5, 0.2, 1.0]},
    ):
        (why,) = protocol.undefined(diagnosis(**changes), 0.5, 0.3).items()
        assert why[0] == "b'" and why[1]


def test_depth_is_used_from_two_points_above_the_frozen_baseline():
    found = [protocol.fires(diagnosis(), accuracy, 0.25)["d"] for accuracy in (0.269, 0.2701, None)]
    assert found == [True, False, None] and protocol.fires(diagnosis(), 0.5)["d"] is None


def test_deep_cosines_are_means_over_the_levels_they_name():
    found = protocol.deep_cos(diagnosis())
    assert found == pytest.approx(
        {"hidden": 0.3, "with_top": 1.6 / 3, "published": 0.15, "published_exact": 0.25}
    )
    assert protocol.deep_cos(diagnosis(gamma=[1.0, None, 1.0, 1.0]))["hidden"] is None


def test_the_lead_over_a_copy_is_taken_at_the_hidden_levels_of_one_net():
    assert protocol.over_copy(diagnosis(gamma_copied=[0.9, 0.6, 0.1, 1.0])) == pytest.approx(
        (0.4 - 0.6 + 0.2 - 0.1) / 2
    )
    assert (
        protocol.over_copy(diagnosis(gamma_copied=[0.9, None, 0.1, 1.0])) is None
        and protocol.over_copy(diagnosis(gamma_copied=None) | {"gamma_copied": ()}) is None
    )


def test_a_verdict_is_the_majority_of_the_seeds_in_which_it_is_defined():
    judged = protocol.verdict(
        [record(growth=(1, 2), **{"stability": c}) for c in (0.5, 0.5, 0.1)], [record(0.2)]
    )
    assert (
        judged.counts["c"] == (2, 3)
        and judged.text() == "fires (c)"
        and judged.withdraw() == [protocol.WITHDRAW["c"]]
    )
    judged = protocol.verdict([record(stability=c) for c in (0.5, None, None, 0.1)], [record(0.2)])
    assert judged.counts["c"] == (1, 2) and judged.text() == "trustworthy"
    assert protocol.verdict([record()]).text() == "none of (a), (b), (c) fires; undefined: (d)"
    assert protocol.verdict([record(stability=0.5)]).text() == "fires (c); undefined: (d)"
    assert protocol.verdict([]).text() == "not run"
    gone = RunRecord(tiny("dfa"), "diverged", {}, {}, {"step": 3, "quantity": "train_loss"}, {})
    assert (
        protocol.verdict([gone]).text() == "diverged"
        and protocol.verdict([gone, record()]).diverged == 1
    )
    assert (
        protocol.verdict([gone, record()], [record(0.2)]).text()
        == "none of (a), (b), (c), (d) fires; diverged: 1 of 2 seeds"
    )


def test_depth_is_judged_against_the_frozen_net_of_the_same_seed():
    frozen = [record(0.3, seed=1), record(0.5, seed=2)]
    assert protocol.verdict(frozen, frozen).counts["d"] == (2, 2)
    assert protocol.verdict(
        [record(0.45, seed=1), record(0.45, seed=2), record(0.45, seed=3)], frozen
    ).counts["d"] == (1, 3)


def test_the_reference_is_at_fault_by_itself_or_by_its_scale():
    faults = [
        {},
        {"twin": [0.9] * 4},
        {"rescaled": {"gamma": [0.1] * 4}},
        {"twin": [1.0, None, 1.0, 1.0]},
    ]
    assert [protocol.reference_fault(diagnosis(**f)) for f in faults] == [
        "",
        "twin",
        "rescaling",
        None,
    ]
    records = [
        record(seed=seed, stability=0.5 * (seed == 1), **f)
        for seed, f in enumerate((*faults[1:3], {}), 1)
    ]
    told = "\n".join(Audit(records[0].config, {"dfa": records, "frozen": [record(0.2)]}).lines)
    for cause in ("twin", "rescaling"):
        assert (
            f"(b') {protocol.MEANING[cause]}: 1 of 3 seeds. Withdraw: {protocol.WITHDRAW[cause]}."
            in told
        )
    assert "In some seeds, but not in most: (c) in 1 of 3." in told


def test_first_fire_is_the_first_epoch_on_the_curve():
    found = record(growth=(51.0, 49.0), g_norm=(1e-6, 1e-8))
    assert (protocol.first_fire(found, "a"), protocol.first_fire(found, "b")) == (1, 2)
    assert protocol.first_fire(record(), "a") is None
    assert protocol.beyond(found, "a") == pytest.approx(math.log10(51 / 50)) and protocol.beyond(
        found, "b"
    ) == pytest.approx(1)
    assert protocol.beyond(record(), "a") < 0 and protocol.beyond(
        record(g_norm=(1e-6, 0.0)), "b"
    ) == pytest.approx(38)


def test_intervals_are_students_and_sd_has_n_minus_one():
    values = [0.31, 0.35, 0.30, None]
    assert stats.mean_sd(values) == pytest.approx(
        (0.32, math.sqrt((0.01**2 + 0.03**2 + 0.02**2) / 2), 3)
    )
    found, wanted = (
        stats.interval(values),
        scipy_stats.ttest_1samp(values[:3], 0).confidence_interval(),
    )
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert stats.mean_sd([]) == (None, None, 0) and stats.interval([None]) is None


@pytest.mark.parametrize(
    "values, bound, decided",
    [
        ([1.0, 1.1, 0.9], {"above": 0}, "holds"),
        ([1.0, 1.1, 0.9], {"below": 0}, "does not hold"),
        ([], {"above": 0}, "not run"),
        ([1.0, -1.0, 0.5], {"above": 0}, "undecided"),
        ([5.0], {"above": 0}, "undecided"),
        ([-2.0, -2.1], {"below": -1}, "holds"),
        # a log ratio that nobody would see
        ([-0.0030, -0.0032, -0.0034], {"below": 0, "smallest": 0.1}, "in sign only"),
        ([0.25, 0.2, 0.3], {"above": 0, "smallest": 0.2}, "in sign only"),
        ([0.25, 0.2, 0.3], {"above": 0, "smallest": 0.1}, "holds"),
        ([0.02, -0.02, 0.0], {"above": 0, "smallest": 0.1}, "does not hold"),
        ([0.25] * 3, {"above": 0.25}, "does not hold"),
        ([0.02, -0.02, 0.0], {"below": 0, "smallest": 0.1}, "does not hold"),
        ([0.1] * 3, {"below": 0.2}, "holds"),
    ],
)
def test_a_claim_is_decided_by_its_interval_and_the_smallest_effect_of_interest(
    values, bound, decided
):
    assert stats.decide(values, **bound) == decided


def test_bounds_that_say_nothing_are_refused(tmp_path):
    for bound in ({}, {"above": 0, "below": 1}, {"above": 0, "smallest": -0.1}):
        with pytest.raises(ValueError, match="exactly one of above and below|is a size"):
            stats.decide([1.0], **bound)
    study = Study("03_x", "x", tmp_path, tmp_path)
    with pytest.raises(ValueError, match="claim 'more': a claim against 0 needs the smallest"):
        study.claim("more", "more", [1.0], above=0)


SEEDS = st.lists(st.floats(-10, 10, allow_subnormal=False), min_size=2, max_size=6)
SIDES = st.sampled_from(["above", "below"])
BOUNDS = st.tuples(
    SIDES, st.floats(-5, 5, allow_subnormal=False), st.floats(0, 3, allow_subnormal=False)
)


@DRAWN
@given(st.lists(st.tuples(SEEDS, BOUNDS), min_size=1, max_size=6))
def test_claims_are_decided_together_by_holm(family):
    """Against Holm's rule as it is written down: in the order of their p, each of the m - k that
    are left at 5 % / (m - k).
    """
    claims = [
        (stats.Bound.of(smallest=least, **{side: at}), stats.mean(values))
        for values, (side, at, least) in family
    ]
    found = stats.decide_together(claims)
    alone = []
    # both one-sided tests by scipy, turned so that the claim is 'above'
    for values, (side, at, least) in family:
        turned, bound = (values, at) if side == "above" else ([-v for v in values], -at)
        assume(np.std(turned) > 1e-6)
        sign = scipy_stats.ttest_1samp(turned, bound, alternative="greater").pvalue
        fails = scipy_stats.ttest_1samp(turned, bound + least, alternative="less").pvalue
        enough = scipy_stats.ttest_1samp(turned, bound + least, alternative="greater").pvalue
        alone.append((2 * min(sign, fails), 2 * sign, 2 * enough))
    level, going, told = 0.05, True, {}
    for rank, i in enumerate(sorted(range(len(family)), key=lambda i: alone[i][0])):
        level = 0.05 / (len(family) - rank) if going else level
        going = going and alone[i][0] <= level
        assume(all(abs(p - level) > 1e-9 for p in alone[i]))
        said = (
            "holds"
            if alone[i][2] < level
            else "in sign only"
            if alone[i][1] < level
            else "does not hold"
        )
        told[i] = said if going else "undecided"
    assert [word for word, _ in found] == [told[i] for i in range(len(family))]
    assert all((p <= 0.05) == (word != "undecided") for word, p in found)


def test_more_claims_make_each_harder_and_what_cannot_be_tested_costs_nothing():
    claim = stats.Bound.of(above=0.0), stats.mean([1.0, 1.2, 0.8])
    (alone,), company = (
        stats.decide_together([claim]),
        (stats.Bound.of(above=0.0), stats.mean([1.0, -1.0, 0.3])),
    )
    assert alone[0] == "holds" and alone[1] == pytest.approx(
        scipy_stats.ttest_1samp([1.0, 1.2, 0.8], 0).pvalue
    )
    assert stats.decide_together([claim] + [company] * 9)[0] == (
        "undecided",
        pytest.approx(10 * alone[1]),
    )
    silent = [(claim[0], None), (claim[0], stats.mean([3.0]))] * 9
    assert stats.decide_together([claim, *silent]) == [
        alone,
        *[("not run", None), ("undecided", None)] * 9,
    ]


def test_a_rank_correlation_is_decided_on_fishers_scale():
    x = np.arange(60)
    y = np.random.default_rng(0).permutation(60) * 0.5 + x
    found = stats.rank_correlation(x, y, "arms")
    rho = scipy_stats.spearmanr(x, y).statistic
    half = 1.959963985 * 1.06 / math.sqrt(57)
    assert found.interval()[:4] == pytest.approx(
        (60, rho, math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half))
    )
    assert found.p_above(found.interval().low) == pytest.approx(0.025)
    assert (
        stats.rank_correlation([1, 2, 3], [1, 2, 3]) is None
        and stats.rank_correlation([1] * 9, range(9)) is None
    )


def test_what_is_printed_is_what_is_noted(tmp_path):
    study = Study("03_x", "x", tmp_path, tmp_path, unit="batches", of="net")
    study.claim("one", "it grows", [1.0, 1.1, 0.9, 1.0], above=0, smallest=0.1)
    study.claim("two", "it shrinks", [], below=0, smallest=0.1)
    study.claim("three", "two nets agree", [0.1, 0.1001], "nets", below=1)
    with pytest.raises(ValueError, match="03_x were stated after they were decided"):
        study.finish()
    lines = study.decided().splitlines()
    # the second and last of two
    p = 2 * scipy_stats.ttest_1samp([1.0, 1.1, 0.9, 1.0], 0.1, alternative="greater").pvalue
    assert lines[0].split(" | ")[0].strip() == "holds" and lines[0].endswith(
        f"(n=1 net, 4 batches), p={p:.2g}"
    )
    assert "it grows, by over 0.1 | 1 [0.87, 1.13]" in lines[0]
    assert "(n=2 nets)" in lines[1]
    assert lines[2] == "2 tested together, at 5% (Holm); 1 wait for runs"
    study.finish()
    noted = files.studies(tmp_path)["03_x"]["claims"]
    words = [line.split(" | ")[0].strip() for line in lines[:2]]
    assert [c["decided"] for c in noted] == [words[0], "not run", words[1]]
    # the cell is run again, on other values
    study.claim("one", "it grows", [0.0, 0.1], above=0, smallest=0.1)
    with pytest.raises(ValueError, match="decided"):
        study.finish()
    with pytest.raises(ValueError, match="claim 'one' of 03_x is 'it grows' already"):
        study.claim("one", "it is another", [1.0], above=1)


def test_pairs_are_matched_by_seed():
    ours, theirs = (
        [record(0.5, 1), record(0.7, 2), record(0.9, 3)],
        [record(0.6, 2), record(0.1, 1)],
    )
    assert stats.paired(ours, theirs) == pytest.approx([0.4, 0.1])
    growth = {1: 3.0, 2: None, 3: 5.0}  # a value that one record lacks leaves its pair out
    found = stats.paired(
        ours, theirs, lambda r: growth[r.config.seed] and growth[r.config.seed] * r.accuracy
    )
    assert found == pytest.approx([1.2])


def test_differences_are_in_standard_errors_of_the_difference():
    assert stats.diff_in_se(0.5, 0.03, 3, 0.4, 0.06, 3) == pytest.approx(
        0.1 / math.sqrt(0.03**2 / 3 + 0.06**2 / 3)
    )
    assert stats.diff_in_se(0.5, 0.03, 3, 0.4, None, 1) == pytest.approx(
        0.1 / math.sqrt(0.03**2 / 3 + 0.03**2)
    )
    assert stats.diff_in_se(0.5, None, 1, 0.4, 0.06, 3) == pytest.approx(
        0.1 / math.sqrt(0.06**2 + 0.06**2 / 3)
    )
    assert stats.diff_in_se(0.5, None, 1, 0.4, None, None) is None


@pytest.mark.parametrize(
    "metric, ours, value, within, verdict",
    [
        # 37 standard errors off, inside 20 %
        ("gamma", (0.788, 0.007, 3), (0.944, 0.001, 3), 5e-4, "close"),
        # inside two standard errors of 0.21
        ("rho", (0.309, 0.18, 3), (0.691, None, None), 5e-4, "imprecise"),
        ("gamma", (0.374, 0.18, 3), (0.452, 0.042, 3), 5e-4, "imprecise"),
        ("gamma", (0.450, 0.02, 3), (0.452, 0.042, 3), 0, "agrees"),
        # wide, but not wider than the study's own
        ("gamma", (0.50, 0.10, 3), (0.45, 0.10, 3), 0, "agrees"),
        ("gamma", (0.9, 0.01, 3), (0.8, None, 3), 5e-3, "close"),
        ("gamma", (0.6, 0.05, 3), (0.8, 0.01, 3), 5e-3, "differs"),
        ("test_acc", (0.6149, 0.001, 3), (0.60, 0.001, 3), 0, "close"),
        ("test_acc", (0.617, 0.001, 3), (0.60, 0.001, 3), 0, "differs"),
        ("test_acc", (0.63, 0.04, 3), (0.60, None, 3), 5e-4, "imprecise"),
        ("acc@5", (0.31, None, 1), (0.3, None, 1), 5e-4, "close"),
        ("test_acc", (0.3001, None, 1), (0.3, None, 1), 5e-4, "agrees"),
        ("diff_vs_dfa", (0.03, None, 1), (0.01, None, 1), 5e-4, "differs"),
        ("nudge", (1e-5, 1e-7, 3), (0.0, None, 1), 5e-4, "agrees"),
        ("nudge", (1e-5, None, 1), (0.0, 0.0, 3), 5e-4, "agrees"),
        ("nudge", (-0.0013, None, 1), (-0.0004, None, 1), 5e-5, "differs"),
        ("nudge", (-0.0013, None, 1), (-0.0012, None, 1), 5e-6, "close"),
        ("h_norm", (9e6, 0.1, 3), (1e6, None, 3), 5e5, "close"),
        ("h_norm", (1.1e7, 0.1, 3), (1e6, None, 3), 5e5, "differs"),
        ("h_norm", (1.4e6, None, 1), (1e6, None, 3), 5e5, "agrees"),
        ("h_norm", (5e6, 0.6, 3), (1e6, None, 3), 5e5, "agrees"),
        ("g_norm", (4e-7, 1.0, 3), (1e-6, None, 3), 5e-8, "imprecise"),
        ("mode1b_fires", (0.4, 0.5, 3), (0, None, 3), 0.5, "agrees"),
        ("mode1b_fires", (0.6, 0.5, 3), (0, None, 3), 0.5, "differs"),
    ],
)
def test_what_counts_as_reproduced(metric, ours, value, within, verdict):
    assert tables.answer(metric, ours, value, within)[0] == verdict


NUMBER = st.floats(0.05, 20, allow_subnormal=False).map(lambda v: float(f"{v:.3g}"))


SD = st.floats(1e-6, 1, allow_subnormal=False)


@DRAWN
@given(
    NUMBER,
    st.floats(0.5, 2, allow_subnormal=False),
    SD,
    SD,
    st.sampled_from(["gamma", "test_acc", "nudge", "h_norm"]),
)
def test_the_four_answers_are_apart_by_their_definition(value, ratio, ours_sd, sd, metric):
    """For means of three seeds on either side: two standard errors first, then the tolerance;
    precision never hurts.
    """
    ours = value * ratio
    found, off = tables.answer(metric, (ours, ours_sd, 3), (value, sd, 3))
    logs = metric == "h_norm"
    gap = abs(math.log10(ratio)) if logs else abs(ours - value)
    wide = 2 * math.sqrt((ours_sd**2 + sd**2) / 3)
    tolerance = (
        1
        if logs
        else {"gamma": max(0.05, 0.2 * value), "test_acc": 0.015, "nudge": 0.2 * value}[metric]
    )
    assume(abs(gap - wide) > 1e-9 and abs(gap - tolerance) > 1e-9 and gap > 0)
    inside = gap < wide
    assert (found in ("agrees", "imprecise")) == inside and (found == "close") == (
        not inside and gap < tolerance
    )
    assert abs(off) == pytest.approx(2 * gap / wide)
    if found == "imprecise":
        assert 2 * ours_sd / math.sqrt(3) > max(tolerance, 2 * sd)
        assert tables.answer(metric, (ours, 1e-9, 3), (value, sd, 3))[0] != "imprecise"
    assert tables.answer(metric, (value, ours_sd, 3), (value, sd, 3), 1e-12)[0] == "agrees"


def test_half_a_unit_is_of_the_last_digit_that_the_study_gives():
    """The table of the reference has lost trailing zeros: other values of the metric and the sd
    tell how many there were.
    """
    told = {
        "acc": {0.3: 5e-4, 0.592: 5e-4, 0.0: 5e-4},
        "nudge": {-0.00193: 5e-6, -4.98e-05: 5e-8, -0.000426: 5e-7},
        "norm": {2e2: 50, 5e8: 5e7, 1.3e5: 5e3},
        "alone": {0.07: 5e-3},
        "sd": {0.9: 5e-3},
    }
    pairs = [(metric, *pair) for metric, values in told.items() for pair in values.items()]
    rows = [
        ("x", metric, value, 0.05 if metric == "sd" else None, half)
        for metric, value, half in pairs
    ]
    table = pd.DataFrame(rows, columns=["experiment", "metric", "value", "sd", "half"])
    table.loc[table.value.isin([2e2, 5e8]), "experiment"] = "y"
    assert tables.half_units(table) == pytest.approx(list(table.half))


def test_norms_are_set_beside_the_reference_on_the_log_scale(tmp_path):
    study = Study("03_x", "x", tmp_path, tmp_path)
    study.compare("a", "b", "h_norm", [1e6, 1e8, None])
    (row,) = study.compared
    assert (
        row["value"] == pytest.approx(1e7)
        and row["sd"] == pytest.approx(math.sqrt(2))
        and row["n"] == 2
    )


def test_every_reference_row_is_kept_and_a_misnamed_one_refused():
    named = {
        "experiment": "protocol_audit",
        "condition": "d=256,L=4,epochs=100,method=bp",
        "metric": "test_acc",
    }
    found = tables.with_ours([{**named, "value": 0.61, "sd": 0.005, "n": 3, "calibrated": False}])
    assert (
        len(found) == len(pd.read_csv(tables.REFERENCE)) and (found.verdict == "agrees").sum() == 1
    )
    assert set(found.verdict) == {"agrees", "not run"}
    told = tables.counts(found)
    assert told.pop("calibrated") == {
        "agrees": 0,
        "close": 0,
        "imprecise": 0,
        "differs": 0,
    } and sum(told.values()) == len(found)
    served = tables.counts(
        tables.with_ours([{**named, "value": 0.61, "sd": 0.005, "n": 3, "calibrated": True}])
    )
    assert served["agrees"] == 0 and served["calibrated"]["agrees"] == 1
    with pytest.raises(ValueError, match="no reference row is called .*bpp"):
        tables.with_ours(
            [{**named, "metric": "bpp", "value": 1.0, "sd": None, "n": 1, "calibrated": False}]
        )


def test_numbers_as_a_reader_sees_them():
    assert (
        tables.pm([0.3, 0.5]) == "0.400 ± 0.141"
        and tables.pm([0.3]) == "0.300"
        and tables.pm([None]) == "—"
    )
    assert tables.magnitude([1e6, 1e8]) == "1e+07" and tables.magnitude([]) == "—"
    assert tables.level_mean([record(), record(gamma=[None, 1, 1, 1])], "gamma") == [
        pytest.approx(1.1 / 3),
        None,
    ]


def test_a_learned_credit_is_read_beside_dfas_on_the_same_net():
    """By hand: over levels 0..2 Γ is 0.6 against DFA's 0.2, ρ 0.3 against 0.1."""
    beside = {
        "gamma": [0.5, 0.6, 0.7, 0],
        "gamma_dfa": [0.1, 0.2, 0.3, 1],
        "rho": [0.3] * 4,
        "rho_dfa": [0.1] * 4,
    }
    learned = [
        record(0.5, seed=1, **beside),
        record(0.7, seed=2, **beside | {"gamma_dfa": [None, 1, 1, 1]}),
    ]
    plain = [record(0.4, seed=2, gamma=[0.2] * 4), record(0.4, seed=3, gamma=[0.3] * 4)]
    assert tables.lead(learned, "gamma") == [pytest.approx(0.4), None]
    # they share seed 2 alone
    assert tables.by_seed([learned, plain], "gamma") == [[pytest.approx(0.6), pytest.approx(0.2)]]
    assert tables.by_seed([], "gamma") == [] and tables.by_seed([learned, []], "gamma") == []
    learned[0].final["nudge"], learned[1].final["nudge"] = [-1e-5] * 4, [None] * 4
    shown = tables.credit_row(learned, ("gamma", "nudge"))
    leads = {"S1": "0.400", "S2": "0.200 ± 0.000"}
    assert shown == {
        "n": 2,
        "accuracy": "0.600 ± 0.141",
        "Γ": "0.600 ± 0.000",
        "nudge": "-0.000010",
        **leads,
    }
    assert "S1" not in tables.credit_row(plain) and tables.credit_row([]) == {
        "n": 0,
        "accuracy": "not run",
    }
    assert tables.credit_data(plain, ("gamma",)) == {
        "test_acc": [0.4, 0.4],
        "gamma": [pytest.approx(0.2), pytest.approx(0.3)],
    }
    gone = replace(record(), status="diverged", diagnostics={})
    assert tables.credit_data([gone, *learned], ("gamma",))["S1"] == [
        None,
        pytest.approx(0.4),
        None,
    ]
    assert (
        tables.credit_row([gone, *learned])["n"] == 2
        and tables.credit_row([gone, *learned])["diverged"] == 1
    )
    assert tables.first_fires([gone], "b") == "diverged"
    late = record(g_norm=(1e-3, 1e-8))
    assert (
        tables.first_fires([late, record()], "b") == "2, never"
        and tables.first_fires([], "b") == "not run"
    )


RESULTS = Path(__file__).resolve().parent.parent / "results"


@pytest.mark.skipif(not (RESULTS / "studies").exists(), reason="a copy without committed results")
def test_every_claim_can_be_set():
    """Also those without records yet: a letter that LaTeX does not know would fail the paper on the
    day they come.
    """
    stated = [c["statement"] for study in files.studies(RESULTS).values() for c in study["claims"]]
    assert stated and not [text for text in stated if not latex.escape(text).isascii()]


def test_plain_text_becomes_latex():
    assert (
        latex.escape("‖h_L‖ 2e+09, 50 % ± 1")
        == r"\(\|h_L\|\) \(2\!\times\!10^{9}\), 50 \% \(\pm\) 1"
    )
    assert latex.escape("1e-07 & α, h₀ at η") == r"\(10^{-7}\) \& \(\alpha \), h\(_0\) at \(\eta \)"
    assert latex.macro_name("audit acc dfa", "L 12") == "AuditAccDfaLOneTwo"
    assert latex.escape("a\nb\x00 ‖x‖y‖") == r"a b \(\|x\|\)y\(\|\)"


TEXT = st.text(
    st.sampled_from("\\{}$^~_&%#‖Γλ′—−±× ₀ab0123456789e+-.\n\t\x00\x1b\"'`<>|[]")
    | st.characters(codec="latin-1")
)
PLAIN = r"[^\\{}$^~_&%#\x00-\x1f\x7f]"  # what TeX sets as it is
SYMBOL = r"\\(?:pm|times|[Gg]amma|alpha|beta|delta|varepsilon|eta|lambda|rho|!)(?![a-z])"
MATHS = rf"\\\((?:\\\||{SYMBOL}|_[A-Za-z0-9]+|\^\{{-?\d+\}}|[-\w. ])*\\\)"
SET = re.compile(
    rf"(?:{PLAIN}|\\[&%#_{{}}$]|\\text(?:backslash|asciicircum|asciitilde)\{{\}}|{MATHS})*"
)


@DRAWN
@given(TEXT)
def test_no_text_is_a_command_to_latex(text):
    assert SET.fullmatch(latex.escape(text)), latex.escape(text)


def test_an_escaped_text_says_what_it_said():
    """Every special character is set by a command of its own, once for each time that it stands
    there.
    """
    assert latex.escape(r"\input{/etc/passwd} $x^2$ ~") == (
        r"\textbackslash{}input\{/etc/passwd\} \$x\textasciicircum{}2\$ \textasciitilde{}"
    )
    assert latex.escape(r"‖\input{x}‖") == r"\(\|\)\textbackslash{}input\{x\}\(\|\)"


def summary(root, notebook, claims=(), **paper):
    told = [
        {"name": n, "statement": r"a \input{b}", "decided": d, "interval": "1 (n=1)", "p": None}
        for n, d in claims
    ]
    files.publish_json(
        root / "studies" / f"{notebook}.json", {"claims": told, "compared": [], "paper": paper}
    )


def test_macros_of_two_notebooks_are_apart_and_a_collision_is_an_error(tmp_path):
    summary(tmp_path, "13_mode2", [("fa-ahead", "holds")], acc=1)
    summary(tmp_path, "14_fa", [("fa-ahead", "in sign only")], acc=2)
    found = latex.macros(tmp_path)
    assert (
        found["NbOneThreeClaimFaAhead"] == "holds"
        and found["NbOneFourClaimFaAhead"] == "holds in sign only"
    )
    assert (found["NbOneThreeAcc"], found["NbOneFourAcc"]) == ("1", "2")
    assert (
        found["ReproductionNotRun"]
        == found["ReproductionRows"]
        == str(len(pd.read_csv(tables.REFERENCE)))
    )
    latex.write(tmp_path, tmp_path / "paper")
    assert r"\input" not in (tmp_path / "paper" / "generated" / "claims.tex").read_text(
        encoding="utf-8"
    )
    for other in ({"claims": [("fa ahead", "holds")]}, {"claim fa-ahead": 3}):
        summary(tmp_path, "14_other", **other)
        with pytest.raises(
            ValueError, match=r"several texts would be called \\NbOneFourClaimFaAhead"
        ):
            latex.macros(tmp_path)


def test_bars_leave_out_what_has_no_value():
    picture, ax = plt.subplots()
    values = {"a": [0.1, 0.2], "b": [], "c": [0.3]}
    figures.bars(ax, {"a": "dfa", "b": "fa", "c": "bp", "d": "ep"}, values, {"c": 0.4})
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "c"]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0.15, 0.3])
    plt.close(picture)


@pytest.mark.parametrize(
    "label, shown",
    [
        ("dfa", "DFA"),
        ("freeze5_decay_to_000", "field, held after 5 epochs, faded out"),
        ("freeze_after_1", "field, held after 1 epoch"),
        ("freeze_after_10", "field, held after 10 epochs"),
        ("prefit60_trainable", "field, fitted for 60 epochs, then trained"),
        ("my_own_rule", "my_own_rule"),
    ],
)
def test_a_reader_sees_a_name_in_place_of_a_label(label, shown):
    assert figures.title(label) == shown


def test_no_two_looks_are_alike():
    looks = [look[1:] for look in figures.LOOK.values()] + figures.SPARE
    colours = [colour for colour, _ in looks] + list(figures.CYCLE)
    assert len(set(colours)) == len(colours)


def test_every_label_of_the_reference_table_has_words():
    rows = pd.read_csv(tables.REFERENCE)
    assert set(rows.metric) - set(tables.METRICS) <= {"S1", "S2", "PUR"}
    told = rows.condition.map(reference._setting).str.replace("(e_T|δ_L|h_L)", "", regex=True)
    assert not [text for text in told if "_" in text]


@pytest.mark.parametrize(
    "done, of, told",
    [
        (0, 3, "⚪ **Planned**: 0 of 3 runs have records."),
        (1, 3, "⚪ **Planned**: 1 of 3 runs have records."),
        (2, 3, "🟡 **Partial**: 2 of 3 runs have records."),
        (3, 3, "🟢 **Complete**: all 3 runs have records."),
    ],
)
def test_a_badge(done, of, told):
    runs = [{"status": "complete" if i < done else "not run"} for i in range(of)]
    source = "# T\n\n<!-- badge -->old<!-- end -->\n\nrest"
    assert readme.badged(source, runs) == f"# T\n\n<!-- badge -->\n\n{told}\n\n<!-- end -->\n\nrest"
    with pytest.raises(ValueError, match="<!-- badge --><!-- end -->"):
        readme.badged("# T", runs)


def compared_rows(*verdicts):
    return pd.DataFrame(
        {
            "condition": "method=dfa,lambda=0.01",
            "metric": "test_acc",
            "value": 0.31,
            "sd": None,
            "n_seeds": 1,
            "ours": 0.3049,
            "ours_sd": 0.0123456789,
            "ours_n": 3,
            "diff_se": None,
            "calibrated": [v.startswith("*") for v in verdicts],
            "verdict": [v.lstrip("*") for v in verdicts],
        }
    )


@pytest.mark.parametrize(
    "verdicts, told",
    [
        ([], "The study gives no value for this notebook."),
        (
            ["close"],
            "The study gives 1 value for what this notebook measures. Of those that test it, "
            "1 is close.",
        ),
        (
            ["agrees", "agrees", "differs", "not run", "*close"],
            "The study gives 5 values for what this notebook measures. Of those that test it, "
            "2 agree, 1 differs and 1 is not run yet. One more served to choose a setting and so "
            "tests nothing: 1 is close.",
        ),
    ],
)
def test_a_comparison_in_words(verdicts, told):
    assert tables.in_words(compared_rows(*verdicts)) == told


def test_a_readers_table_holds_what_is_run_with_few_digits():
    table = tables.reader(compared_rows("close", "not run", "*differs"))
    assert list(table["verdict"]) == ["close", "differs (calibrated)"]
    assert table.index[0] == ("DFA, λ 0.01", "test accuracy")
    assert list(table.columns) == ["study", "here", "verdict"]
    assert set(table["study"]) == {"0.310"} and set(table["here"]) == {"0.305 ± 0.01 (n=3)"}


def test_a_run_of_several_arms_is_noted_under_all_their_labels(tmp_path):
    study, config = Study("03_x", "x", tmp_path, tmp_path, train=False), tiny("dfa")
    arms = {"wr 0.2": [config], ("code", "eT"): [config, config.with_(seed=2)]}
    for _ in range(2):  # a cell may be run again
        assert study.run(arms) == {"wr 0.2": [], ("code", "eT"): []}
    assert [row["label"] for row in study.rows.values()] == ["wr 0.2 = code eT", "code eT"]
    state = "0 of 2 runs have records, 0 diverged; not run: wr 0.2 = code eT; code eT"
    assert study.state() == state
    study.claim("one", "a < b", [], above=0, smallest=0.1)
    unrun = study.unrun()
    assert repr(unrun).startswith("Not run yet: 2 of 2 runs, about ")
    shown = unrun._repr_html_()
    assert (
        shown.startswith("<details><summary>Not run yet: 2 of 2 runs") and "<li>a &lt; b" in shown
    )
    assert "faeval_core run --study 03_x" in shown


def test_nothing_is_left_to_open_where_all_is_run(tmp_path):
    study = Study("03_x", "x", tmp_path, tmp_path, train=False)
    assert repr(study.unrun()) == "All 0 runs of this notebook have records."
    assert "<details>" not in study.unrun()._repr_html_()
