"""Runs: find the records of a list of configs, train what is missing as ensembles, survive
interruption.
"""

import os
import pickle
import platform
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import BrokenExecutor, CancelledError, ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager, suppress

import torch
from tqdm import tqdm

from . import data, engines, environment, preflight
from .config import RunConfig, checked
from .costs import cost_flops
from .execution import bf16_slowdown, onednn_rounds
from .methods import METHODS
from .methods.base import RuleError
from .parcel import Parcel, check_code
from .provenance import made_by
from .store import SCIENCE, RunRecord, Store, rounded
from .training import DiagnosisFailed, Ensemble, fresh_progress, train

CHECKPOINT_SECONDS = 60
FUSE_FLOPS = 8e12  # runs of more have their gradient compiled: about a minute on two cores
MAX_MEMBERS = {"cpu": 12, "cuda": 64}


class RunsFailed(RuntimeError):
    """Some runs ended in an exception; all others have been trained."""


def check_device(device) -> None:
    """Raise ValueError for what names no device at all."""
    if not isinstance(device, (str, torch.device)):
        raise ValueError(f"device must be auto, cpu or cuda, not {device!r}")


def resolve_device(device="auto") -> torch.device:
    """'auto' is what $FAEVAL_DEVICE says, or CUDA where there is one. Raises ValueError for a
    device this machine lacks.
    """
    check_device(device)
    asked = os.environ.get("FAEVAL_DEVICE", "").strip() if device == "auto" else ""
    device, source = (asked, " of FAEVAL_DEVICE in the environment") if asked else (device, "")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {device!r}{source}; use auto, cpu or cuda")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r}{source} was asked for but torch finds no CUDA device; use auto "
            "or cpu"
        )
    if found.index and found.index >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r}{source} is not among the {torch.cuda.device_count()} CUDA "
            "devices of this machine"
        )
    return found


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
        waves, asked = [*_upstream_waves(missing, store), dict.fromkeys(missing, ())], set(missing)
        # else each worker tries what it is to train, as a rule may end the process that tries it
        if executor is None:
            check_precision(missing, resolve_device(device))
            _preflight(dict.fromkeys(c for wave in waves for c in wave), device)
        for wave in waves:
            # what is asked for itself trains to its end before what starts from it
            whole = {c: {*e, c.epochs} if e and c in asked else e for c, e in wave.items()}
            wanted = {
                c: tuple(sorted(e))
                for c, e in whole.items()
                if _lacking(c, e, store) and _can_start(c, store)
            }
            failed += _train_wave(wanted, store, device, progress, executor, workers)
        if failed:
            told = "; ".join(f"{c.id}: {type(e).__name__}: {e}" for c, e in failed)
            raise RunsFailed(
                f"{len(failed)} runs failed, all others have been trained: {told}"
            ) from failed[0][1]
        found |= {c.id: store.get(c) for c in missing}
    return [found[c.id] for c in configs]


def _preflight(configs, device, kind=Exception) -> None:
    """Raise the first error of a `kind` that a rule makes on the initial net, before any
    training.
    """
    for error in preflight.faults(configs, resolve_device(device)).values():
        if isinstance(error, kind):
            raise error


def check_precision(configs, device) -> None:
    """Raise ValueError for a long run in bfloat16 on a CPU where float32 is faster."""
    if device.type == "cuda" or onednn_rounds():
        return
    for c in configs:
        if c.precision == "bf16" and cost_flops(c) > FUSE_FLOPS and (times := bf16_slowdown()) > 1:
            raise ValueError(
                f"run {c.id} asks for precision='bf16', whose products take {times:.1f} times as "
                "long as float32's on this CPU; use precision='fp32', or a machine with bfloat16 "
                "instructions"
            )


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


def _upstream_waves(configs, store) -> list[dict]:
    """Waves of upstream config -> epochs whose snapshots are missing; each wave starts from what
    those before it give.
    """
    needs = {}
    for c in configs:
        if c.upstream is not None and not store.has_tensors(_start_path(c, store)):
            needs.setdefault(c.upstream, set()).add(c.upstream_epoch)
    earlier = _upstream_waves(list(needs), store) if needs else []
    for wave in earlier:
        # what a nearer run needs of it too is made in the same training
        for c in wave.keys() & needs.keys():
            wave[c] |= needs.pop(c)
    return [*earlier, needs] if needs else earlier


def _start_path(c, store):
    """Path of the snapshot that a run starts from."""
    return store.snapshot_path(c.upstream, c.upstream_epoch)


