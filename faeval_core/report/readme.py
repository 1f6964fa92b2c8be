"""The generated parts of README.md: what is compared, what is covered, Table 1. A part stands
between `<!-- NAME -->` and `<!-- end -->`.
"""

import json
import re
from pathlib import Path

import nbformat

from ..ground.files import publish, read_json, studies
from . import figures, tables
from .latex import AUDIT
from .table1 import LABELS


def counts(root: Path) -> str:
    """How many reference values agree, are close, imprecise, differ or are not run."""
    rows = tables.reproduction(root / "results")
    told = tables.counts(rows)
    apart = told.pop("calibrated")
    chose = sum(apart.values())
    return (
        f"Of the study's {len(rows)} values {chose} served to choose a setting here and test "
        f"nothing ({apart['agrees']} agree, {apart['close']} are close, {apart['imprecise']} are "
        f"compared too imprecisely to tell, {apart['differs']} differ). Of the other "
        f"{len(rows) - chose}, {told['agrees']} agree, {told['close']} are close, "
        f"{told['imprecise']} are too imprecise to tell, {told['differs']} differ and "
        f"{told['not run']} are not run yet."
    )


def coverage(root: Path) -> str:
    """A table of the notebooks: question and answer from their metadata, and how much is run."""
    noted = studies(root / "results")
    lines = ["| notebook | question | answer so far | runs |", "|---|---|---|---|"]
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        told = json.loads(path.read_text(encoding="utf-8"))["metadata"]["faeval"]
        link = f"[{path.stem.replace('_', ' ', 1)}](notebooks/{path.name})"
        state = _state(noted[path.stem]["runs"])
        lines.append(f"| {link} | {told['question']} | {told['answer']} | {state} |")
    return "\n".join(lines)


def _covered(runs: list[dict]) -> tuple[str, int]:
    """(complete, partial or planned, number of runs with a record)."""
    done = sum(row["status"] != "not run" for row in runs)
    state = "complete" if done == len(runs) else "partial" if done > 1 else "planned"
    return state, done


def _state(runs: list[dict]) -> str:
    state, done = _covered(runs)
    return f"{state} ({done})" if state == "complete" else f"{state} ({done} of {len(runs)})"


MARKS = {"complete": "🟢", "partial": "🟡", "planned": "⚪"}
BADGE = re.compile(r"(<!-- badge -->).*?(<!-- end -->)", re.DOTALL)


def badge(runs: list[dict]) -> str:
    """How much of a notebook is run, as the line under its title: '🟡 **Partial**: 10 of 95 runs
    have records.'
    """
    state, done = _covered(runs)
    of = "all" if done == len(runs) else f"{done} of"
    return f"{MARKS[state]} **{state.capitalize()}**: {of} {len(runs)} runs have records."


def badged(source: str, runs: list[dict]) -> str:
    """The opening of a notebook with its badge made anew. Raises ValueError where it has none."""
    if len(BADGE.findall(source)) != 1:
        raise ValueError(
            f"a notebook opens with one <!-- badge --><!-- end -->, not as {source[:60]!r}"
        )
    # on lines of its own: a line that a comment opens is raw HTML, in which no Markdown is read
    return BADGE.sub(lambda m: f"{m[1]}\n\n{badge(runs)}\n\n{m[2]}", source)


def write_badges(root: Path) -> None:
    """Bring the badges of the notebooks up to the results."""
    noted = studies(root / "results")
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        nb = nbformat.read(path, as_version=4)
        made = badged(nb.cells[0].source, noted[path.stem]["runs"])
        if made != nb.cells[0].source:
            nb.cells[0].source = made
            publish(path, nbformat.writes(nb) + "\n")


def table1(root: Path) -> str:
    """The audit with normalised credit, the study's values in brackets; † marks a method whose row
    was used to choose a setting.
    """
    audited = read_json(root / "results" / AUDIT, ("rows",))["rows"]
    rows = {r["method"]: r for r in audited}
    compared = tables.reproduction(root / "results")
    compared = compared[compared.notebook == "11_audit"]
    lines = [
        "| | test accuracy | ‖h_L‖ | deep cosine, study's reading | exact, hidden levels | study's "
        "protocol | scale-invariant protocol |",
        "|" + "---|" * 7,
    ]
    for method in LABELS:
        row = tables.audit_table([rows[method]], digits=2).reset_index().iloc[0]
        theirs = _theirs(compared, method)
        cells = [
            figures.title(LABELS[method].partition(" ")[0]) + theirs["mark"],
            row["test accuracy"] + theirs["test_acc"],
            row["‖h_L‖"] + theirs["h_norm"],
            row["deep cos (study's reading)"] + theirs["deep_cos"],
            row["deep cos (exact, hidden)"],
            row["study's protocol"],
            row["scale-invariant"],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _theirs(compared, method) -> dict[str, str]:
    """The study's values of a row of Table 1 as text in brackets, and the mark of a calibrated
    one.
    """
    rows = compared[compared.condition.str.contains(rf"method={method}\b")]
    found = {"mark": " †" if rows.calibrated.any() else ""}
    for metric, form in (("test_acc", ".3f"), ("h_norm", ".0e"), ("deep_cos", ".2g")):
        row = rows[rows.metric == metric]
        if row.empty:
            found[metric] = ""
            continue
        value, sd = row.value.iloc[0], row.sd.iloc[0]
        spread = f" ± {sd:{form}}" if metric == "test_acc" and sd == sd else ""
        found[metric] = f" ({value:{form}}{spread})"
    return found


PARTS = {"counts": counts, "coverage": coverage, "table1": table1}


def updated(text: str, root: Path) -> str:
    """The README with its generated parts made anew. Raises ValueError where a part is missing."""
    for name, make in PARTS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        made, parts = make(root), pattern.findall(text)
        if len(parts) != 1:
            raise ValueError(f"README.md needs one part <!-- {name} --> ... <!-- end -->")
        text = pattern.sub(lambda match, made=made: f"{match[1]}{made}\n{match[2]}", text)
    return text


def write(root: Path) -> None:
    """Bring README.md up to the results."""
    path = root / "README.md"
    publish(path, updated(path.read_text(encoding="utf-8"), root))
