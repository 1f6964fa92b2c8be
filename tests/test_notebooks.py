"""What every committed notebook owes its reader."""

import ast
import html
import json
import linecache
import re
from pathlib import Path

import pandas as pd
import pytest
import test_readme

from faeval_core import METHODS, RunConfig, Store
from faeval_core.report import latex, pipeline, readme, table1, tables

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def cells(path):
    """(type, source, text of its outputs) of every cell."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        outputs = [
            "".join(o.get("text") or o.get("data", {}).get("text/plain", ""))
            for o in cell.get("outputs", [])
        ]
        yield cell["cell_type"], "".join(cell["source"]), "\n".join(outputs)


every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
# the tour shows one table of an audit, whose call is the point of it
every_study = pytest.mark.parametrize("path", NOTEBOOKS[1:], ids=lambda p: p.stem)
SENTENCE = re.compile(r"(?<=[.?])\s+(?=[A-Z])")
PRIVATE = re.compile(r"\b(?:recipes?|arms?|floors?|copied)\b", re.IGNORECASE)


def raw_cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def summary_of(path):
    summary = (ROOT / "results" / "studies" / path.name).with_suffix(".json")
    return json.loads(summary.read_text(encoding="utf-8"))


def in_html(cell):
    return "\n".join(
        "".join(o.get("data", {}).get("text/html", "")) for o in cell.get("outputs", ())
    )


@every_notebook
def test_it_opens_with_a_question_and_an_answer_whose_figures_it_shows(path):
    (_, opening, _), *_ = cells(path)
    title, _, _, _, question, short, words = opening.split("\n\n")
    assert title.startswith("# ")
    assert question.startswith("**Question.** ") and question.endswith("?")
    assert short.startswith("**In short.** ") and "(../docs/glossary.md)" in words
    assert 3 <= len(SENTENCE.split(short.removeprefix("**In short.** "))) <= 5
    claimed = set(test_readme.FIGURE.findall(re.sub(r"\$[^$]*\$", "", short)))
    known = test_readme.shown(path.stem[:2])
    missing = {f for f in claimed if not test_readme.is_among(f, known)}
    assert not missing, f"{path.name} opens with figures that no output shows: {missing}"


@every_notebook
def test_its_badge_says_how_much_is_run(path):
    (_, opening, _), *_ = cells(path)
    assert readme.badged(opening, summary_of(path)["runs"]) == opening


@every_study
def test_figures_come_before_tables_and_without_their_code(path):
    tables_seen = False
    for cell in raw_cells(path):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            tables_seen = tables_seen and not re.search("^##", source, re.MULTILINE)
            continue
        if any("image/png" in o.get("data", {}) for o in cell["outputs"]):
            assert "hide-input" in cell["metadata"].get("tags", ()), source
            assert not tables_seen, f"a table stands before this figure of its section: {source}"
        tables_seen = tables_seen or "<table" in in_html(cell)


@every_study
def test_no_table_shows_what_is_not_run_or_more_digits_than_mean_anything(path):
    for cell in raw_cells(path):
        shown = in_html(cell)
        assert not re.search(r"<td>(?:not run|NaN|nan|None)</td>|\d\.\d{7}", shown), shown


@every_study
def test_a_reader_meets_no_private_word(path):
    seen = [
        "".join(cell["source"])
        if cell["cell_type"] == "markdown"
        else "\n".join(map(test_readme.told, cell["outputs"]))
        for cell in raw_cells(path)
    ]
    lines = "\n".join(seen).splitlines()
    assert [line for line in lines if PRIVATE.search(line)] == []


@pytest.mark.parametrize("path", [*NOTEBOOKS, ROOT / "reproduce_all.ipynb"], ids=lambda p: p.stem)
def test_no_code_cell_is_longer_than_a_screen(path):
    assert [
        source
        for kind, source, _ in cells(path)
        if kind == "code" and len(source.splitlines()) > 25
    ] == []


TABLE = pd.read_csv(ROOT / "results" / "reproduction.csv")
COUNTS = tables.counts(TABLE)


def test_the_table_of_reproduction_is_what_the_studies_noted():
    made = tables.reproduction(ROOT / "results")
    columns = [*tables.KEY, "calibrated", "verdict", "notebook"]
    assert made[columns].equals(TABLE.fillna({"notebook": ""})[columns])


def test_reproduce_all_shows_the_same_counts():
    shown = "\n".join(text for _, _, text in cells(ROOT / "reproduce_all.ipynb"))
    plain = ", ".join(f"{COUNTS[a]} {a}" for a in tables.ANSWERS)
    apart = ", ".join(f"{n} {a}" for a, n in COUNTS["calibrated"].items())
    assert (
        f"{len(TABLE)} values: {plain}\nand {sum(COUNTS['calibrated'].values())} calibrated: "
        f"{apart}"
    ) in shown


def test_the_paper_has_these_counts_and_every_macro_that_it_names():
    macros = (ROOT / "paper" / "generated" / "macros.tex").read_text(encoding="utf-8")
    made = dict(re.findall(r"newcommand\{\\(\w+)\}\{(.*)\}", macros))
    assert made == {
        name: latex.escape(text) for name, text in latex.macros(ROOT / "results").items()
    }
    texts = (ROOT / "paper" / name for name in ("main.tex", "supplement.tex"))
    text = "\n".join(path.read_text(encoding="utf-8") for path in texts)
    named = set(
        re.findall(r"\\((?:Nb|Reproduction|Setting|BelowThreshold|Claims|Records)[A-Za-z]+)", text)
    )
    assert named <= set(made)
    told = {"Rows": len(TABLE), **{a.title().replace(" ", ""): COUNTS[a] for a in tables.ANSWERS}}
    told = {f"Reproduction{answer}": str(n) for answer, n in told.items()}
    assert {name: made[name] for name in told} == told and set(told) <= named


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_claims_are_printed_as_they_are_noted(path):
    """A claim with a figure is printed as the summary holds it, the others stand under what is not
    run.
    """
    summary = summary_of(path)
    shown = "\n".join(text for _, _, text in cells(path))
    lines = {
        tuple(part.strip() for part in line.split(" | ")[:2])
        for line in shown.splitlines()
        if " | " in line
    }
    decided = {(c["decided"], c["statement"]) for c in summary["claims"]}
    waiting = {statement for word, statement in decided if word == "not run"}
    assert {(word, statement) for word, statement in decided if word != "not run"} <= lines
    opened = html.unescape("\n".join(map(in_html, raw_cells(path))))
    assert waiting <= set(re.findall("<li>(.*?)</li>", opened))
    assert all(c["smallest"] > 0 or c.get("above", c.get("below")) != 0 for c in summary["claims"])


def test_the_tours_rule_is_the_one_that_its_records_are_said_to_be_of(monkeypatch):
    """They are from before records named the code of a rule; results/rules.json names it
    (Store.adopt).
    """
    source = next(
        s for kind, s, _ in cells(ROOT / "notebooks" / "00_tour.ipynb") if "class Broadcast" in s
    )
    monkeypatch.setitem(
        linecache.cache, "tour", (len(source), None, source.splitlines(True), "tour")
    )
    space = {"__name__": "__main__"}
    exec(compile(source, "tour", "exec"), space)
    monkeypatch.setitem(METHODS, "broadcast", space["Broadcast"])
    base = RunConfig("broadcast", "digits", width=64, epochs=30, augment=False)
    found = [Store(ROOT / "results").get(base.with_(seed=s)) for s in (42, 123, 456)]
    assert [round(r.accuracy, 3) for r in found] == [0.969, 0.972, 0.969] and {
        r.config.code for r in found
    } == {base.code}


def test_table1_is_that_of_notebook_11():
    """Row by row from the records, as the notebook has written them; the study's values beside."""
    kept = ROOT / "results" / "protocol_audit" / "audit_table_s42_s123_s456.json"
    written = json.loads(kept.read_text(encoding="utf-8"))["rows"]
    table = table1.table1(ROOT / "results")
    assert list(table["n"]) == [row["n"] for row in written]
    assert list(table["test accuracy"]) == [tables.pm(row["test_acc"]) for row in written]
    assert list(table["study's protocol"]) == [row["published"] for row in written]
    study = tables.reference("protocol_audit", metric="test_acc")
    assert set(table["study's accuracy"]) - {""} == {
        v for k, v in study.items() if k.startswith("d=256,L=4,epochs=100,")
    }