def _start(c, store):
    """Weights of the snapshot that a run starts from; None for one without upstream."""
    if c.upstream is None:
        return None
    kept = store.load_tensors(_start_path(c, store))
    if kept is None:  # gone since it was asked for: never start from a fresh init in its place
        raise FileNotFoundError(
            f"{_start_path(c, store)}, which run {c.id} starts from, is gone; run again to "
            "make it anew"
        )
    return kept[0]


def _can_start(c, store) -> bool:
    """Whether the snapshot that a run starts from is there; its upstream run may have diverged
    before that epoch.
    """
    if c.upstream is None or store.has_tensors(_start_path(c, store)):
        return True
    warnings.warn(
        f"run {c.id} is left out: its upstream {c.upstream.id} has no epoch {c.upstream_epoch}",
        stacklevel=4,
    )
    return False


def _lacking(c, epochs, store) -> bool:
    """Whether a run has yet to be trained, for the snapshots after `epochs` or, where its end is
    wanted, for its record.

    No `epochs` stand for the record alone.
    """
    if (not epochs or c.epochs in epochs) and not store.has(c):
        return True
    return any(
        store.load_tensors(store.snapshot_path(c, e), only_meta=True) is None for e in epochs
    )


def plan(wanted, store, most, workers=1) -> list[list[RunConfig]]:
    """Ensembles: runs of one signature that stand at the same epoch and of which the same snapshots
    are wanted.

    wanted: config -> epochs of snapshots. At most `most` runs together; for several workers, no
    ensemble is larger than a worker's share, and the longest come first, so that all finish at
    about the same time.
    """
    groups = {}
    for c, epochs in wanted.items():
        kept = store.load_tensors(store.checkpoint_path(c), only_meta=True)
        groups.setdefault(
            (c.signature, kept[1]["epoch"] if kept else 0, epochs, not store.has(c)), []
        ).append(c)
    costs = {c: cost_flops(c) for c in wanted}
    share = sum(costs.values()) / workers
    sizes = {
        key: most if workers == 1 else max(1, min(most, int(share / costs[group[0]])))
        for key, group in groups.items()
    }
    found = [
        group[i : i + sizes[key]]
        for key, group in sorted(groups.items())
        for i in range(0, len(group), sizes[key])
    ]
    return found if workers == 1 else sorted(found, key=lambda group: -sum(costs[c] for c in group))


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
    with _memory_named(list(wanted)):
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


def train_ensemble(
    configs, epochs, parcel, root, device="auto", progress=False, wait=False
) -> list[RunConfig]:
    """Train one ensemble into the store at `root`, on whatever machine this is called; the runs
    that another process has.

    epochs: of the snapshots that are wanted of each run, which is trained as far as the last of
    them and keeps a checkpoint there; none: for its record. parcel: the classes that they are of.
    wait for a run that another process is training, rather than leave it.
    """
    parcel.open()
    if (default := torch.get_default_dtype()) != torch.float32:
        way_out = "torch.set_default_dtype(torch.float32) before, or train an Ensemble of your own"
        raise TypeError(
            f"runs are trained in float32, and torch's default type is {default}: {way_out}"
        )
    store = Store(root)
    with ExitStack() as held:
        mine = [c for c in configs if held.enter_context(store.lock(c.id, wait))]
        needed = [c for c in mine if _lacking(c, epochs, store)]
        if needed:
            images = data.load(needed[0].dataset)
            store.check_dataset(images)
            check_precision(needed, resolve_device(device))
            # all else may be the fault of one run, and shows in its training
            _preflight(needed, device, RuleError)
            with _memory_named(needed):
                _train_group(
                    needed, data.Pixels(images, resolve_device(device)), store, progress, epochs
                )
    return [c for c in configs if c not in mine]


@contextmanager
def _memory_named(configs):
    """Turn what Python and torch raise where memory does not suffice into a MemoryError that names
    the runs.
    """
    try:
        yield
    except DiagnosisFailed:
        raise
    except (MemoryError, RuntimeError, TypeError) as e:
        first = (str(e).splitlines() or [""])[0]
        kind = isinstance(e, (MemoryError, torch.OutOfMemoryError))
        if not kind and not any(
            text in first for text in ("alloc", "Overflow when unpacking", "calculation overflowed")
        ):
            raise
        c, runs_of = configs[0], f"{len(configs)} runs" if len(configs) > 1 else "a run"
        shape = (
            f"{runs_of} like {c.id} (width {c.width}, depth {c.depth}, batch_size {c.batch_size})"
        )
        raise MemoryError(
            f"no memory for {shape}; take a smaller net or fewer seeds at a time ({first})"
        ) from e


