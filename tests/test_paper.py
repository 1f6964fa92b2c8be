"""What the paper owes its reader: sentences that say what the records say, and no typed figures."""

import json
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pandas as pd
import pytest
from conftest import drawn
from hypothesis import given
from hypothesis import strategies as st

from faeval_core import RunConfig
from faeval_core.ground.files import publish_json, studies
from faeval_core.measure import protocol
from faeval_core.measure.stats import WORDS, Estimate
from faeval_core.report import latex, tables

ROOT = Path(__file__).resolve().parent.parent
PAPER = ROOT / "paper"
TEXTS = ("main.tex", "supplement.tex", "checklist.tex")
CLAIMS = {id: claim for id, claim, _ in latex.numbered(ROOT / "results")}

# Of the study's protocol and design list (SCIENCE, sections 3 and 4), no rows of its record.
GIVEN = {
    "0.1": "temperature of the soft minimum, and noise of its copies",
    "0.995": "decay of the Credit Bridge's slow average",
    "0.03": "process noise of the toy",
    "0.30": "threshold of (c)",
    "0.01": "step of the nudge",
    "0.96": "numerator of the law that FA's deep cosine follows",
}
# Choices of ours that no claim has as its bound or smallest effect.
CHOSEN = {
    str(protocol.RESCALE_DRIFT): "drift at which (b') fires",
    str(protocol.TWIN_FLOOR): "twin at which (b') fires",
    str(latex.PENALISED["penalty"]): "the block penalty",
    str(tables.tolerance("test_acc", 0.4)): "how far an accuracy may be off and be close",
    "0.14": "scale of the toy's matrices",
    "0.5": "step of EP's relaxation",
}


def text(name: str) -> str:
    """A file of the paper without its comments."""
    return re.sub(r"(?<!\\)%.*", "", (PAPER / name).read_text(encoding="utf-8"))


def stated(source: str) -> list[tuple[str, str]]:
    r"""(id, verdict) of every \claim and \claimrow of a text; a sentence may rest on several."""
    plain = re.findall(r"\\claim\*?\{([^}]*)\}\{([^}]*)\}", source)
    rows = re.findall(r"\\claimrow\{[^}]*\}\{([^}]*)\}\{([^}]*)\}", source)
    return [(id, verdict) for ids, verdict in plain + rows for id in ids.split(",")]


def refuted(source: str, claims: dict) -> list[str]:
    """What a text says of claims that is not so, one line each."""
    return [
        f"{id} is {claims[id]['decided'] if id in claims else 'no claim'}, not {verdict}"
        for id, verdict in stated(source)
        if id not in claims or claims[id]["decided"] != verdict
    ]


@pytest.mark.parametrize("name", TEXTS)
def test_every_sentence_says_what_became_of_its_claims(name):
    assert refuted(text(name), CLAIMS) == []


def test_the_papers_findings_each_rest_on_claims():
    """A subsection of the results without a claim would be unguarded."""
    results = text("main.tex").partition(r"\section{Results}")[2].partition(r"\section{Disc")[0]
    parts = results.split(r"\subsection{")[1:]
    assert len(parts) > 5 and all(stated(part) for part in parts)
    assert len(stated(text("main.tex"))) > 60


@pytest.mark.parametrize("word", WORDS)
def test_a_sentence_is_refuted_by_any_other_verdict(word):
    claims = {"01/a-b": {"decided": word}, "01/c_d": {"decided": word}}
    for ids in ("01/a-b", "01/a-b,01/c_d"):
        named = rf"{{{ids}}}{{{word}}}"
        source = rf"\claim{named}{{It is \emph{{so}}.}} \claimrow{{H1}}{named}{{it}}"
        assert len(stated(source)) == 2 * len(ids.split(",")) and refuted(source, claims) == []
        for other in {*WORDS} - {word}:
            turned = claims | {"01/a-b": {"decided": other}}
            assert refuted(source, turned) == [f"01/a-b is {other}, not {word}"] * 2
    assert refuted(r"\claim*{01/gone}{holds}{x}", claims) == ["01/gone is no claim, not holds"]


