"""The protocol on norms and accuracies that someone else measured: a table, one row per trained
net.
"""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import NamedTuple

import pandas as pd

from ..measure import diagnostics, protocol
from ..measure.protocol import Verdict
from ..measure.stats import mean_sd
from . import cells
from .tables import magnitude, pm

# column -> what is wrong with a value of it, or ''
PLAIN: dict[str, Callable[[float], str]] = {
    "accuracy": cells.fraction,  # on the test set
    "frozen_accuracy": cells.fraction,  # of a net whose hidden blocks stayed as they began
    "growth": cells.size,  # max_l ‖h_{l+1}‖ / ‖h_l‖
    "stability": cells.cosine,  # of the mean gradients of disjoint batches of 128
    "rescale_factor": cells.factor,
}
PER_LEVEL: dict[
    str, Callable[[float], str]
] = {  # also as name_0, …, name_L, or with a list in cells
    "h_norm": cells.size,  # median ‖h_l‖
    "g_norm": cells.size,  # median ‖g_l‖; where there is one, of the top level
    "gamma": cells.cosine,  # exact cosine of credit and gradient
    "gamma_copied": cells.cosine,  # that of δ_L, copied to every level, for (e)
    "rho": cells.cosine,
    "twin": cells.cosine,  # of the fp32 gradient and its fp64 twin; where there is one, the least
    "gamma_rescaled": cells.cosine,  # once the stream is written `rescale_factor` times as large
    "g_norm_rescaled": cells.size,
}
NAMES = ("method", "seed", "status")
STATUS = ("complete", "diverged")
FROZEN = "frozen"  # the method whose rows are the baseline of (d)
BP = "bp"  # the method that has to clear a letter for it to tell anything of the others
LEVEL = re.compile(r"(.+)_(\d+)")
KNOWN = (*NAMES, *PLAIN, *PER_LEVEL)


class Net(NamedTuple):
    """One row: what was measured of one trained net."""

    method: str
    seed: str | None
    diverged: bool
    accuracy: float | None
    frozen: float | None  # accuracy of its own baseline
    diagnosis: dict


@dataclass
class Verdicts:
    """The verdict on every method of a table.

    nets: method -> its rows. verdicts: method -> Verdict. undefined: method -> letter -> why it is
    undefined in at least one of its rows. powerless: letters that BP's own rows fire. notes: what
    of the table was not used.
    """

    nets: dict[str, list[Net]]
    verdicts: dict[str, Verdict]
    undefined: dict[str, dict[str, str]]
    notes: list[str] = field(default_factory=list)
    powerless: list[str] = field(default_factory=list)

    def idle(self, method: str) -> list[str]:
        """Letters that tell nothing of a method."""
        return [] if method.lower() == BP else self.powerless

    def to_frame(self) -> pd.DataFrame:
        """One row per method: means, and the verdict by both protocols."""
        rows = []
        for method, nets in self.nets.items():
            judged, found = self.verdicts[method], [net.diagnosis for net in nets]
            top = [d["g_norm"][-1] if "g_norm" in d else None for d in found]
            gamma = [mean_sd(d.get("gamma", ()))[0] for d in found]
            rows.append(
                {
                    "method": method,
                    "n": judged.runs,
                    "accuracy": pm([net.accuracy for net in nets]),
                    "growth": magnitude([d.get("growth") for d in found], ".2g"),
                    "‖g_L‖": magnitude(top),
                    "stability": pm([d.get("stability") for d in found], 2),
                    "Γ": pm(gamma),
                    "study's protocol": judged.text(powerless=self.idle(method)),
                    "scale-invariant": judged.text(protocol.INVARIANT, self.idle(method)),
                }
            )
        return pd.DataFrame(rows).set_index("method")

    @property
    def lines(self) -> list[str]:
        """The verdicts in sentences: what fires, what to withdraw, what is undefined and why."""
        out = []
        for method, judged in self.verdicts.items():
            idle = self.idle(method)
            published, invariant = (
                judged.text(letters, idle, spelled=True)
                for letters in (protocol.PUBLISHED, protocol.INVARIANT)
            )
            out.append(f"{method}: {published} (study's protocol); {invariant} (scale-invariant).")
            nets = [net for net in self.nets[method] if not net.diverged]
            faults = [protocol.reference_fault(net.diagnosis) for net in nets]
            out += [f"  {told}" for told in protocol.sentences(judged, faults, idle)]
            out += [f"  ({k}) has no power here: BP itself fires it." for k in idle]
            for letter, why in self.undefined[method].items():
                defined = judged.counts[letter][1]
                seeds = f" in {len(nets) - defined} of {len(nets)} seeds" if defined else ""
                out.append(f"  ({letter}) is undefined{seeds}: {why}.")
        return out + self.notes

    @property
    def text(self) -> str:
        return "\n".join([self.to_frame().T.to_string(), "", *self.lines])


