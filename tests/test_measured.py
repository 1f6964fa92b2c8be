"""Verdicts on numbers that someone else measured: thresholds, what is lacking, what is wrong."""

import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import drawn
from hypothesis import given
from hypothesis import strategies as st
from test_judge import LEVELS, WRITERS, Stream, bp, samples

from faeval_core import judge
from faeval_core.__main__ import main
from faeval_core.measure import protocol
from faeval_core.measure.letters import SPELLED
from faeval_core.report.measured import KNOWN, STATUS, verdict_from

SOUND = {
    "method": "mine",
    "seed": 1,
    "accuracy": 0.6,
    "frozen_accuracy": 0.3,
    "growth": 2.0,
    "g_norm": [1e-3, 1e-3, 1e-3],
    "stability": 0.1,
    "twin": 1.0,
    "gamma": [0.5, 0.5, 0.6],
    "gamma_copied": [0.2, 0.3, 1.0],
    "gamma_rescaled": [0.5, 0.5, 0.6],
    "g_norm_rescaled": [1e-8, 1e-8, 1e-8],
    "rescale_factor": 1e5,
}


def without(*columns):
    return {k: v for k, v in SOUND.items() if k not in columns}


@pytest.mark.parametrize(
    "changes, letter, fired",
    [
        ({"growth": 51}, "a", True),
        ({"growth": 50}, "a", False),
        ({"growth": None, "h_norm": [1.0, 60.0, 61.0]}, "a", True),
        ({"growth": None, "h_norm": [1.0, 40.0, 1600.0]}, "a", False),
        ({"growth": math.nan}, "a", None),
        ({"growth": None, "h_norm": [1.0, None, 61.0]}, "a", None),
        ({"growth": None, "h_norm": [0.0, 1.0]}, "a", None),
        ({"g_norm": [1e-3, 1e-8]}, "b", True),
        ({"g_norm": [1e-8, 1e-3]}, "b", False),
        ({"g_norm": 1e-8}, "b", True),
        ({"g_norm": ""}, "b", None),
        ({"twin": 0.98}, "b'", True),
        ({"twin": [1.0, 0.98]}, "b'", True),
        ({"twin": None}, "b'", None),
        ({"twin": [1.0, None]}, "b'", None),
        ({"gamma_rescaled": [0.5, 0.5, 0.62]}, "b'", True),
        ({"gamma_rescaled": [0.5, 0.5, 0.609]}, "b'", False),
        ({"gamma_rescaled": [0.5]}, "b'", None),
        ({"rescale_factor": None}, "b'", None),
        ({"g_norm_rescaled": [1e-3] * 3}, "b'", None),
        (
            {"gamma": 0.5, "g_norm": 1e-3, "gamma_rescaled": 0.5, "g_norm_rescaled": 1e-8},
            "b'",
            None,
        ),
        ({"gamma_copied": [0.2, 0.45, 1.0]}, "e", True),
        ({"gamma_copied": [0.2, 0.44, 1.0]}, "e", False),
        ({"gamma_copied": [0.2, 0.6, 1.0]}, "e", True),
        ({"gamma_copied": [0.2, None, 1.0]}, "e", None),
        ({"gamma": [0.5, 0.985, 0.6], "gamma_copied": [0.2, 0.985, 1.0]}, "e", None),
        ({"gamma_copied": None}, "e", None),
        ({"stability": 0.31}, "c", True),
        ({"stability": pd.NA}, "c", None),
        ({"accuracy": 0.319}, "d", True),
        ({"accuracy": 0.321}, "d", False),
        ({"accuracy": None}, "d", None),
        ({"frozen_accuracy": None}, "d", None),
    ],
)
def test_each_letter_fires_beyond_its_threshold_or_says_what_it_lacks(changes, letter, fired):
    assert verdict_from([SOUND]).verdicts["mine"].text(protocol.INVARIANT) == "trustworthy"
    found = verdict_from([SOUND | changes])
    counts = {None: (0, 0), False: (0, 1), True: (1, 1)}
    assert found.verdicts["mine"].counts[letter] == counts[fired]
    assert (letter in found.undefined["mine"]) is (fired is None)
    if fired is None:
        assert f"({letter}) is undefined: {found.undefined['mine'][letter]}" in found.text


COLUMNS = sorted(set(SOUND) - {"method", "seed"})