def test_table1_names_what_it_needs(tmp_path):
    with pytest.raises(ValueError, match="no runs of Table 1 for bp, fa, .* committed results"):
        table1.table1(tmp_path)


def test_reproduce_all_shows_what_the_results_hold(monkeypatch, capsys):
    """Each of its cells, run on the committed results, prints and shows what is committed with it;
    the notebooks that it runs are run by nbval, each on its own.
    """
    rows = [{"name": path.stem, "status": "complete"} for path in NOTEBOOKS]
    manifest = {"notebooks": rows, "failed": []}
    monkeypatch.setattr(pipeline, "reproduce", lambda *_, **__: manifest)
    monkeypatch.chdir(ROOT)
    space = {"__name__": "__main__"}
    code = [(s, shown) for kind, s, shown in cells(ROOT / "reproduce_all.ipynb") if kind == "code"]
    with pd.option_context(
        *("display.max_columns", 20),  # as in a kernel
        *("display.max_rows", None, "display.max_colwidth", None, "display.float_format", None),
    ):
        for source, shown in code:
            *body, last = ast.parse(source).body
            plain = not isinstance(last, ast.Expr)
            exec(
                compile(ast.Module([*body, *([last] if plain else [])], []), "cell", "exec"), space
            )
            value = (
                None if plain else eval(compile(ast.Expression(last.value), "cell", "eval"), space)
            )
            told = [capsys.readouterr().out, *([] if value is None else [repr(value)])]
            if "pipeline.reproduce" not in source:  # which prints how it went
                assert "\n".join(filter(None, told)) == shown
