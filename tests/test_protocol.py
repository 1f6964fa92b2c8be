"""From measurements to what a reader is told: thresholds, verdicts, intervals, the comparison with the reference, LaTeX."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from conftest import tiny
from matplotlib import pyplot as plt
from scipy import stats as scipy_stats

from faeval_core import figures, files, latex, protocol, stats, tables
from faeval_core.audit import Audit
from faeval_core.store import RunRecord
from faeval_core.study import Study


def diagnosis(**changes):
    """A sound one of a net with three blocks, but for the changes."""
    sound = {
        "growth": 2.0, "g_norm": [1e-3] * 4, "stability": 0.1, "twin": [1.0] * 4, "gamma": [0.5, 0.4, 0.2, 1.0],
        "gamma_block": [0.1, 0.2, 0.3], "gamma_block_clamped": [0.0, 0.1, 0.2], "rescaled": {"gamma": [0.5, 0.4, 0.2, 1.0]},
        "rho": [0.5] * 4, "h_norm": [1.0] * 4, "sensitivity": [1.0] * 4,
    }  # fmt: skip
    return {**sound, **changes}


def record(accuracy=0.5, seed=1, growth=(1.0, 2.0), g_norm=(1e-3, 1e-3), **changes):
    cfg = tiny("dfa", epochs=2, seed=seed)
    curves = {"test_acc": [0.1, accuracy], "growth": list(growth), "g_norm": [[1.0, g] for g in g_norm]}
    return RunRecord(cfg, "complete", curves, {"2": diagnosis(**changes)}, None, {})


@pytest.mark.parametrize(
    "changes, letter, fired",
    [
        ({"growth": 50.0}, "a", False), ({"growth": 50.1}, "a", True), ({"growth": None}, "a", None),
        ({"g_norm": [0.0, 0.0, 0.0, 1e-7]}, "b", False), ({"g_norm": [1.0, 1.0, 1.0, 9e-8]}, "b", True),
        ({"stability": 0.3}, "c", False), ({"stability": 0.31}, "c", True),
        ({"twin": [1.0, 0.98, 1.0, 1.0]}, "b'", True), ({"twin": [1.0, None, 1.0, 1.0]}, "b'", None),
        ({"rescaled": {"gamma": [0.5, 0.42, 0.2, 1.0]}}, "b'", True),
        ({"rescaled": {"gamma": [0.5, None, 0.2, 1.0]}}, "b'", None),
        ({"twin": [0.9, None, 1.0, 1.0]}, "b'", True), ({"gamma": [None, 0.5, 0.2, 1.0]}, "b'", None),
        ({"rescaled": {"gamma": [0.5, 0.409, 0.2, 1.0]}}, "b'", False),
    ],
)  # fmt: skip
def test_each_diagnostic_fires_beyond_its_published_threshold(changes, letter, fired):
    assert protocol.fires(diagnosis(**changes))[letter] is fired


def test_depth_is_used_from_two_points_above_the_frozen_baseline():
    found = [protocol.fires(diagnosis(), accuracy, 0.25)["d"] for accuracy in (0.269, 0.2701, None)]
    assert found == [True, False, None] and protocol.fires(diagnosis(), 0.5)["d"] is None


def test_deep_cosines_are_means_over_the_levels_they_name():
    found = protocol.deep_cos(diagnosis())
    assert found == pytest.approx({"hidden": 0.3, "with_top": 1.6 / 3, "published": 0.15, "published_exact": 0.25})
    assert protocol.deep_cos(diagnosis(gamma=[1.0, None, 1.0, 1.0]))["hidden"] is None


def test_the_lead_over_a_copy_is_taken_at_the_hidden_levels_of_one_net():
    assert protocol.over_copy(diagnosis(gamma_copied=[0.9, 0.6, 0.1, 1.0])) == pytest.approx((0.4 - 0.6 + 0.2 - 0.1) / 2)
    assert protocol.over_copy(diagnosis(gamma_copied=[0.9, None, 0.1, 1.0])) is None and protocol.over_copy(diagnosis()) is None


def test_a_verdict_is_the_majority_of_the_seeds_in_which_it_is_defined():
    judged = protocol.verdict([record(growth=(1, 2), **{"stability": c}) for c in (0.5, 0.5, 0.1)], [record(0.2)])
    assert judged.counts["c"] == (2, 3) and judged.text() == "fires (c)" and judged.withdraw() == [protocol.WITHDRAW["c"]]
    judged = protocol.verdict([record(stability=c) for c in (0.5, None, None, 0.1)], [record(0.2)])
    assert judged.counts["c"] == (1, 2) and judged.text() == "trustworthy"
    assert protocol.verdict([record()]).text() == "none of (a), (b), (c) fires; undefined: (d)"
    assert protocol.verdict([record(stability=0.5)]).text() == "fires (c); undefined: (d)"
    assert protocol.verdict([]).text() == "not run"
    gone = RunRecord(tiny("dfa"), "diverged", {}, {}, {"step": 3, "quantity": "train_loss"}, {})
    assert protocol.verdict([gone]).text() == "diverged" and protocol.verdict([gone, record()]).diverged == 1
    assert protocol.verdict([gone, record()], [record(0.2)]).text() == "none of (a), (b), (c), (d) fires; diverged: 1 of 2 seeds"


def test_depth_is_judged_against_the_frozen_net_of_the_same_seed():
    frozen = [record(0.3, seed=1), record(0.5, seed=2)]
    assert protocol.verdict(frozen, frozen).counts["d"] == (2, 2)
    assert protocol.verdict([record(0.45, seed=1), record(0.45, seed=2), record(0.45, seed=3)], frozen).counts["d"] == (1, 3)


def test_the_reference_is_at_fault_by_itself_or_by_its_scale():
    faults = [{}, {"twin": [0.9] * 4}, {"rescaled": {"gamma": [0.1] * 4}}, {"twin": [1.0, None, 1.0, 1.0]}]
    assert [protocol.reference_fault(diagnosis(**f)) for f in faults] == ["", "twin", "rescaling", None]
    records = [record(seed=seed, stability=0.5 * (seed == 1), **f) for seed, f in enumerate((*faults[1:3], {}), 1)]
    told = "\n".join(Audit(records[0].config, {"dfa": records, "frozen": [record(0.2)]}).lines)
    for cause in ("twin", "rescaling"):
        assert f"(b') {protocol.MEANING[cause]}: 1 of 3 seeds. Withdraw: {protocol.WITHDRAW[cause]}." in told
    assert "In some seeds, but not in most: (c) in 1 of 3." in told


def test_first_fire_is_the_first_epoch_on_the_curve():
    found = record(growth=(51.0, 49.0), g_norm=(1e-6, 1e-8))
    assert (protocol.first_fire(found, "a"), protocol.first_fire(found, "b")) == (1, 2)
    assert protocol.first_fire(record(), "a") is None
    assert protocol.beyond(found, "a") == pytest.approx(math.log10(51 / 50)) and protocol.beyond(found, "b") == pytest.approx(1)
    assert protocol.beyond(record(), "a") < 0 and protocol.beyond(record(g_norm=(1e-6, 0.0)), "b") == pytest.approx(38)


def test_intervals_are_students_and_sd_has_n_minus_one():
    values = [0.31, 0.35, 0.30, None]
    assert stats.mean_sd(values) == pytest.approx((0.32, math.sqrt((0.01**2 + 0.03**2 + 0.02**2) / 2), 3))
    found, wanted = stats.interval(values), scipy_stats.ttest_1samp(values[:3], 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert stats.mean_sd([]) == (None, None, 0) and stats.interval([None]) is None


@pytest.mark.parametrize(
    "values, bound, decided",
    [
        ([1.0, 1.1, 0.9], {"above": 0}, "holds"), ([1.0, 1.1, 0.9], {"below": 0}, "does not hold"), ([], {"above": 0}, "not run"),
        ([1.0, -1.0, 0.5], {"above": 0}, "undecided"), ([5.0], {"above": 0}, "undecided"), ([-2.0, -2.1], {"below": -1}, "holds"),
    ],
)  # fmt: skip
def test_a_claim_is_decided_by_its_interval(values, bound, decided):
    assert stats.decide(values, **bound) == decided


def test_pairs_are_matched_by_seed():
    ours, theirs = [record(0.5, 1), record(0.7, 2), record(0.9, 3)], [record(0.6, 2), record(0.1, 1)]
    assert stats.paired(ours, theirs) == pytest.approx([0.4, 0.1])
    growth = {1: 3.0, 2: None, 3: 5.0}  # a value that one record lacks leaves its pair out
    found = stats.paired(ours, theirs, lambda r: growth[r.config.seed] and growth[r.config.seed] * r.accuracy)
    assert found == pytest.approx([1.2])


def test_differences_are_in_standard_errors_of_the_difference():
    assert stats.diff_in_se(0.5, 0.03, 3, 0.4, 0.06, 3) == pytest.approx(0.1 / math.sqrt(0.03**2 / 3 + 0.06**2 / 3))
    assert stats.diff_in_se(0.5, 0.03, 3, 0.4, None, 1) == pytest.approx(0.1 / math.sqrt(0.03**2 / 3 + 0.03**2))
    assert stats.diff_in_se(0.5, None, 1, 0.4, 0.06, 3) == pytest.approx(0.1 / math.sqrt(0.06**2 + 0.06**2 / 3))
    assert stats.diff_in_se(0.5, None, 1, 0.4, None, None) is None


@pytest.mark.parametrize(
    "metric, ours, value, diff, same",
    [
        ("test_acc", 0.6149, 0.60, None, True), ("test_acc", 0.617, 0.60, None, False), ("test_acc", 0.63, 0.60, -1.9, True),
        ("h_norm", 9e6, 1e6, None, True), ("h_norm", 1.1e7, 1e6, 0.1, False), ("mode1b_fires", 0.4, 0, None, True),
        ("mode1b_fires", 0.6, 0, 0.0, False), ("gamma", 0.14, 0.1, None, True), ("gamma", 0.9, 0.8, None, True),
        ("gamma", 0.6, 0.8, 2.1, False), ("acc@5", 0.31, 0.3, None, True), ("diff_vs_dfa", 0.03, 0.01, None, False),
        ("nudge", -0.0013, -0.0004, None, False), ("nudge", -0.0013, -0.0012, None, True), ("S1", 0.11, 0.07, None, True),
    ],
)  # fmt: skip
def test_what_counts_as_reproduced(metric, ours, value, diff, same):
    assert tables.agrees(metric, ours, value, diff) is same


def test_every_reference_row_is_kept_and_a_misnamed_one_refused():
    named = {"experiment": "protocol_audit", "condition": "d=256,L=4,epochs=100,method=bp", "metric": "test_acc"}
    found = tables.with_ours([{**named, "value": 0.61, "sd": 0.002, "n": 3, "calibrated": False}])
    assert len(found) == len(pd.read_csv(tables.REFERENCE)) and (found.verdict == "reproduced").sum() == 1
    assert set(found.verdict) == {"reproduced", "not run"}
    with pytest.raises(ValueError, match="no reference row is called .*bpp"):
        tables.with_ours([{**named, "metric": "bpp", "value": 1.0, "sd": None, "n": 1, "calibrated": False}])


def test_numbers_as_a_reader_sees_them():
    assert tables.pm([0.3, 0.5]) == "0.400 ± 0.141" and tables.pm([0.3]) == "0.300" and tables.pm([None]) == "—"
    assert tables.magnitude([1e6, 1e8]) == "1e+07" and tables.magnitude([]) == "—"
    assert tables.level_mean([record(), record(gamma=[None, 1, 1, 1])], "gamma") == [pytest.approx(1.1 / 3), None]


def test_a_learned_credit_is_read_beside_dfas_on_the_same_net():
    """By hand: over levels 0..2 Γ is 0.6 against DFA's 0.2, ρ 0.3 against 0.1."""
    beside = {"gamma": [0.5, 0.6, 0.7, 0], "gamma_dfa": [0.1, 0.2, 0.3, 1], "rho": [0.3] * 4, "rho_dfa": [0.1] * 4}
    learned = [record(0.5, seed=1, **beside), record(0.7, seed=2, **beside | {"gamma_dfa": [None, 1, 1, 1]})]
    plain = [record(0.4, seed=2, gamma=[0.2] * 4), record(0.4, seed=3, gamma=[0.3] * 4)]
    assert tables.lead(learned, "gamma") == [pytest.approx(0.4), None]
    assert tables.by_seed([learned, plain], "gamma") == [[pytest.approx(0.6), pytest.approx(0.2)]]  # they share seed 2 alone
    assert tables.by_seed([], "gamma") == [] and tables.by_seed([learned, []], "gamma") == []
    learned[0].final["nudge"], learned[1].final["nudge"] = [-1e-5] * 4, [None] * 4
    shown = tables.credit_row(learned, ("gamma", "nudge"))
    leads = {"S1": "0.400", "S2": "0.200 ± 0.000"}
    assert shown == {"n": 2, "accuracy": "0.600 ± 0.141", "Γ": "0.600 ± 0.000", "nudge": "-0.000010", **leads}
    assert "S1" not in tables.credit_row(plain) and tables.credit_row([]) == {"n": 0, "accuracy": "not run"}
    assert tables.credit_data(plain, ("gamma",)) == {"test_acc": [0.4, 0.4], "gamma": [pytest.approx(0.2), pytest.approx(0.3)]}
    gone = replace(record(), status="diverged", diagnostics={})
    assert tables.credit_data([gone, *learned], ("gamma",))["S1"] == [None, pytest.approx(0.4), None]
    assert tables.credit_row([gone, *learned])["n"] == 2 and tables.credit_row([gone, *learned])["diverged"] == 1
    assert tables.first_fires([gone], "b") == "diverged"
    late = record(g_norm=(1e-3, 1e-8))
    assert tables.first_fires([late, record()], "b") == "2, never" and tables.first_fires([], "b") == "not run"