@pytest.mark.parametrize("name", TEXTS)
def test_every_estimate_that_a_text_names_is_of_a_claim_with_records(name):
    named = set(re.findall(r"\\(?:effect|reversed|holmp)\{([^}#]*)\}", text(name)))
    assert {
        id for id in named if CLAIMS.get(id, {}).get("decided", "not run") == "not run"
    } == set()


@pytest.mark.parametrize("name", TEXTS)
def test_what_a_text_calls_not_run_has_no_record(name):
    """By the macro of its value, which is a dash until there is one."""
    macros = (PAPER / "generated" / "macros.tex").read_text(encoding="utf-8")
    made = dict(re.findall(r"newcommand\{\\(\w+)\}\{(.*)\}", macros))
    called = re.findall(r"\\missing\{\\(\w+)\}", text(name))
    assert {made.get(macro) for macro in called} <= {"---"}


def numbers(source: str, command: str) -> set[str]:
    return set(re.findall(rf"\\{command}\{{(-?[\d.]+)\}}", source))


@pytest.mark.parametrize("name", TEXTS)
def test_published_values_are_the_studys(name):
    frame = pd.read_csv(tables.REFERENCE)
    known = {Fraction(str(v)) for column in ("value", "sd") for v in frame[column].dropna()}
    strange = {v for v in numbers(text(name), "published") if Fraction(v) not in known}
    assert strange - {*GIVEN} == set()


@pytest.mark.parametrize("name", TEXTS)
def test_chosen_values_are_bounds_of_claims_or_choices_told_here(name):
    bounds = {c.get(k) for c in CLAIMS.values() for k in ("above", "below", "smallest")}
    known = {Fraction(str(v)) for v in bounds - {None}} | {*map(Fraction, CHOSEN)}
    assert {v for v in numbers(text(name), "chosen") if Fraction(v) not in known} == set()


def typed(source: str) -> list[str]:
    """The decimal numbers that stand in a text as they are: neither of a macro, nor marked as the
    study's or as a choice.
    """
    body = source.partition(r"\maketitle")[2] or source
    marked = re.sub(r"\\(?:published|chosen)\{-?[\d.]+\}", "", body)
    layout = re.sub(r"-?[\d.]+(?=\\(?:linewidth|textwidth)|[a-z]{2}\b[\]}])", "", marked)
    return re.findall(r"\d*\.\d+", layout)


@pytest.mark.parametrize("name", TEXTS)
def test_no_measured_number_is_typed(name):
    assert typed(text(name)) == []


def test_a_typed_number_is_found_and_a_marked_one_is_not():
    kept = r"a \published{0.306}, \chosen{0.01}, \NbOneOneAcc, v. 2, [width=0.8\linewidth]"
    assert typed(kept) == [] and typed(kept + " 0.525") == ["0.525"]
    assert typed(r"\maketitle reaches .51 in \(1.5\times\)") == [".51", "1.5"]


def test_the_generated_part_is_that_of_the_records(tmp_path):
    latex.write(ROOT / "results", tmp_path)
    made = {p.name: p.read_text(encoding="utf-8") for p in (tmp_path / "generated").iterdir()}
    kept = {p.name: p.read_text(encoding="utf-8") for p in (PAPER / "generated").iterdir()}
    assert kept == made
    for name in TEXTS:
        inputs = re.findall(r"\\input\{generated/(\w+)\}", text(name))
        assert {f"{part}.tex" for part in inputs} <= set(made)


@drawn(15)
@given(st.lists(st.sampled_from(WORDS), max_size=6))
def test_rows_count_the_claims_with_records(words):
    with TemporaryDirectory() as folder:
        for notebook in ("01_a", "02_b"):
            claims = [{"name": f"c{i}", "decided": word} for i, word in enumerate(words)]
            publish_json(Path(folder, "studies", f"{notebook}.json"), {"claims": claims})
        found = latex.numbered(Path(folder))
    assert [id for id, _, _ in found] == [
        f"{n}/c{i}" for n in ("01", "02") for i in range(len(words))
    ]
    rows = [row for _, claim, row in found if claim["decided"] != "not run"]
    assert rows == list(range(1, len(rows) + 1))
    assert all(row is None for _, claim, row in found if claim["decided"] == "not run")


