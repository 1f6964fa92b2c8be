"""What every committed notebook owes its reader."""

import json
import linecache
import re
from pathlib import Path

import pandas as pd
import pytest

from faeval_core import METHODS, RunConfig, Store

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
FIGURE = re.compile(r"\d+\.\d+(?:e[-+]?\d+)?|\d+e[-+]?\d+")


def cells(path):
    """(type, source, text of its outputs) of every cell."""
    for cell in json.loads(path.read_text())["cells"]:
        outputs = ["".join(o.get("text") or o.get("data", {}).get("text/plain", "")) for o in cell.get("outputs", [])]
        yield cell["cell_type"], "".join(cell["source"]), "\n".join(outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_it_opens_with_what_was_measured_and_its_outputs_say_so(path):
    (_, opening, _), *rest = cells(path)
    _, found, measured = opening.partition("**Measured here.**")
    assert found and measured.strip()
    claimed, shown = FIGURE.findall(re.sub(r"\$[^$]*\$", "", measured)), FIGURE.findall("\n".join(text for _, _, text in rest))
    assert set(claimed) <= set(shown), f"{path.name} opens with figures that no output shows: {set(claimed) - set(shown)}"


@pytest.mark.parametrize("path", [*NOTEBOOKS, ROOT / "reproduce_all.ipynb"], ids=lambda p: p.stem)
def test_no_code_cell_is_longer_than_a_screen(path):
    assert [source for kind, source, _ in cells(path) if kind == "code" and len(source.splitlines()) > 25] == []


def test_the_readme_counts_the_reference_rows_as_they_stand():
    table = pd.read_csv(ROOT / "results" / "reproduction.csv")
    same = table[table.verdict == "reproduced"]
    told = r"Of its (\d+) values\s(\d+) agree here \((\d+) of them .*?\), (\d+) differ and (\d+) are not run"
    found = re.search(told, (ROOT / "README.md").read_text())
    counts = len(table), len(same), int(same.calibrated.sum()), *((table.verdict == v).sum() for v in ("differs", "not run"))
    assert found and tuple(map(int, found.groups())) == counts


def test_the_tours_rule_is_the_one_that_its_records_are_said_to_be_of(monkeypatch):
    """They are from before records named the code of a rule; results/rules.json names it (Store.adopt)."""
    source = next(s for kind, s, _ in cells(ROOT / "notebooks" / "00_tour.ipynb") if "class Broadcast" in s)
    monkeypatch.setitem(linecache.cache, "tour", (len(source), None, source.splitlines(True), "tour"))
    space = {"__name__": "__main__"}
    exec(compile(source, "tour", "exec"), space)
    monkeypatch.setitem(METHODS, "broadcast", space["Broadcast"])
    base = RunConfig("broadcast", "digits", width=64, epochs=30, augment=False)
    found = [Store(ROOT / "results").get(base.with_(seed=s)) for s in (42, 123, 456)]
    assert [round(r.accuracy, 3) for r in found] == [0.969, 0.972, 0.969] and {r.config.code for r in found} == {base.code}
