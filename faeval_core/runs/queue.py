"""Runs: find the records of a list of configs, train what is missing as ensembles, survive
interruption.
"""

import os
import pickle
import warnings
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor, CancelledError, ThreadPoolExecutor, as_completed

import torch
from tqdm import tqdm

from .. import data
from ..config import RunConfig
from ..ground import environment
from ..ground.checks import checked
from ..training.device import check_device, resolve_device
from . import engines
from .parcel import Parcel, check_code
from .plan import can_start, is_lacking, plan, upstream_waves
from .store import RunRecord, Store
from .worker import check_precision, memory_named, train_ensemble, try_rules

MAX_MEMBERS = {"cpu": 12, "cuda": 64}


class RunsFailed(RuntimeError):
    """Some runs ended in an exception; all others have been trained."""


def training_allowed(wanted=True) -> bool:
    """FAEVAL_TRAIN=0 (or false, no, off) in the environment forbids training, whatever a notebook
    says.
    """
    return environment.training() and bool(wanted)


def check_configs(configs, what="run") -> list[RunConfig]:
    """`configs` as a list. Raises ValueError for what is no list of configs, and for a run that
    would count twice.
    """
    if isinstance(configs, RunConfig):
        raise ValueError(f"{what} needs a list of configs, not one; write [config]")
    if isinstance(configs, (str, bytes)) or not isinstance(configs, Iterable):
        raise ValueError(f"{what} needs a list of configs, not {configs!r}")
    configs = list(configs)
    for c in configs:
        if not isinstance(c, RunConfig):
            way_out = "; RunConfig.from_dict makes one of a dict" if isinstance(c, dict) else ""
            raise ValueError(f"{what} needs a list of RunConfigs, and {c!r} is none{way_out}")
    for c, times in Counter(configs).items():
        if times > 1:
            raise ValueError(
                f"{what} names {c.id} (seed {c.seed}) {times} times; one run must not count as "
                "several"
            )
    return configs


def run(
    configs, store=None, *, train=True, device="auto", progress=True, executor=None, workers=1
) -> list[RunRecord | None]:
    """Records of `configs`, each of them named once, in their order: read from the store, else
    trained and stored.

    store: a Store, or the folder of one. train=False (or FAEVAL_TRAIN=0) only reads; a run without
    a record then comes back as None, as does one whose dataset is not on this machine (with a
    warning). Interrupted runs continue from their last checkpoint; a run that another process is
    training is waited for.
    executor: anything with the interface of concurrent.futures (engines.py opens some), which takes
    `workers` tasks at a time; None trains in this process. A task is one ensemble; checkpoints,
    snapshots and records travel through the store, whose folder all workers must see. There, a run
    that fails leaves the others going, and RunsFailed tells at the end. Raises ValueError for a
    config of another rule than its method has become, and RecordRefused (store.py).
    """
    configs = check_configs(configs)
    store = (
        Store(store or "results") if isinstance(store, (str, os.PathLike, type(None))) else store
    )
    if not isinstance(store, Store):
        raise ValueError(f"store must be a Store or a folder, not {store!r}")
    check_device(device)
    workers = checked("workers", workers, 1, least=1)
    for c in configs:
        if c.code:
            check_code(c)
    found = {c.id: store.get(c) for c in configs}
    missing = [c for c in configs if found[c.id] is None]
    if training_allowed(train) and missing:
        environment.check_threads()
        for c in missing:
            check_code(c)
        if not isinstance(executor, ThreadPoolExecutor | None):
            pickle.dumps(Parcel(missing))  # what cannot be sent is told before anything is
        usable = _usable(missing, store)
        missing, failed = [c for c in missing if c.dataset in usable], []
        waves, asked = [*upstream_waves(missing, store), dict.fromkeys(missing, ())], set(missing)
        # else each worker tries what it is to train, as a rule may end the process that tries it
        if executor is None:
            check_precision(missing, resolve_device(device))
            try_rules(dict.fromkeys(c for wave in waves for c in wave), device)
        for wave in waves:
            # what is asked for itself trains to its end before what starts from it
            whole = {c: {*e, c.epochs} if e and c in asked else e for c, e in wave.items()}
            wanted = {
                c: tuple(sorted(e))
                for c, e in whole.items()
                if is_lacking(c, e, store) and can_start(c, store)
            }
            failed += _train_wave(wanted, store, device, progress, executor, workers)
        if failed:
            told = "; ".join(f"{c.id}: {type(e).__name__}: {e}" for c, e in failed)
            raise RunsFailed(
                f"{len(failed)} runs failed, all others have been trained: {told}"
            ) from failed[0][1]
        found |= {c.id: store.get(c) for c in missing}
    return [found[c.id] for c in configs]


