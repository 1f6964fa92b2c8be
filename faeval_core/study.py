"""The frame of one study notebook: its arms, its claims, its comparison with the reference, and where each output went."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from . import costs, figures, runs, stats, tables
from .config import RunConfig
from .files import publish_json
from .store import Store, rounded


@dataclass
class Study:
    """One study: `notebook` is the notebook's stem (11_audit), `folder` its place under results/ and figures/.

    `results` and `figures` are the roots. train=False only reads the store; what it lacks is shown as not run, with its cost.
    unit: what the values of a claim stand for, where it is not seeds.
    """

    notebook: str
    folder: str
    results: Path | str = "../results"
    figures: Path | str = "../figures"
    train: bool = True
    device: str = "auto"
    unit: str = ""

    def __post_init__(self):
        self.results, self.figures = Path(self.results), Path(self.figures)
        self.rows, self.claims, self.compared, self.outputs = {}, [], [], []
        self.paper = {}  # macro name -> text, for the paper
        self.store = Store(self.results)
        self.known = {}  # the records found, by id
        figures.use_style()

    def run(self, arms: dict) -> dict:
        """Arm -> records of its configs; a run that the store lacks and that is not trained now is left out.

        arms: label, or tuple of the words of a label, -> configs. A run of several arms is noted under all their labels.
        """
        flat = [(c, arm if isinstance(arm, str) else " ".join(map(str, arm))) for arm, configs in arms.items() for c in configs]
        for label, configs in arms.items():
            runs.check_configs(configs, f"arm {label!r}")
        records = runs.run(dict.fromkeys(c for c, _ in flat), self.store, train=self.train, device=self.device)
        known = {r.config.id: r for r in records if r is not None}
        self.known |= known
        for c, label in flat:
            status = known[c.id].status if c.id in known else "not run"
            cost = 0.0 if c.id in known else costs.cost_flops(c)
            labels = [*(self.rows[c.id]["label"].split(" = ") if c.id in self.rows else ()), label]
            told = {"label": " = ".join(dict.fromkeys(labels)), "status": status, "flops": cost}
            self.rows[c.id] = {"id": c.id, **told, "config": c.to_dict()}
        return {arm: [known[c.id] for c in configs if c.id in known] for arm, configs in arms.items()}

    def state(self) -> str:
        """How many runs there are, have diverged, and are not run, with the cost of the latter."""
        lacking = [r for r in self.rows.values() if r["status"] == "not run"]
        diverged = sum(r["status"] == "diverged" for r in self.rows.values())
        told = f"{len(self.rows) - len(lacking)} of {len(self.rows)} runs have records, {diverged} diverged"
        if lacking:
            word = 1 if len({r["label"] for r in lacking}) > 12 else None  # of many labels, their first words
            groups = ([" ".join(r["label"].split()[:word]) for r in rows] for rows in (self.rows.values(), lacking))
            runs_of, missing = map(Counter, groups)
            labels = "; ".join(k if n == runs_of[k] else f"{k} ({n} of {runs_of[k]})" for k, n in missing.items())
            seconds = sum(r["flops"] for r in lacking) / costs.flops_per_second(self.known.values())
            told += f"; not run: {labels} (about {seconds / 3600:.1f} hours here)"
        return told

    def claim(self, name: str, statement: str, values, unit=None, **bound) -> str:
        """Decide a claim about the mean of `values` (one per seed, or per unit) against a bound (above=x or below=x), note it,
        and return the line to print."""
        decided, found = stats.decide(values, **bound), stats.interval(values, self.unit if unit is None else unit)
        self.claims.append({"name": name, "statement": statement, "decided": decided, "interval": str(found), **bound})
        return f"{decided:>14} | {statement} | {found if found else 'no records'}"

    def compare(self, experiment, condition, metric, values, calibrated=False):
        """Set our values (one per seed) beside the reference row (experiment, condition, metric)."""
        mean, sd, n = stats.mean_sd(values)
        if metric in tables.DECADES and n:
            mean, sd = tables.geometric(values), None
        row = dict(zip(tables.KEY, (experiment, condition, metric)), value=mean, sd=sd, n=n, calibrated=calibrated)
        self.compared.append(row)

    def beside(self):
        """What `compare` has collected, as a table with the reference values and the verdict of each row."""
        return tables.beside(self.compared)

    def write(self, name: str, value, folder=None):
        """Write results/<folder>/<name>.json (by default the study's own folder) from plain data and note where it went."""
        self._note(self.results, publish_json(self.results / (folder or self.folder) / f"{name}.json", rounded(value)))

    def figure(self, fig, name: str):
        """Write figures/<folder>_<name>.pdf and .png and note where they went."""
        self._note(self.figures, *figures.save(fig, self.figures, f"{self.folder}_{name}"))

    def _note(self, root, *paths):
        self.outputs += [f"{root.name}/{path.relative_to(root).as_posix()}" for path in paths]

    def finish(self) -> str:
        """Write results/studies/<notebook>.json, which `status`, the reproduction table and the paper read."""
        noted = {k: getattr(self, k) for k in ("claims", "compared", "paper", "outputs")}
        summary = {"notebook": self.notebook, "state": self.state(), **noted, "runs": list(self.rows.values())}
        publish_json(self.results / "studies" / f"{self.notebook}.json", rounded(summary))
        return "\n".join([self.state(), "written: " + ", ".join(self.outputs)])


def seeds(base: RunConfig, values, **changes) -> list[RunConfig]:
    """One config per seed. Raises ValueError for no seed, or one that is repeated: one run must not count as two."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise ValueError(f"seeds must be a list of whole numbers, such as [42], not {values!r}")
    configs = [base.with_(seed=s, **changes) for s in values]
    found = [c.seed for c in configs]
    if not found or len(set(found)) < len(found):
        raise ValueError(f"seeds must be one or more, each of them once, not {found}")
    return configs
