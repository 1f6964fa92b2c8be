"""The frame of one study notebook: its arms, its claims, its comparison with the reference, and
where each output went.
"""

import html
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from . import costs, figures, runs, stats, tables
from .config import RunConfig
from .files import publish_json
from .stats import Bound, Estimate
from .store import Store, rounded

NO_RECORDS = "not run"  # what is decided of a claim without a figure


class Claim(NamedTuple):
    """A statement about a figure, with the bound that it has to be beyond; `found` is None where
    nothing is recorded.
    """

    name: str
    statement: str
    bound: Bound
    found: Estimate | None

    def told(self, decided: str, p: float | None) -> dict:
        """Plain data for the summary of a study."""
        side = "above" if self.bound.is_above else "below"
        interval = str(self.found.interval()) if self.found else "no records"
        bound = {side: self.bound.at, "smallest": self.bound.smallest}
        size = f", by over {self.bound.smallest:g}" if self.bound.smallest else ""
        told = {"name": self.name, "statement": self.statement + size, "decided": decided}
        return told | {"interval": interval, "p": p, **bound}


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


def _in_words(label: str) -> str:
    """A label of runs as a reader sees it: by its name, or else with the names of its methods."""
    name = figures.title(label)
    if name != label:
        return name
    return re.sub(r"\w+", lambda word: figures.LOOK.get(word[0], word)[0], label)