def _usable(configs, store) -> set[str]:
    """Names of the datasets of `configs` that are here, and are those of the store's records."""
    usable = set()
    for name in sorted({c.dataset for c in configs}):
        group = [c for c in configs if c.dataset == name]
        try:
            images = data.load(name)
        except data.DatasetMissing as e:
            warnings.warn(f"{len(group)} runs are left out: {e}", stacklevel=3)
            continue
        if images.train_x.is_floating_point() and any(c.augment for c in group):
            raise ValueError(f"dataset {name!r} has no pixels to crop and flip; set augment=False")
        store.check_dataset(images)
        usable.add(name)
    return usable


def _train_wave(wanted, store, device, progress, executor, workers) -> list[tuple]:
    """Train runs that do not depend on one another; (config, exception) of each that failed under
    an executor.
    """

    def job(group, wait=False):
        shown = progress and executor is None
        return group, wanted[group[0]], Parcel(group), store.root.resolve(), device, shown, wait

    most = MAX_MEMBERS[
        "cpu" if executor is None and resolve_device(device).type == "cpu" else "cuda"
    ]
    with memory_named(list(wanted)):
        jobs, failed = [job(group) for group in plan(wanted, store, most, workers)], []
    with tqdm(
        total=len(wanted),
        desc="runs",
        unit=" run",
        disable=not progress or executor is None,
        leave=False,
    ) as bar:
        while jobs:
            jobs, given = [], jobs
            for (group, *_), busy, error in _results(given, executor):
                if error is None:
                    bar.update(len(group) - len(busy))
                elif len(group) > 1:
                    jobs += [job([c]) for c in group]  # so that one member's fault is its own
                else:
                    failed.append((group[0], error))
                for c in busy:
                    warnings.warn(
                        f"run {c.id} is being trained by another process; waiting for it",
                        stacklevel=4,
                    )
                    jobs.append(job([c], wait=True))
    return failed


def _results(jobs, executor):
    """(job, runs of it that another process is training, exception or None) of each job, as they
    end.

    In this process an exception is not caught: the traceback leads to its place.
    """
    if executor is None:
        yield from ((job, train_ensemble(*job), None) for job in jobs)
        return
    futures, lost = {}, []
    for job in jobs:
        try:
            futures[executor.submit(train_ensemble, *job)] = job
        except BrokenExecutor:
            lost.append(job)
    for future in as_completed(futures):
        busy, error = _outcome(future)
        if engines.lost(error):
            lost.append(futures[future])
        else:
            yield futures[future], busy, error
    if lost:
        warnings.warn(
            f"the workers of {len(lost)} ensembles are gone; each is tried once more, alone",
            stacklevel=4,
        )
    for job in lost:  # one after another, so that one which ends its worker takes no other along
        yield job, *_alone(job, executor)


def _outcome(future):
    """(runs that another process is training, exception or None) of a job that has been
    submitted.
    """
    try:
        return future.result(), None
    except CancelledError:
        return [], ConnectionError(
            "the engine dropped it, as where its scheduler has ended; the same command trains it"
        )
    except Exception as e:
        return [], e


def _alone(job, executor):
    """The outcome of a job in the executor while nothing else is there, or in a process of its own
    where it is broken.
    """
    try:
        return _outcome(executor.submit(train_ensemble, *job))
    except BrokenExecutor:
        fresh = engines.Processes(1, torch.get_num_threads())
        try:
            return _outcome(fresh.submit(train_ensemble, *job))
        finally:
            fresh.stop()
