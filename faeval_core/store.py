"""RunRecord and the store: one readable JSON per run, verified when read, beside checkpoints and weight snapshots."""

import json
import math
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from .config import RunConfig
from .files import UNREADABLE, digest, publish_json, publish_tensors, read_json, read_tensors
from .methods import METHODS

DIGITS = 7  # significant digits kept of a measured value
SCIENCE = ("status", "curves", "diagnostics", "fault")  # what a rerun reproduces: not timing and provenance


def rounded(value):
    """Measured values to 7 significant digits; a non-finite number becomes None, which means undefined."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, (list, tuple)) else value


@dataclass
class RunRecord:
    """What one run gave. `curves` has one entry per epoch (epoch 1 first), `diagnostics` one per chosen epoch.

    status is 'complete' or 'diverged'; a diverged run has `fault` = {step, quantity} and no final accuracy.
    """

    config: RunConfig
    status: str
    curves: dict
    diagnostics: dict
    fault: dict | None
    provenance: dict

    @property
    def accuracy(self) -> float | None:
        """Test accuracy after the last epoch, None where the run diverged."""
        return self.curves["test_acc"][-1] if self.status == "complete" else None

    @property
    def final(self) -> dict | None:
        """Diagnostics after the last epoch, None where the run diverged."""
        return self.diagnostics.get(str(self.config.epochs))

    def science(self) -> dict:
        """The part that a rerun reproduces: everything but timing and provenance."""
        return {k: getattr(self, k) for k in SCIENCE} | {"config": self.config.to_dict()}

    @property
    def checksum(self) -> str:
        return _checksum(self.science())

    def to_json(self) -> dict:
        return {"id": self.config.id, **self.science(), "provenance": self.provenance, "checksum": self.checksum}

    @classmethod
    def from_json(cls, raw: dict) -> "RunRecord":
        told = {k: raw[k] for k in (*SCIENCE, "config")}  # as it is: an older config lacks fields that are new
        if _checksum(told) != raw["checksum"]:
            raise ValueError("its checksum does not match its content")
        return cls(RunConfig.from_dict(raw["config"]), *(raw[k] for k in (*SCIENCE, "provenance")))


class Store:
    """Records under root/records (to be committed); checkpoints and snapshots under root/checkpoints (not)."""

    def __init__(self, root="results"):
        self.root = Path(root)

    def record_path(self, cfg: RunConfig) -> Path:
        return self.root / "records" / f"{cfg.id}.json"

    def get(self, cfg: RunConfig) -> RunRecord | None:
        """The record of a run, or None; a damaged one counts as missing, with a warning."""
        return self._read(self.record_path(cfg), cfg)

    def put(self, record: RunRecord) -> Path:
        return publish_json(self.record_path(record.config), record.to_json())

    def paths(self, methods=None) -> list[Path]:
        """Files of all records, or of those of some methods."""
        found = sorted((self.root / "records").glob("*.json"))
        return [p for p in found if methods is None or p.stem.rpartition("-")[0] in methods]

    def all(self) -> list[RunRecord]:
        """Every readable record of a known method, ordered by file name."""
        found = {p: self._read(p) for p in self.paths(METHODS)}
        return [r for p, r in found.items() if r and p == self.record_path(r.config)]  # else: of an older version of its method

    def _read(self, path, cfg=None):
        try:
            record = RunRecord.from_json(json.loads(path.read_bytes()))
            if cfg not in (None, record.config):
                raise ValueError("it belongs to another config; has a default changed?")
            return record
        except UNREADABLE as e:
            if not isinstance(e, FileNotFoundError):
                warnings.warn(f"record {path} is unreadable and counts as missing ({e})", stacklevel=3)
            return None

    # -- tensors ------------------------------------------------------------------------------------------------------

    def checkpoint_path(self, cfg: RunConfig) -> Path:
        return self.root / "checkpoints" / f"{cfg.id}.safetensors"

    def snapshot_path(self, cfg: RunConfig, epoch: int) -> Path:
        return self.root / "checkpoints" / f"{cfg.id}@{epoch}.safetensors"

    def save_tensors(self, path: Path, tensors: dict, meta: dict) -> None:
        publish_tensors(path, tensors, {**meta, "digest": _digest(tensors)})

    def load_tensors(self, path: Path, only_meta=False):
        """(tensors, meta) of a checkpoint or snapshot, or None where it is missing or, with a warning, damaged.

        only_meta: read the header alone, without the tensors and without comparing their digest.
        """
        try:
            tensors, meta = read_tensors(path, only_meta)
            if not only_meta and _digest(tensors) != meta["digest"]:
                raise ValueError("its digest does not match its content")
            return tensors, meta
        except UNREADABLE as e:
            if not isinstance(e, FileNotFoundError):
                warnings.warn(f"checkpoint {path} is damaged and is made anew ({e})", stacklevel=2)
            return None

    @contextmanager
    def lock(self, name: str, wait=True):
        """Hold the lock `name` among the processes on this store, of which it outlives none; False where another has it.

        wait: for the other, rather than yield False.
        """
        held = FileLock(self.root / "checkpoints" / f"{name}.lock", timeout=-1 if wait else 0, fallback_to_soft=False)
        Path(held.lock_file).parent.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout):
            held.acquire()
        try:
            yield held.is_locked
        finally:
            held.release()

    def check_dataset(self, data) -> None:
        """Compare a dataset with the fingerprint this store's records were made on; note it where it is new."""
        path = self.root / "datasets.json"
        with self.lock("datasets"):  # else two processes that note new datasets at once would lose one of them
            known = read_json(path) if path.exists() else {}
            if data.name not in known:
                publish_json(path, dict(sorted({**known, data.name: data.fingerprint}.items())))
        if (expected := known.get(data.name, data.fingerprint)) != data.fingerprint:
            here = f"dataset {data.name!r} here has fingerprint {data.fingerprint}"
            way_out = "register your images under another name, or use another results folder"
            raise ValueError(f"{here}, but the records in {self.root} were made on {expected}; {way_out}")


def _checksum(science: dict) -> str:
    return digest([json.dumps(science, sort_keys=True)])


def _digest(tensors) -> str:
    return digest(part for k, t in sorted(tensors.items()) for part in (f"{k}{tuple(t.shape)}{t.dtype}", t))
