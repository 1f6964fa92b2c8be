"""Train one ensemble into the store, on whatever machine this is called."""

import glob
import platform
import sys
import time
from contextlib import ExitStack, contextmanager, suppress

import torch
from tqdm import tqdm

from .. import data, preflight
from ..config import RunConfig
from ..ground.files import digest
from ..methods import METHODS
from ..methods.shared import RuleError
from ..models import MODELS
from ..owncode import code_digest
from ..training import DiagnosisFailed, Ensemble, fresh_progress, train
from ..training.device import resolve_device
from ..training.execution import bf16_slowdown, onednn_rounds
from .costs import cost_flops
from .plan import is_lacking, start_path
from .provenance import made_by
from .record import SCIENCE, RunRecord, rounded
from .record_files import without_code
from .store import Store

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
                pixels = data.Pixels(images, resolve_device(device))
                Training(needed, pixels, store, epochs).run(progress)
    return [c for c in configs if c not in mine]


class Training:
    """One ensemble on its way into the store.

    It leaves there the weights after each epoch that is wanted and the last, records of runs that
    have none, and of a run that is not at its end or could not be measured there a checkpoint.
    """

    def __init__(self, configs, pixels, store, wanted=()):
        self.code = made_by()  # before training, that it be of the code that trains
        self.store, self.size, self.epochs = store, len(configs), configs[0].epochs
        self.last, self.wanted = max(wanted, default=self.epochs), {*wanted, self.epochs}
        self.diagnosed = {*configs[0].diagnose, self.epochs}
        self.lacking = {c for c in configs if not store.has(c)}
        # on CUDA, steps are recorded
        self.fused = pixels.device.type == "cpu" and cost_flops(configs[0]) > FUSE_FLOPS
        weights = [start_weights(c, store) for c in configs]
        self.ensemble = Ensemble(configs, pixels, weights, fused=self.fused)
        self.results = [fresh_progress() for _ in configs]
        self.saved = time.monotonic()
        self.resume()

    def resume(self) -> None:
        """Go on from the members' checkpoints, where all have one of the same epoch.

        A second process may have moved on since the plan was made: members of unequal epochs start
        afresh, as does an upstream run whose checkpoint is past a snapshot that is wanted of it.
        """
        configs, store = self.ensemble.configs, self.store
        kept = [
            store.load_tensors(store.checkpoint_path(c)) or _with_another_diagnosis(c, store)
            for c in configs
        ]
        begun = {meta["epoch"] for _, meta in filter(None, kept)}
        missing = [e for e in self.wanted if any(is_lacking(c, (e,), store) for c in configs)]
        if all(kept) and len(begun) == 1 and max(begun) <= min(missing, default=self.epochs):
            for m, (tensors, meta) in enumerate(kept):
                self.ensemble.restore(m, tensors, meta["epoch"])
                self.results[m] = meta["progress"]

    def run(self, progress: bool) -> None:
        """Train as far as the last epoch that is wanted; progress: show a bar."""
        ensemble, size = self.ensemble, self.size
        label = f"{ensemble.configs[0].method} ×{size}"
        seconds = 1 if sys.stderr.isatty() else 30
        how = {"unit": " run-epoch", "leave": False, "disable": not progress}
        begun = ensemble.epoch * size
        with tqdm(
            total=self.last * size, initial=begun, desc=label, mininterval=seconds, **how
        ) as bar:
            for diverged in train(ensemble, self.results, self.last):
                bar.update(ensemble.epoch * size - bar.n)
                for c, result in diverged:
                    if c in self.lacking:
                        self.put(c, result)
                self.keep()
        # which refers to the ensemble, whose memory would else wait for the collector
        ensemble.groups = []

    def keep(self) -> None:
        """Keep what this epoch is to leave of each member."""
        ensemble, epoch = self.ensemble, self.ensemble.epoch
        due = epoch == self.last or time.monotonic() - self.saved > CHECKPOINT_SECONDS
        measured = [
            epoch not in self.diagnosed or str(epoch) in r["diagnostics"] for r in self.results
        ]
        for m, (c, result) in enumerate(zip(ensemble.configs, self.results)):
            done = epoch == self.epochs and measured[m]
            goes_on = c in self.lacking and not done and epoch > 0
            is_kept = goes_on and (due or not all(measured))
            tensors = ensemble.export(m) if is_kept or epoch in self.wanted else {}
            if is_kept:
                self.checkpoint(c, result, tensors)
            if epoch in self.wanted:
                self.snapshot(c, tensors)
            if done and c in self.lacking:
                self.finish(c, m)
        self.saved = time.monotonic() if due else self.saved

    def finish(self, c, m) -> None:
        """Put the record of a run that is at its end."""
        result = self.results[m]
        try:
            self.put(c, result | {"status": "complete"})
        except OSError:
            # there may be room for a record later, when the run goes on from here
            with suppress(OSError):
                self.checkpoint(c, result, self.ensemble.export(m))
            raise

    def put(self, c, result) -> None:
        """Write the record of a run, whose checkpoint is then no longer needed."""
        science = {k: rounded(result.get(k)) for k in SCIENCE}
        self.store.put(RunRecord(c, **science, provenance=self.provenance(c, result["seconds"])))
        self.store.checkpoint_path(c).unlink(missing_ok=True)

    def provenance(self, c, seconds) -> dict:
        """How a run was trained, by which code and on what."""
        ensemble = self.ensemble
        device = f"CPU {platform.machine()}"
        if ensemble.device.type == "cuda":
            device = torch.cuda.get_device_name(ensemble.device)
        products = "autocast" if c.precision == "bf16" else "BLAS"
        return {
            **self.code,
            "method_version": METHODS[c.method].version,
            "dataset_fingerprint": ensemble.pixels.data.fingerprint,
            "device": device,
            "threads": torch.get_num_threads(),
            "driver": ensemble.driver,
            "fused": self.fused,
            "members": self.size,
            "side_by_side": ensemble.workers,
            "products": "oneDNN" if ensemble.onednn else products,
            "seconds": round(seconds, 1),
            "finished": time.strftime("%Y-%m-%d", time.gmtime()),
        }

    def checkpoint(self, c, result, tensors) -> None:
        """What a record holds, as it will hold it; all else in full, so that what goes on from here
        ends as if it had not been cut off.
        """
        kept = {k: rounded(v) if k in SCIENCE else v for k, v in result.items()}
        meta = {"epoch": self.ensemble.epoch, "progress": kept} | _trained_as(c)
        self.store.save_tensors(self.store.checkpoint_path(c), tensors, meta)

    def snapshot(self, c, tensors) -> None:
        """The weights of a run, for those that start from them."""
        epoch, prefix = self.ensemble.epoch, "param/"
        weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        self.store.save_tensors(self.store.snapshot_path(c, epoch), weights, {"epoch": epoch})


def _trained_as(c) -> dict[str, str]:
    """{"trained_as": what a run of a rule of one's own shares with those that its training is the
    same for}, whatever the rule measures; {} for faeval's own.
    """
    if not c.code:
        return {}
    code = code_digest(METHODS[c.method], MODELS[c.model], without=frozenset({"measured"}))
    return {"trained_as": digest([without_code(c).id, code])}


def _with_another_diagnosis(c, store):
    """(tensors, meta) of a checkpoint of the same training under a rule that measured in another
    way, before it had measured anything; None where there is none.
    """
    wanted = _trained_as(c)
    if not wanted:
        return None
    folder = store.checkpoint_path(c).parent
    for path in sorted(folder.glob(f"{glob.escape(c.method)}-*.safetensors")):
        _, meta = store.load_tensors(path, only_meta=True) or (None, {})
        if wanted.items() <= meta.items() and not meta["progress"]["diagnostics"]:
            return store.load_tensors(path)
    return None


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
