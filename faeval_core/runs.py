"""Runs: find the records of a list of configs, train what is missing as ensembles, survive interruption."""

import os
import platform
import statistics
import sys
import time
import warnings
from operator import attrgetter

import torch
from tqdm import tqdm

from . import __version__, data, synthetic
from .config import RunConfig
from .methods import METHODS
from .store import SCIENCE, RunRecord, Store, rounded
from .training import Ensemble, fresh_progress, train

CHECKPOINT_SECONDS = 60
CPU_SECONDS_PER_EPOCH = 4.0  # of one member of the audit's size; benchmarks/results.json has the measurement
MAX_MEMBERS = {"cpu": 12, "cuda": 64}


def resolve_device(device="auto") -> torch.device:
    """'auto' is CUDA where there is one. Raises ValueError for a device this machine lacks."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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


def run(configs, store=None, *, train=True, device="auto", progress=True) -> list[RunRecord | None]:
    """Records of `configs`, in their order: read from the store, else trained here and stored.

    train=False (or FAEVAL_TRAIN=0) only reads; a run without a record then comes back as None, as does one whose dataset is
    not on this machine (with a warning). Interrupted runs continue from their last checkpoint.
    """
    store, configs = store or Store(), list(configs)
    found = {c.id: store.get(c) for c in configs}
    missing = [c for c in dict.fromkeys(configs) if found[c.id] is None]
    if training_allowed(train):
        for name in sorted({c.dataset for c in missing}):
            group = [c for c in missing if c.dataset == name]
            try:
                images = data.load(name)
                if images.train_x.is_floating_point() and any(c.augment for c in group):
                    raise ValueError(f"dataset {name!r} has no pixels to crop and flip; set augment=False")
            except data.DatasetMissing as e:
                warnings.warn(f"{len(group)} runs are left out: {e}", stacklevel=2)
                continue
            _train_missing(group, images, store, resolve_device(device), progress)
        found |= {c.id: store.get(c) for c in missing}
    return [found[c.id] for c in configs]


def _train_missing(configs, images, store, device, progress):
    store.check_dataset(images)
    pixels = data.Pixels(images, device)
    for upstream, epochs in _upstream_needs(configs, store).items():
        if _can_start(upstream, store):
            _train_group([upstream], pixels, store, progress, epochs, max(epochs) if store.get(upstream) else None)
    configs = [c for c in configs if store.get(c) is None and _can_start(c, store)]
    for group in plan(configs, store, MAX_MEMBERS[device.type]):
        _train_group(group, pixels, store, progress)


def _upstream_needs(configs, store):
    """Upstream config -> epochs whose snapshots are missing, the farthest upstream first."""
    needs = {}
    for c in configs:
        if c.upstream is not None and _start(c, store) is None:
            needs.setdefault(c.upstream, set()).add(c.upstream_epoch)
    found = _upstream_needs(list(needs), store) if needs else {}
    for upstream, epochs in needs.items():  # what a farther run needs of it too is made in the same training
        found.setdefault(upstream, set()).update(epochs)
    return found


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


def plan(configs, store, most) -> list[list[RunConfig]]:
    """Ensembles: runs of one signature that stand at the same epoch, at most `most` together."""
    groups = {}
    for c in configs:
        kept = store.load_tensors(store.checkpoint_path(c))
        groups.setdefault((c.signature, kept[1]["epoch"] if kept else 0), []).append(c)
    return [group[i : i + most] for _, group in sorted(groups.items()) for i in range(0, len(group), most)]


def _train_group(configs, pixels, store, progress, wanted=(), stop=None):
    """Train one ensemble and store what it gives: records, and the weights after each of the epochs `wanted` and the last.

    stop: the epoch after which to end, for weights alone.
    """
    size, epochs = len(configs), configs[0].epochs
    wanted = {*wanted, epochs}
    ensemble = Ensemble(configs, pixels, [_start(c, store) for c in configs])
    members = [fresh_progress() for _ in configs]
    kept = [store.load_tensors(store.checkpoint_path(c)) for c in configs]
    begun = {meta["epoch"] for _, meta in filter(None, kept)}
    # A second process may have moved on since the plan was made: members of unequal epochs start afresh, as does an
    # upstream run whose checkpoint is past a snapshot that is wanted of it.
    if all(kept) and len(begun) == 1 and max(begun) < min(wanted):
        for m, (tensors, meta) in enumerate(kept):
            ensemble.restore(m, tensors, meta["epoch"])
            members[m] = meta["progress"]
    how = {"unit": " run-epoch", "leave": False, "disable": not progress, "mininterval": 1 if sys.stderr.isatty() else 30}
    label, last, saved = f"{configs[0].method} ×{size}", stop or epochs, time.monotonic()

    def put(c, result):
        device = torch.cuda.get_device_name(pixels.device) if pixels.device.type == "cuda" else f"CPU {platform.machine()}"
        provenance = {
            "package": __version__, "method_version": METHODS[c.method].version,
            "dataset_fingerprint": pixels.data.fingerprint, "device": device, "torch": torch.__version__,
            "threads": torch.get_num_threads(), "driver": ensemble.driver, "members": size,
            "seconds": round(result["seconds"], 1), "finished": time.strftime("%Y-%m-%d", time.gmtime()),
        }  # fmt: skip
        store.put(RunRecord(c, **{k: rounded(result.get(k)) for k in SCIENCE}, provenance=provenance))
        store.checkpoint_path(c).unlink(missing_ok=True)

    with tqdm(total=last * size, initial=ensemble.epoch * size, desc=label, **how) as bar:
        for diverged in train(ensemble, members, last):
            epoch = ensemble.epoch
            bar.update(epoch * size - bar.n)
            due = time.monotonic() - saved > CHECKPOINT_SECONDS and epoch < epochs and stop is None
            for c, result in diverged if stop is None else ():
                put(c, result)
            for m, (c, result) in enumerate(zip(ensemble.configs, members)):
                tensors = ensemble.export(m) if due or epoch in wanted else {}
                if due:
                    store.save_tensors(store.checkpoint_path(c), tensors, {"epoch": epoch, "progress": rounded(result)})
                if epoch in wanted:
                    weights = {k.removeprefix("param/"): v for k, v in tensors.items() if k.startswith("param/")}
                    store.save_tensors(store.snapshot_path(c, epoch), weights, {"epoch": epoch})
                if epoch == epochs and stop is None:
                    put(c, result | {"status": "complete"})
            saved = time.monotonic() if due else saved


# -- what a run costs ---------------------------------------------------------------------------------------------------


def cost_seconds(cfg: RunConfig, records) -> float:
    """Estimated seconds of a run on this machine, from `records` of its shape or else by weights × images.

    Methods are scaled by their `cost`; the constant is that of a CPU with two cores (benchmarks/results.json).
    """

    def work(c):  # multiply-adds of a DFA step's forward pass, times the steps, relative to an epoch of the audit
        features, images = (c.width, synthetic.TRAIN) if synthetic.is_synthetic(c.dataset) else (3072, 50000)
        size = images * (features * c.width + 2 * c.depth * c.width**2) / (50000 * (3072 * 256 + 8 * 256**2))
        return size * getattr(METHODS.get(c.method), "cost", 1.0)

    shape = attrgetter("dataset", "model", "width", "depth")
    like = [r for r in records if shape(r.config) == shape(cfg) and r.curves["test_acc"]]
    rates = [r.provenance["seconds"] / len(r.curves["test_acc"]) / work(r.config) for r in like]
    return cfg.epochs * work(cfg) * (statistics.median(rates) if rates else CPU_SECONDS_PER_EPOCH)
