"""Runs: find the records of a list of configs, train what is missing as ensembles, survive interruption."""

import os
import platform
import sys
import time
import warnings
from concurrent.futures import BrokenExecutor, as_completed
from contextlib import ExitStack, suppress

import torch
from tqdm import tqdm

from . import __version__, data, preflight
from .config import RunConfig
from .costs import cost_flops, cpu_model
from .methods import METHODS, source
from .methods.base import RuleError
from .store import SCIENCE, RunRecord, Store, rounded
from .training import Ensemble, fresh_progress, train

CHECKPOINT_SECONDS = 60
FUSE_FLOPS = 8e12  # runs of more have their gradient compiled: about a minute on two cores
MAX_MEMBERS = {"cpu": 12, "cuda": 64}


class RunsFailed(RuntimeError):
    """Some runs ended in an exception; all others have been trained."""


def resolve_device(device="auto") -> torch.device:
    """'auto' is what $FAEVAL_DEVICE says, or CUDA where there is one. Raises ValueError for a device this machine lacks."""
    if device == "auto":
        device = os.environ.get("FAEVAL_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError as e:
        raise ValueError(f"unknown device {device!r}; use auto, cpu or cuda") from e
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for but torch finds no CUDA device; use auto or cpu")
    return found


def training_allowed(wanted=True) -> bool:
    """FAEVAL_TRAIN=0 in the environment forbids training, whatever a notebook says."""
    return bool(wanted) and os.environ.get("FAEVAL_TRAIN", "1") != "0"


def run(configs, store=None, *, train=True, device="auto", progress=True, executor=None, workers=1) -> list[RunRecord | None]:
    """Records of `configs`, in their order: read from the store, else trained and stored.

    train=False (or FAEVAL_TRAIN=0) only reads; a run without a record then comes back as None, as does one whose dataset is
    not on this machine (with a warning). Interrupted runs continue from their last checkpoint; a run that another process is
    training is waited for.
    executor: anything with the interface of concurrent.futures (engines.py opens some), which takes `workers` tasks at a time;
    None trains in this process. A task is one ensemble; checkpoints, snapshots and records travel through the store, whose
    folder all workers must see. There, a run that fails leaves the others going, and RunsFailed tells at the end.
    """
    store, configs = store or Store(), list(configs)
    found = {c.id: store.get(c) for c in configs}
    for name in sorted({r.config.method for r in found.values() if r and _edited(r.config.method, r.provenance)}):
        told = f"records of method {name!r} in {store.root} were made with other source than it has now"
        warnings.warn(f"{told}; raise its version to train anew, or use another results folder", stacklevel=2)
    missing = [c for c in dict.fromkeys(configs) if found[c.id] is None]
    if training_allowed(train) and missing:
        usable = _usable(missing, store)
        missing, failed = [c for c in missing if c.dataset in usable], []
        waves, asked = [*_upstream_waves(missing, store), dict.fromkeys(missing, ())], set(missing)
        faulty = _preflight(dict.fromkeys(c for wave in waves for c in wave), device, executor)
        failed += faulty.items()
        for wave in waves:
            # what is asked for itself trains to its end before what starts from it
            whole = {c: {*e, c.epochs} if e and c in asked else e for c, e in wave.items() if c not in faulty}
            wanted = {c: tuple(sorted(e)) for c, e in whole.items() if _lacking(c, e, store) and _can_start(c, store)}
            failed += _train_wave(wanted, store, device, progress, executor, workers)
        if failed:
            told = "; ".join(f"{c.id}: {type(e).__name__}: {e}" for c, e in failed)
            raise RunsFailed(f"{len(failed)} runs failed, all others have been trained: {told}") from failed[0][1]
        found |= {c.id: store.get(c) for c in missing}
    return [found[c.id] for c in configs]


def _edited(method, noted) -> bool:
    """Whether a method of the user's own has another source than what is noted with a record or checkpoint of it."""
    then, now = noted.get("method_source"), source(method)
    return None not in (then, now) and then != now


def _preflight(configs, device, executor) -> dict:
    """Config -> RuleError of runs whose rule has a fault that shows before training; without an executor, it is raised."""
    faulty = preflight.faults(configs, "cpu" if executor else resolve_device(device))
    if faulty and executor is None:
        raise next(iter(faulty.values()))
    return {c: e for c, e in faulty.items() if isinstance(e, RuleError)}  # all else may be the fault of one run alone


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
    """Waves of upstream config -> epochs whose snapshots are missing; each wave starts from what those before it give."""
    needs = {}
    for c in configs:
        if c.upstream is not None and _start(c, store) is None:
            needs.setdefault(c.upstream, set()).add(c.upstream_epoch)
    earlier = _upstream_waves(list(needs), store) if needs else []
    for wave in earlier:
        for c in wave.keys() & needs.keys():  # what a nearer run needs of it too is made in the same training
            wave[c] |= needs.pop(c)
    return [*earlier, needs] if needs else earlier


def _start(c, store):
    """Weights of the snapshot that a run starts from, or None."""
    kept = store.load_tensors(store.snapshot_path(c.upstream, c.upstream_epoch)) if c.upstream else None
    return kept[0] if kept else None


def _can_start(c, store) -> bool:
    """Whether the snapshot that a run starts from is there; its upstream run may have diverged before that epoch."""
    if c.upstream is None or _start(c, store) is not None:
        return True
    warnings.warn(f"run {c.id} is left out: its upstream {c.upstream.id} has no epoch {c.upstream_epoch}", stacklevel=4)
    return False


def _lacking(c, epochs, store) -> bool:
    """Whether a run has yet to be trained, for the snapshots after `epochs` or, where its end is wanted, for its record.

    No `epochs` stand for the record alone.
    """
    if (not epochs or c.epochs in epochs) and store.get(c) is None:
        return True
    return any(store.load_tensors(store.snapshot_path(c, e), only_meta=True) is None for e in epochs)


def plan(wanted, store, most, workers=1) -> list[list[RunConfig]]:
    """Ensembles: runs of one signature that stand at the same epoch and of which the same snapshots are wanted.

    wanted: config -> epochs of snapshots. At most `most` runs together; for several workers, no ensemble is larger than a
    worker's share, and the longest come first, so that all finish at about the same time.
    """
    groups = {}
    for c, epochs in wanted.items():
        kept = store.load_tensors(store.checkpoint_path(c), only_meta=True)
        groups.setdefault((c.signature, kept[1]["epoch"] if kept else 0, epochs, store.get(c) is None), []).append(c)
    costs = {c: cost_flops(c) for c in wanted}
    share = sum(costs.values()) / workers
    sizes = {key: most if workers == 1 else max(1, min(most, int(share / costs[group[0]]))) for key, group in groups.items()}
    found = [group[i : i + sizes[key]] for key, group in sorted(groups.items()) for i in range(0, len(group), sizes[key])]
    return found if workers == 1 else sorted(found, key=lambda group: -sum(costs[c] for c in group))


def _train_wave(wanted, store, device, progress, executor, workers) -> list[tuple]:
    """Train runs that do not depend on one another; (config, exception) of each that failed under an executor."""

    def job(group, wait=False):
        shown = progress and executor is None
        return group, wanted[group[0]], METHODS[group[0].method], store.root.resolve(), device, shown, wait

    most = MAX_MEMBERS["cpu" if executor is None and resolve_device(device).type == "cpu" else "cuda"]
    jobs, failed = [job(group) for group in plan(wanted, store, most, workers)], []
    with tqdm(total=len(wanted), desc="runs", unit=" run", disable=not progress or executor is None, leave=False) as bar:
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
                    warnings.warn(f"run {c.id} is being trained by another process; waiting for it", stacklevel=4)
                    jobs.append(job([c], wait=True))
    return failed


def _results(jobs, executor):
    """(job, runs of it that another process is training, exception or None) of each job, as they end.

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
        error = future.exception()
        if isinstance(error, BrokenExecutor):
            lost.append(futures[future])
        else:
            yield futures[future], [] if error else future.result(), error
    if lost:
        warnings.warn(f"the workers of {len(lost)} ensembles are gone; they go on in this process", stacklevel=4)
        yield from _results(lost, None)


def train_ensemble(configs, epochs, method, root, device="auto", progress=False, wait=False) -> list[RunConfig]:
    """Train one ensemble into the store at `root`, on whatever machine this is called; the runs that another process has.

    epochs: of the snapshots that are wanted of each run, which is trained as far as the last of them and keeps a checkpoint
    there; none: for its record. method: the class of all of them. wait for a run that another process is training, rather
    than leave it.
    """
    METHODS.setdefault(configs[0].method, method)
    if (default := torch.get_default_dtype()) != torch.float32:
        way_out = "torch.set_default_dtype(torch.float32) before, or train an Ensemble of your own"
        raise TypeError(f"runs are trained in float32, and torch's default type is {default}: {way_out}")
    store = Store(root)
    with ExitStack() as held:
        mine = [c for c in configs if held.enter_context(store.lock(c.id, wait))]
        needed = [c for c in mine if _lacking(c, epochs, store)]
        if needed:
            images = data.load(needed[0].dataset)
            store.check_dataset(images)
            _train_group(needed, data.Pixels(images, resolve_device(device)), store, progress, epochs)
    return [c for c in configs if c not in mine]


def _train_group(configs, pixels, store, progress, wanted=()):
    """Train one ensemble as far as the last of the epochs `wanted`, or to its end, and store what it gives.

    That is the weights after each of these epochs and the last, records of runs that have none, and of a run that is not at
    its end or could not be measured there a checkpoint.
    """
    size, epochs, made_by = len(configs), configs[0].epochs, source(configs[0].method)
    noted = {"method_source": made_by} if made_by else {}
    last, wanted = max(wanted, default=epochs), {*wanted, epochs}
    lacking = {c for c in configs if store.get(c) is None}
    fused = pixels.device.type == "cpu" and cost_flops(configs[0]) > FUSE_FLOPS  # on CUDA, steps are recorded
    ensemble = Ensemble(configs, pixels, [_start(c, store) for c in configs], fused=fused)
    members = [fresh_progress() for _ in configs]
    kept = [store.load_tensors(store.checkpoint_path(c)) for c in configs]
    if any(_edited(configs[0].method, meta) for _, meta in filter(None, kept)):
        kept = [None]  # half of a run by another rule
    begun = {meta["epoch"] for _, meta in filter(None, kept)}
    # A second process may have moved on since the plan was made: members of unequal epochs start afresh, as does an
    # upstream run whose checkpoint is past a snapshot that is wanted of it.
    next_wanted = min((e for e in wanted if any(_lacking(c, (e,), store) for c in configs)), default=epochs)
    if all(kept) and len(begun) == 1 and max(begun) <= next_wanted:
        for m, (tensors, meta) in enumerate(kept):
            ensemble.restore(m, tensors, meta["epoch"])
            members[m] = meta["progress"]
    how = {"unit": " run-epoch", "leave": False, "disable": not progress, "mininterval": 1 if sys.stderr.isatty() else 30}
    label, saved = f"{configs[0].method} ×{size}", time.monotonic()

    def put(c, result):
        device = torch.cuda.get_device_name(pixels.device) if pixels.device.type == "cuda" else f"CPU {platform.machine()}"
        provenance = {
            "package": __version__, "method_version": METHODS[c.method].version, **noted,
            "dataset_fingerprint": pixels.data.fingerprint, "device": device, "cpu": cpu_model(), "torch": torch.__version__,
            "threads": torch.get_num_threads(), "driver": ensemble.driver, "fused": fused, "members": size,
            "side_by_side": ensemble.workers,
            "products": "oneDNN" if ensemble.onednn else "autocast" if c.precision == "bf16" else "BLAS",
            "seconds": round(result["seconds"], 1), "finished": time.strftime("%Y-%m-%d", time.gmtime()),
        }  # fmt: skip
        store.put(RunRecord(c, **{k: rounded(result.get(k)) for k in SCIENCE}, provenance=provenance))
        store.checkpoint_path(c).unlink(missing_ok=True)

    def checkpoint(c, result, tensors):
        meta = noted | {"epoch": ensemble.epoch, "progress": rounded(result)}
        store.save_tensors(store.checkpoint_path(c), tensors, meta)

    with tqdm(total=last * size, initial=ensemble.epoch * size, desc=label, **how) as bar:
        for diverged in train(ensemble, members, last):
            epoch = ensemble.epoch
            bar.update(epoch * size - bar.n)
            due = epoch == last or time.monotonic() - saved > CHECKPOINT_SECONDS
            for c, result in diverged:
                if c in lacking:
                    put(c, result)
            measured = [str(epoch) in r["diagnostics"] or epoch not in (*configs[0].diagnose, epochs) for r in members]
            for m, (c, result) in enumerate(zip(ensemble.configs, members)):
                done = epoch == epochs and measured[m]
                keep = c in lacking and not done and epoch > 0 and (due or not all(measured))
                tensors = ensemble.export(m) if keep or epoch in wanted else {}
                if keep:
                    checkpoint(c, result, tensors)
                if epoch in wanted:
                    weights = {k.removeprefix("param/"): v for k, v in tensors.items() if k.startswith("param/")}
                    store.save_tensors(store.snapshot_path(c, epoch), weights, {"epoch": epoch})
                if done and c in lacking:
                    try:
                        put(c, result | {"status": "complete"})
                    except OSError:  # there may be room for a record later, when the run goes on from here
                        with suppress(OSError):
                            checkpoint(c, result, ensemble.export(m))
                        raise
            saved = time.monotonic() if due else saved
    ensemble.groups = []  # which refers to the ensemble, whose memory would else wait for the collector
