"""The backlog: runs that notebooks list and the store lacks, trained in the order of what they tell
per hour.
"""

import os
import warnings
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from ..config import RunConfig
from ..ground.checks import check_known
from ..ground.files import studies
from ..methods import METHODS
from ..training.device import resolve_device
from . import costs
from .engines import opened
from .queue import RunsFailed, run
from .store import Store

SLICE = 4  # runs of each worker between two accounts of the time left


class Lacking(NamedTuple):
    """A run without a record; settings: the (notebook, label) that it is a seed of."""

    config: RunConfig
    settings: tuple[tuple[str, str], ...]


def lacking(store: Store, notebooks: Iterable[str] | None = None) -> tuple[list[Lacking], Counter]:
    """Runs that the notebooks list (all of them by default) and `store` has no record of; and, of
    each setting, how many of its runs have one.

    Raises ValueError for a notebook that has listed none yet. Runs of rules that are not registered
    here are left out with a warning.
    """
    listed = studies(store.root)
    names = list(listed) if notebooks is None else list(notebooks)
    check_known("study", names, listed, "; a notebook's first execution lists its runs")
    settings, rows, known = {}, {}, Counter()
    for name in names:
        for row in listed[name]["runs"]:
            rows[row["id"]] = row
            labels = [(name, label) for label in row["label"].split(" = ")]
            settings.setdefault(row["id"], []).extend(labels)
    unregistered = {row["config"]["method"] for row in rows.values()} - METHODS.keys()
    if unregistered:
        told = f"runs of methods that are not known here are left out: {sorted(unregistered)}"
        warnings.warn(told, stacklevel=2)
    found = []
    for run_id, row in rows.items():
        if row["config"]["method"] in unregistered:
            continue
        config = RunConfig.from_dict(row["config"])
        if store.has(config):
            known.update(settings[run_id])
        else:
            found.append(Lacking(config, tuple(dict.fromkeys(settings[run_id]))))
    return found, known


def by_value(found: list[Lacking], known: Counter, store: Store) -> list[Lacking]:
    """The runs in the order of what they tell per hour.

    A run that would be the n-th seed of a setting is worth 1/n to it, so that what has no record
    at all comes first, cheap runs before dear ones; with a run comes the cost of the upstream run
    that it starts from, unless an earlier one has brought it.
    """
    left, known, started = list(found), Counter(known), set()

    def rate(item: Lacking) -> float:
        worth = sum(1 / (1 + known[s]) for s in item.settings)
        return worth / (
            costs.cost_flops(item.config) + _upstream_flops(item.config, started, store)
        )

    order = []
    while left:
        best = max(left, key=rate)  # the first of equals
        left.remove(best)
        order.append(best)
        known.update(best.settings)
        started.add((best.config.upstream, best.config.upstream_epoch))
    return order


def train(
    store: Store,
    notebooks: Iterable[str] | None = None,
    *,
    engine: str | None = None,
    device="auto",
    hours: float | None = None,
) -> int:
    """Train what the notebooks list and the store lacks, by value per hour; the number of runs that
    are left.

    Each record is stored as it is finished, and a run that is cut off goes on from its checkpoint,
    so that the same call goes on where an earlier one was killed. engine: as of `runs.run`
    (`processes:N` on N cores by default, none on CUDA). hours: leave out what does not fit in,
    by the prediction of `costs`. Raises RunsFailed at the end for runs that failed.
    """
    found, known = lacking(store, notebooks)
    order = by_value(found, known, store)
    if not order:
        print("backlog: every listed run has a record")
        return 0
    on_cuda = resolve_device(device).type == "cuda"
    cores = os.cpu_count() or 1
    chosen = engine or ("serial" if on_cuda or cores == 1 else f"processes:{cores}")
    per_second = costs.flops_per_second(store.survey()[0])
    seconds = [costs.cost_flops(item.config) / per_second for item in order]
    limit = float("inf") if hours is None else hours * 3600
    within = sum(total <= limit for total in accumulate(seconds))
    failures = []
    with opened(chosen, gpu=on_cuda) as (executor, workers):
        size = SLICE * workers
        for start in range(0, within, size):
            part = order[start : min(start + size, within)]
            _tell(order, seconds, start, part)
            try:
                run(
                    [item.config for item in part],
                    store,
                    device=device,
                    executor=executor,
                    workers=workers,
                )
            except RunsFailed as e:
                failures.append(e)
                warnings.warn(f"{e}; the others go on", stacklevel=2)
    if failures:
        raise RunsFailed("; ".join(map(str, failures))) from failures[0]
    left = len(lacking(store, notebooks)[0])
    print(f"backlog: {len(order) - left} of {len(order)} runs trained")
    return left


def _upstream_flops(config: RunConfig, started: set, store: Store) -> float:
    """Operations of the upstream run as far as `config` starts from it; 0 where they are done."""
    upstream, epoch = config.upstream, config.upstream_epoch
    if upstream is None or (upstream, epoch) in started:
        return 0.0
    if store.has_tensors(store.snapshot_path(upstream, epoch)):
        return 0.0
    return costs.cost_flops(upstream) * epoch / upstream.epochs


def _tell(order, seconds, start, part) -> None:
    """Say what comes next, and how long all that is left may take on this machine."""
    hours = sum(seconds[start:]) / 3600
    named = dict.fromkeys(f"{name}: {label}" for item in part for name, label in item.settings[:1])
    print(f"backlog: {start} of {len(order)} runs done, about {hours:.1f} hours left; next:")
    print(*(f"  {name}" for name in named), sep="\n", flush=True)