def verdict_from(numbers: pd.DataFrame | Iterable[Mapping] | str | PathLike) -> Verdicts:
    """Both protocols on what was measured elsewhere; what was not is undefined, with the reason.

    numbers: a frame, a list of dicts, or the path of a CSV file, with a row for each trained net.
    Columns, all of them optional: `method`, `seed`, `status` ('complete' or 'diverged');
    `accuracy` and `frozen_accuracy` in 0..1 (rows of a method 'frozen' will do for the latter);
    `growth` (or it is taken from h_norm at all levels), `stability`; and per level, as `h_norm_0`,
    `h_norm_1`, … or as a list in each cell: `h_norm`, `g_norm`, `gamma`, `rho`, `twin`,
    `gamma_copied`, `gamma_rescaled`, `g_norm_rescaled` (with `rescale_factor`). A letter that rows
    of a method 'bp' fire has no power over the others. One `g_norm` alone is that of the
    top level, one `twin` alone the least. An empty cell is not measured. Raises ValueError naming
    the row, the column and the way out, and OSError for a file that cannot be read.
    """
    rows, columns = _rows(numbers)
    levels = _level_columns(columns)
    used = {*KNOWN, *(c for group in levels.values() for c in group)}
    unused = [c for c in columns if c not in used]
    if not any(c in PLAIN or c in PER_LEVEL or c in used - set(KNOWN) for c in columns):
        told = f"no column holds a measurement: {', '.join(map(repr, columns)) or 'there are none'}"
        raise ValueError(f"{told}; the columns that are known: {', '.join(KNOWN)}")
    nets = [_net(row, place, levels) for place, row in enumerate(rows, start=1)]
    _check_unique(nets)
    methods = dict.fromkeys(net.method for net in nets)
    groups = {method: [net for net in nets if net.method == method] for method in methods}
    baseline = _baseline(
        [n for name, group in groups.items() if name.lower() == FROZEN for n in group]
    )
    verdicts, undefined = {}, {}
    for method, group in groups.items():
        measured = [(n.diagnosis, n.accuracy, baseline(n)) for n in group if not n.diverged]
        found = [protocol.fires(*each) for each in measured]
        verdicts[method] = Verdict.of(found, diverged=len(group) - len(measured))
        why = [protocol.undefined(*each) for each in measured]
        undefined[method] = {k: v for reasons in reversed(why) for k, v in reasons.items()}
    notes = [f"Not used: {', '.join(map(_hinted, unused))}."] if unused else []
    powerless = [
        k
        for name, judged in verdicts.items()
        if name.lower() == BP
        for k in judged.fired(protocol.ALL)
    ]
    return Verdicts(groups, verdicts, undefined, notes, powerless)


def _hinted(column: str) -> str:
    near = difflib.get_close_matches(column.lower(), KNOWN, n=1)
    return f"column {column!r}" + (f" (did you mean {near[0]!r}?)" if near else "")


def _rows(numbers) -> tuple[list[dict], list[str]]:
    """(rows, columns) of a table, with the columns' names stripped of blanks."""
    if isinstance(numbers, (str, PathLike)):
        numbers = pd.read_csv(numbers, dtype={"seed": str, "method": str}, skipinitialspace=True)
    elif not isinstance(numbers, pd.DataFrame):
        rows = list(numbers)
        if wrong := [row for row in rows if not isinstance(row, Mapping)]:
            raise ValueError(
                f"numbers must be a frame, a list of dicts or a path, not of {wrong[0]!r}"
            )
        numbers = pd.DataFrame(rows, dtype=object)
    if "level" in (*numbers.columns, *numbers.index.names):
        way_out = "give a row for each net, as Judgement.to_row() does, with h_norm_0, h_norm_1, …"
        raise ValueError(f"the table has a row for each level; {way_out}")
    if not len(numbers):
        raise ValueError("the table has no rows; give one for each trained net")
    columns = [str(c).strip() for c in numbers.columns]
    if twice := [c for c, n in Counter(columns).items() if n > 1]:
        raise ValueError(f"the table has column {twice[0]!r} twice")
    return [dict(zip(columns, row)) for row in numbers.itertuples(index=False, name=None)], columns