@dataclass
class Study:
    """One study: `notebook` is the notebook's stem (11_audit), `folder` its place under results/
    and figures/.

    `results` and `figures` are the roots. train=False only reads the store; what it lacks is shown
    as not run, with its cost.
    unit: what the values of a claim stand for, where it is not seeds; of: the one thing that all of
    them are parts of, such as
    a net whose batches they are: a claim then says that it speaks of one.
    """

    notebook: str
    folder: str
    results: Path | str = "../results"
    figures: Path | str = "../figures"
    train: bool = True
    device: str = "auto"
    unit: str = ""
    of: str = ""

    def __post_init__(self):
        self.results, self.figures = Path(self.results), Path(self.figures)
        self.rows, self.claims, self.told, self.compared, self.outputs = {}, {}, [], [], []
        self.paper = {}  # macro name -> text, for the paper
        self.store = Store(self.results)
        self.known = {}  # the records found, by id
        figures.use_style()

    def run(self, arms: dict) -> dict:
        """Arm -> records of its configs; a run that the store lacks and that is not trained now is
        left out.

        arms: label, or tuple of the words of a label, -> configs. A run of several arms is noted
        under all their labels.
        """
        flat = [
            (c, arm if isinstance(arm, str) else " ".join(map(str, arm)))
            for arm, configs in arms.items()
            for c in configs
        ]
        for label, configs in arms.items():
            runs.check_configs(configs, f"arm {label!r}")
        records = runs.run(
            dict.fromkeys(c for c, _ in flat), self.store, train=self.train, device=self.device
        )
        known = {r.config.id: r for r in records if r is not None}
        self.known |= known
        for c, label in flat:
            status = known[c.id].status if c.id in known else "not run"
            cost = 0.0 if c.id in known else costs.cost_flops(c)
            labels = [*(self.rows[c.id]["label"].split(" = ") if c.id in self.rows else ()), label]
            told = {"label": " = ".join(dict.fromkeys(labels)), "status": status, "flops": cost}
            self.rows[c.id] = {"id": c.id, **told, "config": c.to_dict()}
        return {
            arm: [known[c.id] for c in configs if c.id in known] for arm, configs in arms.items()
        }

    def state(self) -> str:
        """How many runs there are, have diverged, and are not run."""
        lacking = self._lacking()
        diverged = sum(r["status"] == "diverged" for r in self.rows.values())
        told = (
            f"{len(self.rows) - len(lacking)} of {len(self.rows)} runs have records, "
            f"{diverged} diverged"
        )
        return told + (f"; not run: {'; '.join(self._groups())}" if lacking else "")

    def unrun(self) -> Unrun:
        """What is not run, with its cost on this machine, for a reader to open or to leave."""
        lacking = self._lacking()
        if not lacking:
            return Unrun(f"All {len(self.rows)} runs of this notebook have records.", [], [], [])
        operations = sum(r["flops"] for r in lacking)
        hours = operations / costs.flops_per_second(self.known.values()) / 3600
        told = (
            f"Not run yet: {len(lacking)} of {len(self.rows)} runs, about {hours:.2g} hours of "
            "training here"
        )
        waiting = [c.told("", None)["statement"] for c in self.claims.values() if not c.found]
        number = self.notebook.partition("_")[0]
        commands = [
            f"python -m faeval_core run --study {self.notebook}",
            f"python -m faeval_core reproduce --profile paper --notebooks {number} --write-back",
        ]
        return Unrun(told, self._groups(_in_words), waiting, commands)

    def _lacking(self) -> list[dict]:
        return [r for r in self.rows.values() if r["status"] == "not run"]

    def _groups(self, named=str) -> list[str]:
        """The labels of the runs that are not run, with their numbers; of many labels, their first
        words. named: what a reader sees in place of a label.
        """
        lacking = self._lacking()
        word = 1 if len({r["label"] for r in lacking}) > 12 else None
        groups = (
            [" ".join(r["label"].split()[:word]).rstrip(",") for r in rows]
            for rows in (self.rows.values(), lacking)
        )
        runs_of, missing = map(Counter, groups)
        return [
            named(k) if n == runs_of[k] else f"{named(k)} ({n} of {runs_of[k]})"
            for k, n in missing.items()
        ]

    def claim(
        self, name: str, statement: str, values, unit=None, *, smallest=None, **bound
    ) -> None:
        """State a claim about the mean of `values` (one per seed, or per unit), or about an
        `Estimate`: above=x or below=x.

        smallest: the least effect that matters, in units of the quantity (of a log ratio for what
        spreads over decades). A claim against zero has to name it; another bound is taken for the
        size itself. `decided` tells what became of it.
        """
        if 0 in bound.values() and not smallest:
            told = "a claim against 0 needs the smallest effect of interest, as smallest=0.01"
            raise ValueError(f"claim {name!r}: {told}")
        found = (
            values if isinstance(values, Estimate) or values is None else self._mean(values, unit)
        )
        stated = Claim(name, statement, Bound.of(smallest=smallest or 0.0, **bound), found)
        if (same := self.claims.get(name)) and same.statement != statement:
            told = f"claim {name!r} of {self.notebook} is {same.statement!r} already"
            raise ValueError(
                f"{told}; give this one a name of its own (or, on editing, "
                f"study.claims.pop({name!r}))"
            )
        self.claims[name] = stated

    def _mean(self, values, unit):
        unit, of = (self.unit, self.of) if unit is None else (unit, "")
        return stats.mean(values, unit, of)

    def decided(self) -> str:
        """What became of all claims that have a figure, a line each, and how many have none:
        decided together, by Holm's method, since they are one family.

        Intervals are those of each alone, 95 %; p is that of the decision, corrected for the number
        of claims.
        """
        self.told = self._decide()
        width = max(map(len, stats.WORDS))
        lines = [
            f"{c['decided']:>{width}} | {c['statement']} | {c['interval']}"
            + ("" if c["p"] is None else f", p={c['p']:.2g}" if c["p"] >= 1e-4 else ", p<0.0001")
            for c in self.told
            if c["decided"] != NO_RECORDS
        ]
        tested = sum(c["p"] is not None for c in self.told)
        waiting = len(self.told) - len(lines)
        last = f"{tested} tested together, at {stats.ALPHA:.0%} (Holm)"
        return "\n".join([*lines, last + (f"; {waiting} wait for runs" if waiting else "")])

    def _decide(self) -> list[dict]:
        claims = list(self.claims.values())
        found = stats.decide_together([(c.bound, c.found) for c in claims])
        return [c.told(decided, p) for c, (decided, p) in zip(claims, found)]

    def compare(self, experiment, condition, metric, values, calibrated=False):
        """Set our values (one per seed) beside the reference row (experiment, condition, metric).

        Norms by their geometric mean, and the sd of their log10.
        """
        mean, sd, n = stats.mean_sd(values)
        if metric in tables.DECADES and n:
            mean, sd = (
                tables.geometric(values),
                stats.mean_sd(map(math.log10, filter(None, values)))[1],
            )
        row = dict(
            zip(tables.KEY, (experiment, condition, metric)),
            value=mean,
            sd=sd,
            n=n,
            calibrated=calibrated,
        )
        self.compared.append(row)

    def beside(self):
        """What `compare` has collected, as a reader's table: the study's value, ours and the
        verdict of each row that is run.
        """
        return tables.reader(tables.beside(self.compared))

    def compared_in_words(self) -> str:
        """How many of the study's values this notebook sets beside its own, and how they agree."""
        return tables.in_words(tables.beside(self.compared))

    def write(self, name: str, value, folder=None):
        """Write results/<folder>/<name>.json (by default the study's own folder) from plain data
        and note where it went.
        """
        self._note(
            self.results,
            publish_json(self.results / (folder or self.folder) / f"{name}.json", rounded(value)),
        )

    def figure(self, fig, name: str):
        """Write figures/<folder>_<name>.pdf and .png and note where they went."""
        self._note(self.figures, *figures.save(fig, self.figures, f"{self.folder}_{name}"))

    def _note(self, root, *paths):
        self.outputs += [f"{root.name}/{path.relative_to(root).as_posix()}" for path in paths]

    def finish(self) -> str:
        """Write results/studies/<notebook>.json, which `status`, the reproduction table and the
        paper read.

        Raises ValueError where the claims are not as `decided` last told them.
        """
        claims = self._decide()
        if claims != self.told:
            raise ValueError(
                f"claims of {self.notebook} were stated after they were decided: "
                "print(study.decided()) once more"
            )
        noted = {"claims": claims} | {k: getattr(self, k) for k in ("compared", "paper", "outputs")}
        summary = {
            "notebook": self.notebook,
            "state": self.state(),
            **noted,
            "runs": list(self.rows.values()),
        }
        publish_json(self.results / "studies" / f"{self.notebook}.json", rounded(summary))
        return "written: " + ", ".join(self.outputs)


def seeds(base: RunConfig, values, **changes) -> list[RunConfig]:
    """One config per seed. Raises ValueError for no seed, or one that is repeated: one run must not
    count as two.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ValueError(f"seeds must be a list of whole numbers, such as [42], not {values!r}")
    configs = [base.with_(seed=s, **changes) for s in values]
    found = [c.seed for c in configs]
    if not found or len(set(found)) < len(found):
        raise ValueError(f"seeds must be one or more, each of them once, not {found}")
    return configs
