"""What a study still lacks, for a reader."""

import html
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ..runs import costs
from . import figures


class Unrun(NamedTuple):
    """What a study still lacks, as one line that a reader may open: which runs, which claims wait
    for them, what it costs, and the commands that train it.
    """

    told: str
    runs: list[str]
    claims: list[str]
    commands: list[str]

    def __repr__(self):
        return self.told

    def _repr_html_(self):
        if not self.runs:
            return f"<p>{html.escape(self.told)}</p>"
        parts = [f"<p>Runs without a record: {html.escape('; '.join(self.runs))}.</p>"]
        if self.claims:
            items = "".join(f"<li>{html.escape(c)}</li>" for c in self.claims)
            parts.append(f"<p>Claims that wait for them:</p><ul>{items}</ul>")
        parts.append(f"<pre>{html.escape(chr(10).join(self.commands))}</pre>")
        summary = f"<summary>{html.escape(self.told)}</summary>"
        return f"<details>{summary}{''.join(parts)}</details>"


def in_words(label: str) -> str:
    """A label of runs as a reader sees it: by its name, or else with the names of its methods."""
    name = figures.title(label)
    if name != label:
        return name
    return re.sub(r"\w+", lambda word: figures.LOOK.get(word[0], word)[0], label)


def groups(rows: Iterable[dict], named=str) -> list[str]:
    """The labels of the runs noted in `rows` that are not run, with their numbers; of many labels,
    their first words. named: what a reader sees in place of a label.
    """
    rows = list(rows)
    lacking = [r for r in rows if r["status"] == "not run"]
    word = 1 if len({r["label"] for r in lacking}) > 12 else None
    listed, missing = (
        Counter(" ".join(r["label"].split()[:word]).rstrip(",") for r in part)
        for part in (rows, lacking)
    )
    return [
        named(k) if n == listed[k] else f"{named(k)} ({n} of {listed[k]})"
        for k, n in missing.items()
    ]


def standing(rows: Iterable[dict]) -> str:
    """How many of the runs noted in `rows` have records and have diverged, and which have none."""
    rows = list(rows)
    lacking = [r for r in rows if r["status"] == "not run"]
    diverged = sum(r["status"] == "diverged" for r in rows)
    told = f"{len(rows) - len(lacking)} of {len(rows)} runs have records, {diverged} diverged"
    return told + (f"; not run: {'; '.join(groups(rows))}" if lacking else "")


def lacking(notebook: str, rows: Iterable[dict], records, waiting: list[str]) -> Unrun:
    """What a notebook lacks, of the runs noted in `rows`.

    records: those that it has, which tell how fast this machine is. waiting: statements of the
    claims that have no figure yet.
    """
    rows = list(rows)
    missing = [r for r in rows if r["status"] == "not run"]
    if not missing:
        return Unrun(f"All {len(rows)} runs of this notebook have records.", [], [], [])
    operations = sum(r["flops"] for r in missing)
    hours = operations / costs.flops_per_second(records) / 3600
    rounded = float(f"{hours:.2g}")  # else 120 is told as 1.2e+02
    told = (
        f"Not run yet: {len(missing)} of {len(rows)} runs, about {rounded:g} hours of training here"
    )
    number = notebook.partition("_")[0]
    commands = [
        f"python -m faeval_core run --study {notebook}",
        f"python -m faeval_core reproduce --profile paper --notebooks {number} --write-back",
    ]
    return Unrun(told, groups(rows, in_words), waiting, commands)