def _level_columns(columns: list[str]) -> dict[str, list[str]]:
    """Quantity -> its columns, from level 0 up; ValueError where one is missing, or told twice."""
    found: dict[str, dict[int, str]] = {}
    for column in columns:
        match = LEVEL.fullmatch(column)
        if match and match[1] in PER_LEVEL:
            found.setdefault(match[1], {})[int(match[2])] = column
        elif column in PER_LEVEL:
            found.setdefault(column, {})[-1] = column
    for name, levels in found.items():
        if len(levels) > 1 and -1 in levels:
            told = f"the table has {name} and {levels[max(levels)]}"
            raise ValueError(f"{told}; keep {name}_0, {name}_1, … or {name} alone")
        gaps = [l for l in range(max(levels)) if l not in levels]
        if gaps:
            told = f"the table has {levels[max(levels)]} and no {name}_{gaps[0]}"
            raise ValueError(f"{told}; levels count from 0, one column each")
    return {name: [levels[l] for l in sorted(levels)] for name, levels in found.items()}


def _net(row: dict, place: int, levels: dict[str, list[str]]) -> Net:
    """A row, read and checked."""
    method, seed = (cells.name(row.get(key)) for key in ("method", "seed"))
    if "method" in row and method is None:
        raise ValueError(f"row {place} has no method; name it, or leave the column out")
    named = ", ".join(part for part in (method, seed and f"seed {seed}") if part)
    where = f"row {place}" + (f" ({named})" if named else "")
    status = cells.name(row.get("status")) or STATUS[0]
    if status not in STATUS:
        raise ValueError(f"{where}: status is {status!r}, not {' or '.join(STATUS)}")
    plain = {k: cells.number(row.get(k), k, where, fault) for k, fault in PLAIN.items()}
    per_level = {
        name: [
            cells.number(value, column, where, PER_LEVEL[name])
            for column in group
            for value in cells.values(row[column])
        ]
        for name, group in levels.items()
    }
    told = {k: v for k, v in per_level.items() if any(value is not None for value in v)}
    return Net(
        method or "(all rows)",
        seed,
        status == "diverged",
        plain["accuracy"],
        plain["frozen_accuracy"],
        _diagnosis(plain, told),
    )


def _diagnosis(plain: dict, levels: dict[str, list]) -> dict:
    """What `protocol` reads, as far as it was measured, and why the rest is undefined."""
    found, why = {**levels}, {}
    growth, h_norm = plain["growth"], levels.get("h_norm", ())
    if growth is None and len(h_norm) > 1 and None not in h_norm:
        growth = diagnostics.growth(h_norm)
        why["growth"] = "a state is zero, by its h_norm"
    elif growth is None:
        why["growth"] = "neither growth nor h_norm of all levels is given"
    found |= {"growth": growth, "stability": plain["stability"]}
    why["stability"] = "no stability is given"
    why["g_norm"] = "no g_norm of the top level is given"
    why["twin"] = "no twin is given, the cosine of the fp32 gradient with its fp64 twin"
    why["gamma"] = "gamma is not given at every level"
    why["gamma_copied"] = "gamma_copied is not given at every level"
    moved = [levels.get(k) for k in ("gamma_rescaled", "g_norm_rescaled")]
    shape = {len(levels.get(k, ())) for k in ("gamma", "g_norm")}
    if plain["rescale_factor"] is None or None in moved:
        why["rescaled"] = "gamma_rescaled, g_norm_rescaled and rescale_factor are not all given"
    elif any(None in values for values in moved) or {len(v) for v in moved} != shape:
        why["rescaled"] = (
            "gamma, g_norm and both of these rescaled are not given at the same levels"
        )
    elif len(moved[0]) < 2:
        why["rescaled"] = "gamma is one figure, and a mean over levels may stand still as they move"
    else:
        factor, (gamma, g_norm) = plain["rescale_factor"], moved
        found["rescaled"] = {"factor": factor, "gamma": gamma, "g_norm": g_norm}
    return {k: v for k, v in found.items() if v is not None} | {"undefined": why}


def _check_unique(nets: list[Net]) -> None:
    seeded = Counter((net.method, net.seed) for net in nets if net.seed is not None)
    if twice := [key for key, n in seeded.items() if n > 1]:
        method, seed = twice[0]
        told = f"method {method!r} has seed {seed} twice"
        raise ValueError(
            f"{told}; a row is one trained net, so give the second another method name"
        )


def _baseline(frozen: list[Net]) -> Callable[[Net], float | None]:
    """A net's frozen accuracy: its own, or that of the frozen net of its seed, or their mean."""
    known = {n.seed: n.accuracy for n in frozen if n.accuracy is not None and n.seed is not None}
    mean = mean_sd([n.accuracy for n in frozen])[0]
    return lambda net: known.get(net.seed, mean) if net.frozen is None else net.frozen