def test_latex_knows_each_claims_verdict_and_row():
    """Rows count those with records, in the order of the supplement's table."""
    verdicts = (PAPER / "generated" / "verdicts.tex").read_text(encoding="utf-8")
    told = re.findall(r"\\faevalclaim\{(.*?)\}\{(.*?)\}\{(\d*)\}", verdicts)
    assert [(id, word) for id, word, _ in told] == [(id, c["decided"]) for id, c in CLAIMS.items()]
    rows = [int(row) for _, word, row in told if word != "not run"]
    assert rows == list(range(1, len(rows) + 1)) and all(
        not row for _, word, row in told if word == "not run"
    )
    ids = re.findall(
        r"^(\d+) &.*& (\S+) \\\\$",
        (PAPER / "generated" / "claims.tex").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert ids == [(row, latex.escape(id)) for id, _, row in told if row]


def test_every_citation_has_an_entry_and_every_entry_is_cited():
    keys = re.findall(r"^@\w+\{([^,]+),", text("references.bib"), re.MULTILINE)
    cited = re.findall(r"\\cite[pt]\{([^}]*)\}", "".join(map(text, TEXTS)))
    assert {key for group in cited for key in group.split(",")} == set(keys)
    assert len(keys) == len(set(keys)) >= 25


# -- estimates

HALVES = st.floats(2e-5, 1e3)


@given(st.floats(-1e3, 1e3), HALVES)
def test_a_rounded_estimate_keeps_two_digits_of_half_its_width(mean, half):
    recorded = f"{mean:.6f} [{mean - half:.6f}, {mean + half:.6f}] (n=3)"
    shown = latex.effect(recorded)
    found = [float(v) for v in re.findall(latex.NUMBER, shown)]
    coarsest = max(half / 10, 5e-7) if half < 1e-3 else max(half / 10, 5e-4)
    for value, wanted in zip(found, (mean, mean - half, mean + half), strict=True):
        assert abs(value - wanted) <= coarsest + 1e-6
    turned = [float(v) for v in re.findall(latex.NUMBER, latex.effect(recorded, -1))]
    assert turned == [-found[0], -found[2], -found[1]]


@pytest.mark.parametrize(
    "recorded, shown, turned",
    [
        ("0.0137 [-0.00399, 0.0315] (n=3)", "0.014 [-0.004, 0.032]", "-0.014 [-0.032, 0.004]"),
        ("0.118 [0.0854, 0.15] (n=1 net, 4 batches)", "0.118 [0.085, 0.150]", None),
        ("0.937 [0.93, 0.944] (n=3)", "0.937 [0.930, 0.944]", "-0.937 [-0.944, -0.930]"),
        ("-9.05 [-9.28, -8.81] (n=3)", "-9.05 [-9.28, -8.81]", "9.05 [8.81, 9.28]"),
        ("0.18 (n=1 nets, no interval)", "0.18", "-0.18"),
        ("1 [1, 1] (n=3)", "1 [1, 1]", "-1 [-1, -1]"),
        ("no records", "no records", "no records"),
    ],
)
def test_estimates_as_sentences_name_them(recorded, shown, turned):
    assert latex.effect(recorded) == shown
    assert turned is None or latex.effect(recorded, -1) == turned


@given(st.floats(-1e6, 1e6), st.floats(0, 1e4), st.integers(1, 70))
def test_what_a_study_notes_of_an_estimate_can_be_read(mean, error, n):
    for kind in ({}, {"unit": "batches", "of": "net"}):
        noted = str(Estimate(n, mean, error, df=max(n - 1, 1), **kind).interval())
        assert latex.ESTIMATE.fullmatch(noted), noted


def test_an_estimate_that_cannot_be_read_is_an_error():
    with pytest.raises(ValueError, match=r"reads '0\.5 or so'"):
        latex.effect("0.5 or so")


def test_a_negative_number_has_a_minus_and_a_hyphen_stays():
    assert latex.escape("-0.5 [-1, -2e-05] top-down 1-2 x-3") == (
        r"\(-\)0.5 [\(-\)1, \(-2\!\times\!10^{-5}\)] top-down 1-2 x-3"
    )


# -- settings


def test_settings_are_told_apart_and_exact_credit_is_paired_with_each(monkeypatch):
    base = RunConfig("dfa", "digits", width=8, depth=2, epochs=1)
    wanted = {f"setting {m} raw": {"method": m, "penalty": 0.0} for m in ("oracle", "dfa", "cb")}
    monkeypatch.setattr(latex, "SETTINGS", wanted)

    def record(accuracy, method="dfa", **changes):
        return SimpleNamespace(
            config=replace(base, method=method, options={}).with_(**changes), accuracy=accuracy
        )

    exact = [record(0.7, "oracle", seed=3), record(0.5, "oracle", seed=1)]
    exact += [record(0.6, "oracle", seed=2)]
    rules = [record(0.4, seed=1), record(0.48, seed=2), record(0.9, penalty=0.01)]
    found = dict(latex.setting_macros([*exact, *rules]))
    assert found["SettingDfaRaw"] == "0.440 ± 0.057" and found["SettingCbRaw"] == "—"
    assert found["SettingLeadOverDfaRaw"] == "0.11 [-0.02, 0.24]"
    assert found["SettingLeadOverCbRaw"] == "—"
    with pytest.raises(ValueError, match="records of 2 settings are all 'setting dfa raw'"):
        latex.settings([*rules, record(0.6, seed=1, credit_norm="sample_rms")])


ROWS = st.tuples(
    st.sampled_from(("", "01_a", "02_b")), st.sampled_from(tables.ANSWERS), st.booleans()
)


@drawn(15)
@given(st.lists(ROWS, min_size=1, max_size=30))
def test_rows_of_the_study_are_counted_once_each(rows):
    frame = pd.DataFrame(rows, columns=["notebook", "verdict", "calibrated"])
    body = latex.reproduction_tabular(frame).partition(r"\midrule")[2].partition(r"\bottomrule")[0]
    lines = [line.rstrip("\\ ").split(" & ") for line in body.split("\n") if "&" in line]
    found = {name: [int(n) for n in counts] for name, *counts in lines}
    wanted = {}
    for notebook, verdict, calibrated in rows:
        apart = calibrated and verdict != "not run"
        column = len(tables.ANSWERS) if apart else tables.ANSWERS.index(verdict)
        counted = wanted.setdefault(latex.escape(notebook or "no notebook"), [0] * 7)
        counted[column] += 1
        counted[-1] += 1
    wanted["all"] = [sum(column) for column in zip(*wanted.values())]
    assert found == wanted


def test_diagnoses_below_the_threshold_are_those_that_were_counted(tmp_path):
    assert latex.reference_validity(tmp_path) == []
    folder = tmp_path / "protocol_calibration"
    folder.mkdir()
    below = {"diagnoses": 7, "(b') fires": 2, "worst cosine with float64": "0.5", "other": 1}
    told = {"diagnoses": {"(b) fires": below, "(b) silent": {"diagnoses": 3}}}
    (folder / "published_against_invariant.json").write_text(json.dumps(told), encoding="utf-8")
    assert latex.reference_validity(tmp_path) == [
        ("BelowThresholdDiagnoses", 7),
        ("BelowThresholdInvalid", 2),
        ("BelowThresholdWorstTwin", "0.5"),
    ]


def test_ids_of_claims_are_one_each():
    claims = [c for s in studies(ROOT / "results", ("claims",)).values() for c in s["claims"]]
    assert len(CLAIMS) == len(claims)