def test_every_claim_can_be_set():
    """Also those without records yet: a letter that LaTeX does not know would fail the paper on the day they come."""
    stated = [c["statement"] for study in files.studies(tables.REFERENCE.parent).values() for c in study["claims"]]
    assert stated and not [text for text in stated if not latex.escape(text).isascii()]


def test_plain_text_becomes_latex():
    assert latex.escape("‖h_L‖ 2e+09, 50 % ± 1") == r"\(\|h_L\|\) \(2\!\times\!10^{9}\), 50 \% \(\pm\) 1"
    assert latex.escape("1e-07 & α, h₀ at η") == r"\(10^{-7}\) \& \(\alpha \), h\(_0\) at \(\eta \)"
    assert latex.macro_name("audit acc dfa", "L 12") == "AuditAccDfaLOneTwo"


def test_panels_without_measurements_say_so_and_keep_the_ticks_that_others_need():
    """Left column: a value of the study above an empty panel. Right: nothing but a zero line. The row shares y, the columns x."""
    picture, axes = plt.subplots(2, 2, sharex="col", sharey="row")
    axes[0, 0].plot([0.5], [0.2], "_")
    axes[1, 1].axhline(0)
    axes[1, 1].plot([], [], "_")
    figures.note_empty(*axes.flat)
    assert all(any(text.get_text() == "not run" for text in ax.texts) for ax in axes.flat)
    sides = {"bottom": "xaxis", "left": "yaxis"}
    labelled = {side: [getattr(ax, axis).get_tick_params()[f"label{side}"] for ax in axes.flat] for side, axis in sides.items()}
    assert labelled["bottom"][2] and not labelled["bottom"][3] and labelled["left"][0] and not labelled["left"][2]
    axes[1, 1].errorbar([1], [1])
    before = len(axes[1, 1].texts)
    figures.note_empty(axes[1, 1])
    assert len(axes[1, 1].texts) == before
    plt.close(picture)


def test_a_run_of_several_arms_is_noted_under_all_their_labels(tmp_path):
    study, config = Study("03_x", "x", tmp_path, tmp_path, train=False), tiny("dfa")
    arms = {"wr 0.2": [config], ("code", "eT"): [config, config.with_(seed=2)]}
    for _ in range(2):  # a cell may be run again
        assert study.run(arms) == {"wr 0.2": [], ("code", "eT"): []}
    assert [row["label"] for row in study.rows.values()] == ["wr 0.2 = code eT", "code eT"]
    assert study.state().startswith("0 of 2 runs have records, 0 diverged; not run: wr 0.2 = code eT; code eT (about")