@drawn(30)
@given(st.sets(st.sampled_from(COLUMNS)), st.sampled_from(["none", "nan", "absent"]))
def test_any_columns_may_be_missing(gone, how):
    """Whatever is missing, every letter that is then undefined says why, and no other one is."""
    row = without(*gone) | ({} if how == "absent" else dict.fromkeys(gone, math.nan))
    if gone == set(COLUMNS) and how == "absent":
        with pytest.raises(ValueError, match="no column holds a measurement"):
            verdict_from([row])
        return
    frame = pd.DataFrame([row]).astype(object) if how == "none" else [row]
    found = verdict_from(frame)
    needs = {
        "a": {"growth"},
        "b": {"g_norm"},
        "c": {"stability"},
        "d": {"accuracy", "frozen_accuracy"},
        "b'": set(COLUMNS) - {"growth", "stability", "accuracy", "frozen_accuracy", "gamma_copied"},
        "e": {"gamma", "gamma_copied"},
    }
    for letter, columns in needs.items():
        assert (letter in found.undefined["mine"]) == bool(columns & gone), letter
    assert all(found.undefined["mine"].values())


def test_a_letter_that_bps_own_rows_fire_has_no_power_over_the_others():
    rows = [SOUND | {"stability": 0.5}, SOUND | {"method": "BP", "stability": 0.6}]
    found = verdict_from(rows)
    assert found.powerless == ["c"]
    assert "  (c) has no power here: BP itself fires it." in found.lines
    table = found.to_frame()
    assert table.loc["mine", "study's protocol"].endswith("no power here: (c)")
    assert table.loc["BP", "study's protocol"] == "fires (c)"
    assert sum("Withdraw" in line for line in found.lines) == 1  # what BP's own rows say


def test_frozen_rows_are_the_baseline_of_their_seed_or_by_their_mean():
    rows = [{"method": "frozen", "seed": s, "accuracy": a} for s, a in ((1, 0.3), (2, 0.5))]
    rows += [{"method": "dfa", "seed": s, "accuracy": 0.45} for s in (1, 2, 3)]
    counts = verdict_from(rows).verdicts["dfa"].counts["d"]
    assert counts == (1, 3)  # 0.15, -0.05 and 0.05 above
    unseeded = [{k: v for k, v in row.items() if k != "seed"} for row in rows]
    assert verdict_from(unseeded).verdicts["dfa"].counts["d"] == (0, 3)  # 0.05 above their mean


def test_a_csv_file_and_a_frame_are_read_alike(tmp_path):
    table = (
        "method, seed, accuracy, g_norm_0, g_norm_1, h_norm_0, h_norm_1, status, gamm, note\n"
        "dfa, 42, 0.28, 1e-3, 1e-9, 1, 70, , 1, x\n"
        "dfa, 123, 0.29, 1e-3, 1e-9, 1, 80, complete, 1, x\n"
        "dfa, 456, , , , , , diverged, 1, x\n"
        "frozen, 42, 0.34, , , , , , 1, x\n"
    )
    path = tmp_path / "numbers.csv"
    path.write_text(table, encoding="utf-8")
    found = verdict_from(path)
    assert verdict_from(str(path)).text == found.text
    frame = pd.read_csv(path, skipinitialspace=True)
    assert verdict_from(frame).text == found.text
    judged = found.verdicts["dfa"]
    assert judged.fired() == ["a", "b", "d"] and (judged.runs, judged.diverged) == (3, 1)
    assert found.nets["dfa"][0].diagnosis["growth"] == 70
    assert "column 'gamm' (did you mean 'gamma'?), column 'note'" in found.notes[0]
    assert found.to_frame().loc["dfa", "accuracy"] == "0.285 ± 0.007"
    assert "70 beyond" not in found.text and "(c) is undefined: no stability is given" in found.text


