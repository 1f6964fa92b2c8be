"""The frame of one study notebook: its arms, its claims, its comparison with the reference, and
where each output went.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .. import runs
from ..config import RunConfig
from ..ground.files import publish_json
from ..measure import stats
from ..measure.stats import Bound, Estimate
from ..runs import costs
from ..runs.record import rounded
from ..runs.store import Store
from . import figures, tables


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
        if lacking:
            # of many labels, their first words
            word = 1 if len({r["label"] for r in lacking}) > 12 else None
            groups = (
                [" ".join(r["label"].split()[:word]) for r in rows]
                for rows in (self.rows.values(), lacking)
            )
            runs_of, missing = map(Counter, groups)
            labels = "; ".join(
                k if n == runs_of[k] else f"{k} ({n} of {runs_of[k]})" for k, n in missing.items()
            )
            told += f"; not run: {labels}"
        return told

    def _lacking(self) -> list[dict]:
        return [r for r in self.rows.values() if r["status"] == "not run"]

    def _time_left(self) -> str:
        """What the runs that are not run would take on this machine, as text; '' for none."""
        operations = sum(r["flops"] for r in self._lacking())
        if not operations:
            return ""
        seconds = operations / costs.flops_per_second(self.known.values())
        return f" (about {seconds / 3600:.1f} hours here)"

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
        """What became of all claims, a line each: decided together, by Holm's method, since they
        are one family.

        Intervals are those of each alone, 95 %; p is that of the decision, corrected for the number
        of claims.
        """
        self.told = self._decide()
        width = max(map(len, stats.WORDS))
        lines = [
            f"{c['decided']:>{width}} | {c['statement']} | {c['interval']}"
            + ("" if c["p"] is None else f", p={c['p']:.2g}" if c["p"] >= 1e-4 else ", p<0.0001")
            for c in self.told
        ]
        tested = sum(c["p"] is not None for c in self.told)
        return "\n".join([*lines, f"{tested} tested together, at {stats.ALPHA:.0%} (Holm)"])

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
        """What `compare` has collected, as a table with the reference values and the verdict of
        each row.
        """
        return tables.beside(self.compared)

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
        # how long they take depends on the machine, so that no file holds it
        return "\n".join([self.state() + self._time_left(), "written: " + ", ".join(self.outputs)])


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
