"""README and docs: what is generated is up to date, every figure was measured, and every link leads
somewhere.
"""

import html
import json
import re
from pathlib import Path

import pytest

from faeval_core.report import readme

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIGURE = re.compile(
    r"(?<![\w.])-?\d+\.\d+(?:e[-+]?\d+)?|(?<![\w.])\d+e[-+]?\d+|(?<![\w.])\d{3,}(?![\w.])"
)
NOTEBOOK = re.compile(r"notebooks? ((?:\d\d(?:, | and | to )?)+)")

pytestmark = pytest.mark.skipif(
    not (ROOT / "README.md").exists(), reason="a copy of the package and its tests alone"
)


def text_of(path):
    return path.read_text(encoding="utf-8")


def told(output: dict) -> str:
    """What a reader sees of an output of a cell: its text, or a table without the tags."""
    data = output.get("data", {})
    if page := "".join(data.get("text/html", "")):
        return html.unescape(re.sub("<[^>]+>", " ", page))
    return "".join(output.get("text") or data.get("text/plain", ""))


def shown(number: str) -> set[str]:
    """Figures that a notebook shows in its outputs, and those of the study beside them."""
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    found = set()
    for cell in json.loads(text_of(path))["cells"]:
        for output in cell.get("outputs", ()):
            found |= set(FIGURE.findall(told(output)))
    return found | {f"{v!r}" for v in readme.tables.reproduction(ROOT / "results").value}


def is_among(figure: str, values: set[str]) -> bool:
    """Whether a figure is one of the values, or one of them rounded to its decimals."""
    decimals = len(figure.partition(".")[2])
    return figure in values or any(
        f"{abs(float(v)):.{decimals}f}" == figure.lstrip("-") for v in values
    )


def test_the_generated_parts_of_the_readme_are_as_they_would_be_made():
    told = text_of(ROOT / "README.md")
    assert readme.updated(told, ROOT) == told
    assert len(told.splitlines()) <= 150


def statements():
    """(where, text, numbers of the notebooks that it rests on) of what the pages say was found."""
    for answer in text_of(ROOT / "docs" / "findings.md").split("\n### ")[1:]:
        body, _, rests_on = answer.partition("\n*Notebook")
        yield "findings", body, re.findall(r"\[(\d\d)\]", rests_on.splitlines()[0])
    text = text_of(ROOT / "README.md")
    for item in re.findall(r"^\d\. (.*?)(?=^\d\. |^## )", text, re.DOTALL | re.MULTILINE):
        yield "README", item, re.findall(r"\d\d", " ".join(NOTEBOOK.findall(item)))
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        yield path.stem, json.loads(text_of(path))["metadata"]["faeval"]["answer"], [path.stem[:2]]


@pytest.mark.parametrize("where, text, notebooks", list(statements()))
def test_every_figure_is_one_that_its_notebook_shows(where, text, notebooks):
    assert notebooks, f"{where} names no notebook: {text}"
    known = set().union(*map(shown, notebooks))
    figures = {f for f in FIGURE.findall(text) if f != "1e-3"}  # a setting of the study
    missing = {f for f in figures if not is_among(f, known)}
    assert not missing, f"{where}: no output of {notebooks} shows {missing}"


def test_the_verdict_in_the_readme_is_what_the_tour_prints():
    """Of the same rule, by the same call: each of its lines, whole."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", text_of(ROOT / "README.md"), re.DOTALL)
    place = next(k for k, (kind, text) in enumerate(blocks) if "class Broadcast" in text)
    (_, call), (kind, told) = blocks[place : place + 2]
    notebook = json.loads(text_of(ROOT / "notebooks" / "00_tour.ipynb"))
    outputs = [o for cell in notebook["cells"] for o in cell.get("outputs", ())]
    printed = "".join("".join(o.get("text", ())) for o in outputs)
    assert not kind and len(told.splitlines()) == 4 and "print(audit(Broadcast" in call
    for line in told.splitlines():
        assert f"- {line}\n" in printed, line


def test_the_picture_of_a_page_is_small():
    assert (ROOT / "figures" / "report.png").stat().st_size < 200_000


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_link_leads_somewhere(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text_of(page))
    assert [link for link in links if not (page.parent / link).exists()] == []