@pytest.mark.parametrize(
    "rows, message",
    [
        (
            [SOUND | {"accuracy": "good"}],
            r"row 1 \(mine, seed 1\): accuracy is 'good', which is no",
        ),
        ([SOUND | {"accuracy": "61.3%"}], "which is no number; write 61.3 % as 0.613"),
        (
            [SOUND | {"accuracy": 61.3}],
            "accuracy is 61.3; accuracies lie in 0..1, where 61.3 % is 0",
        ),
        ([SOUND | {"frozen_accuracy": -0.1}], "frozen_accuracy is -0.1; accuracies lie in 0..1"),
        ([SOUND | {"g_norm": [1e-3, -1.0]}], "g_norm is -1.0; norms and their ratios are not neg"),
        ([without("g_norm") | {"g_norm_0": 1, "g_norm_1": -1}], "g_norm_1 is -1; norms"),
        ([SOUND | {"growth": math.inf}], "growth is inf, which is no finite number.*'diverged'"),
        ([SOUND | {"growth": -2}], "growth is -2; norms"),
        ([SOUND | {"stability": 1.2}], "stability is 1.2; cosines and correlations lie in -1..1"),
        ([SOUND | {"gamma": [0.5, -3]}], "gamma is -3; cosines"),
        ([SOUND | {"stability": True}], "stability is True, which is no finite number"),
        ([SOUND | {"rescale_factor": 0.1}], "rescale_factor is 0.1; the stream is written larger"),
        ([SOUND | {"status": "done"}], "status is 'done', not complete or diverged"),
        ([SOUND | {"method": None}], "row 1 has no method; name it"),
        ([SOUND, SOUND], "method 'mine' has seed 1 twice"),
        ([SOUND | {"g_norm_0": 1}], "the table has g_norm and g_norm_0; keep g_norm_0, g_norm_1"),
        (
            [without("g_norm") | {"g_norm_1": 1}],
            "has g_norm_1 and no g_norm_0; levels count from 0",
        ),
        ([], "the table has no rows"),
        ([1], "a list of dicts or a path, not of 1"),
        ([{"method": "x", "acuracy": 1}], "no column holds a measurement: 'method', 'acuracy'"),
        (pd.DataFrame([[1, 2]], columns=["growth", " growth"]), "has column 'growth' twice"),
        ([{"level": 0, "gamma": 1}], "has a row for each level; give a row for each net"),
    ],
)
def test_what_no_measurement_can_be_is_named_by_its_place(rows, message):
    with pytest.raises(ValueError, match=message):
        verdict_from(rows)


@pytest.mark.parametrize("drawn_anew", [False, True])
def test_rows_of_judge_are_judged_as_it_judges_them(drawn_anew):
    credits = [bp, lambda *a: [np.random.default_rng().normal() * g for g in bp(*a)]]
    found = [
        judge(
            Stream(),
            LEVELS,
            credits[drawn_anew],
            *samples(),
            writers=WRITERS,
            accuracy=0.6,
            frozen_accuracy=0.59,
            stability_batches=[samples(128) for _ in range(8)],
        )
        for _ in range(2)
    ]
    judged = verdict_from([f.to_row(method="mine", seed=i) for i, f in enumerate(found)])
    counts = judged.verdicts["mine"].counts
    for letter, (fired, defined) in counts.items():
        assert fired == sum(bool(f.fired[letter]) for f in found)
        assert defined == sum(f.fired[letter] is not None for f in found), letter
    assert counts["d"] == (2, 2) and counts["b'"][1] == (0 if drawn_anew else 2)
    with pytest.raises(ValueError, match=r"a row for each level; .* Judgement.to_row\(\)"):
        verdict_from(found[0].to_frame())


def test_the_command_line_judges_a_file(tmp_path, capsys):
    path = tmp_path / "numbers.csv"
    path.write_text("method,growth\nmine,60\n", encoding="utf-8")
    assert main(["judge", str(path)]) == 0
    told = "mine: fires (a) runaway growth; undefined: (b), (c), (d) (study's protocol"
    assert told in capsys.readouterr().out
    path.write_text("method,growth\nmine,lots\n", encoding="utf-8")
    for file, told in ((path, "row 1 (mine): growth is 'lots'"), (tmp_path / "x.csv", "x.csv")):
        assert main(["judge", str(file)]) == 2 and told in capsys.readouterr().err


def test_the_examples_of_the_page_run(capsys):
    page = (Path(__file__).parents[1] / "docs" / "judge.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    for block in blocks:
        exec(compile(block, "docs/judge.md", "exec"), names)
    told = capsys.readouterr().out
    fired = f"({', '.join(f'({k}) {SPELLED[k]}' for k in 'abd')}; undefined: (c) (study's protocol"
    assert len(blocks) == 2 and f"dfa: fires {fired[1:]}" in told
    assert names["found"].fired["b'"] is not None and names["table"]["rho"].notna().all()
    listed = re.search(r"^Columns: (.*?)\. One ", page, re.DOTALL | re.MULTILINE)[1]
    named = set(re.findall(r"`(\w+)`", listed)) - {"frozen", *STATUS, "h_norm_0", "h_norm_1"}
    assert named == set(KNOWN)
