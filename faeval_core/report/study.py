"""The frame of one study notebook: its settings, its claims, its comparison with the reference, and
where each output went.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .. import runs
from ..config import RunConfig
from ..ground.files import publish_json
from ..measure import stats
from ..measure.stats import Bound, Estimate
from ..runs import costs
from ..runs.record import RunRecord, rounded
from ..runs.store import Store
from . import figures, tables
from .claims import Claim, decide, lines
from .unrun import Unrun, lacking, standing


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
        every = dict.fromkeys(c for c, _ in flat)
        records = runs.run(every, self.store, train=self.train, device=self.device)
        known = {r.config.id: r for r in records if r is not None}
        self.known |= known
        for c, label in flat:
            self.rows[c.id] = row(c, label, known.get(c.id), self.rows.get(c.id))
        return {arm: [known[c.id] for c in of if c.id in known] for arm, of in arms.items()}

    def state(self) -> str:
        """How many runs there are, have diverged, and are not run."""
        return standing(self.rows.values())

    def unrun(self) -> Unrun:
        """What is not run, with its cost on this machine."""
        waiting = [c.told("", None)["statement"] for c in self.claims.values() if not c.found]
        return lacking(self.notebook, self.rows.values(), self.known.values(), waiting)

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
        self.told = decide(self.claims.values())
        return lines(self.told)

    def compare(self, experiment, condition, metric, values, calibrated=False):
        """Set our values (one per seed) beside the reference row (experiment, condition, metric).

        Norms by their geometric mean, and the sd of their log10.
        """
        key = dict(zip(tables.KEY, (experiment, condition, metric)))
        self.compared.append(key | tables.summary(metric, values) | {"calibrated": calibrated})

    def beside(self):
        """What `compare` has collected and is run, as a reader's table."""
        return tables.reader(tables.beside(self.compared))

    def compared_in_words(self) -> str:
        """How many of the study's values are set beside ours here, and how they agree."""
        return tables.in_words(tables.beside(self.compared))

    def write(self, name: str, value, folder=None):
        """Write results/<folder>/<name>.json (by default the study's own folder) from plain data
        and note where it went.
        """
        path = self.results / (folder or self.folder) / f"{name}.json"
        self._note(self.results, publish_json(path, rounded(value)))

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
        claims = decide(self.claims.values())
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


def row(c: RunConfig, label: str, record: RunRecord | None, before: dict | None) -> dict:
    """A run as a summary notes it, under `label` and those of the row `before`."""
    status = record.status if record else "not run"
    cost = 0.0 if record else costs.cost_flops(c)
    labels = [*(before["label"].split(" = ") if before else ()), label]
    told = {"label": " = ".join(dict.fromkeys(labels)), "status": status, "flops": cost}
    return {"id": c.id, **told, "config": c.to_dict()}


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