def _train_group(configs, pixels, store, progress, wanted=()):
    """Train one ensemble as far as the last of the epochs `wanted`, or to its end, and store what
    it gives.

    That is the weights after each of these epochs and the last, records of runs that have none, and
    of a run that is not at its end or could not be measured there a checkpoint.
    """
    # before training, that it be of the code that trains
    size, epochs, code = len(configs), configs[0].epochs, made_by()
    last, wanted = max(wanted, default=epochs), {*wanted, epochs}
    lacking = {c for c in configs if not store.has(c)}
    # on CUDA, steps are recorded
    fused = pixels.device.type == "cpu" and cost_flops(configs[0]) > FUSE_FLOPS
    ensemble = Ensemble(configs, pixels, [_start(c, store) for c in configs], fused=fused)
    members = [fresh_progress() for _ in configs]
    kept = [store.load_tensors(store.checkpoint_path(c)) for c in configs]
    begun = {meta["epoch"] for _, meta in filter(None, kept)}
    # A second process may have moved on since the plan was made: members of unequal epochs start
    # afresh, as does an upstream run whose checkpoint is past a snapshot that is wanted of it.
    next_wanted = min(
        (e for e in wanted if any(_lacking(c, (e,), store) for c in configs)), default=epochs
    )
    if all(kept) and len(begun) == 1 and max(begun) <= next_wanted:
        for m, (tensors, meta) in enumerate(kept):
            ensemble.restore(m, tensors, meta["epoch"])
            members[m] = meta["progress"]
    how = {
        "unit": " run-epoch",
        "leave": False,
        "disable": not progress,
        "mininterval": 1 if sys.stderr.isatty() else 30,
    }
    label, saved = f"{configs[0].method} ×{size}", time.monotonic()

    def put(c, result):
        device = (
            torch.cuda.get_device_name(pixels.device)
            if pixels.device.type == "cuda"
            else f"CPU {platform.machine()}"
        )
        provenance = {
            **code,
            "method_version": METHODS[c.method].version,
            "dataset_fingerprint": pixels.data.fingerprint,
            "device": device,
            "threads": torch.get_num_threads(),
            "driver": ensemble.driver,
            "fused": fused,
            "members": size,
            "side_by_side": ensemble.workers,
            "products": "oneDNN"
            if ensemble.onednn
            else "autocast"
            if c.precision == "bf16"
            else "BLAS",
            "seconds": round(result["seconds"], 1),
            "finished": time.strftime("%Y-%m-%d", time.gmtime()),
        }
        store.put(
            RunRecord(c, **{k: rounded(result.get(k)) for k in SCIENCE}, provenance=provenance)
        )
        store.checkpoint_path(c).unlink(missing_ok=True)

    def checkpoint(c, result, tensors):
        meta = {"epoch": ensemble.epoch, "progress": rounded(result)}
        store.save_tensors(store.checkpoint_path(c), tensors, meta)

    with tqdm(total=last * size, initial=ensemble.epoch * size, desc=label, **how) as bar:
        for diverged in train(ensemble, members, last):
            epoch = ensemble.epoch
            bar.update(epoch * size - bar.n)
            due = epoch == last or time.monotonic() - saved > CHECKPOINT_SECONDS
            for c, result in diverged:
                if c in lacking:
                    put(c, result)
            measured = [
                str(epoch) in r["diagnostics"] or epoch not in (*configs[0].diagnose, epochs)
                for r in members
            ]
            for m, (c, result) in enumerate(zip(ensemble.configs, members)):
                done = epoch == epochs and measured[m]
                keep = c in lacking and not done and epoch > 0 and (due or not all(measured))
                tensors = ensemble.export(m) if keep or epoch in wanted else {}
                if keep:
                    checkpoint(c, result, tensors)
                if epoch in wanted:
                    weights = {
                        k.removeprefix("param/"): v
                        for k, v in tensors.items()
                        if k.startswith("param/")
                    }
                    store.save_tensors(store.snapshot_path(c, epoch), weights, {"epoch": epoch})
                if done and c in lacking:
                    try:
                        put(c, result | {"status": "complete"})
                    except OSError:
                        # there may be room for a record later, when the run goes on from here
                        with suppress(OSError):
                            checkpoint(c, result, ensemble.export(m))
                        raise
            saved = time.monotonic() if due else saved
    # which refers to the ensemble, whose memory would else wait for the collector
    ensemble.groups = []
