"""Train one ensemble into the store, on whatever machine this is called."""

import platform
import sys
import time
from contextlib import ExitStack, contextmanager, suppress

import torch
from tqdm import tqdm

from . import data, preflight
from .config import RunConfig
from .costs import cost_flops
from .device import resolve_device
from .execution import bf16_slowdown, onednn_rounds
from .methods import METHODS
from .methods.base import RuleError
from .plan import is_lacking, start_path
from .provenance import made_by
from .store import SCIENCE, RunRecord, Store, rounded
from .training import DiagnosisFailed, Ensemble, fresh_progress, train

CHECKPOINT_SECONDS = 60
FUSE_FLOPS = 8e12  # runs of more have their gradient compiled: about a minute on two cores


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
        needed = [c for c in mine if is_lacking(c, epochs, store)]
        if needed:
            images = data.load(needed[0].dataset)
            store.check_dataset(images)
            check_precision(needed, resolve_device(device))
            # all else may be the fault of one run, and shows in its training
            try_rules(needed, device, RuleError)
            with memory_named(needed):
                _train_group(
                    needed, data.Pixels(images, resolve_device(device)), store, progress, epochs
                )
    return [c for c in configs if c not in mine]


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
    ensemble = Ensemble(configs, pixels, [start_weights(c, store) for c in configs], fused=fused)
    members = [fresh_progress() for _ in configs]
    kept = [store.load_tensors(store.checkpoint_path(c)) for c in configs]
    begun = {meta["epoch"] for _, meta in filter(None, kept)}
    # A second process may have moved on since the plan was made: members of unequal epochs start
    # afresh, as does an upstream run whose checkpoint is past a snapshot that is wanted of it.
    next_wanted = min(
        (e for e in wanted if any(is_lacking(c, (e,), store) for c in configs)), default=epochs
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
        # what a record holds, as it will hold it; all else in full, so that what goes on from here
        # ends as if it had not been cut off
        kept = {k: rounded(v) if k in SCIENCE else v for k, v in result.items()}
        meta = {"epoch": ensemble.epoch, "progress": kept}
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


def start_weights(c, store):
    """Weights of the snapshot that a run starts from; None for one without upstream."""
    if c.upstream is None:
        return None
    kept = store.load_tensors(start_path(c, store))
    if kept is None:  # gone since it was asked for: never start from a fresh init in its place
        raise FileNotFoundError(
            f"{start_path(c, store)}, which run {c.id} starts from, is gone; run again to "
            "make it anew"
        )
    return kept[0]


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


def try_rules(configs, device, kind=Exception) -> None:
    """Raise the first error of a `kind` that a rule makes on the initial net, before any
    training.
    """
    for error in preflight.faults(configs, resolve_device(device)).values():
        if isinstance(error, kind):
            raise error


@contextmanager
def memory_named(configs):
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
