"""RunRecord and the store: one readable JSON per run, verified when read, beside checkpoints and weight snapshots."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes

from .config import RunConfig
from .files import publish, publish_json
from .methods import METHODS

DIGITS = 7  # significant digits kept of a measured value


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
        return {k: v for k, v in asdict(self).items() if k not in ("config", "provenance")} | {"config": self.config.to_dict()}

    @property
    def checksum(self) -> str:
        return hashlib.sha256(json.dumps(self.science(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> dict:
        return {"id": self.config.id, **self.science(), "provenance": self.provenance, "checksum": self.checksum}

    @classmethod
    def from_json(cls, raw: dict) -> RunRecord:
        config = RunConfig.from_dict(raw["config"])
        record = cls(config, *(raw[k] for k in ("status", "curves", "diagnostics", "fault", "provenance")))
        if record.checksum != raw["checksum"]:
            raise ValueError("its checksum does not match its content")
        return record


class Store:
    """Records under root/records (to be committed); checkpoints and snapshots under root/checkpoints (not)."""

    def __init__(self, root="results"):
        self.root = Path(root)

    def __repr__(self):
        return f"Store({str(self.root)!r})"

    def record_path(self, cfg: RunConfig) -> Path:
        return self.root / "records" / f"{cfg.id}.json"

    def get(self, cfg: RunConfig) -> RunRecord | None:
        """The record of a run, or None; a damaged one counts as missing, with a warning."""
        path = self.record_path(cfg)
        try:
            raw = json.loads(path.read_bytes())
            record = RunRecord.from_json(raw)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as e:
            warnings.warn(f"record {path} is unreadable and counts as missing ({e})", stacklevel=2)
            return None
        if record.config != cfg:
            warnings.warn(f"record {path} belongs to another config (a default has changed?) and counts as missing", stacklevel=2)
            return None
        return record

    def put(self, record: RunRecord) -> Path:
        return publish_json(self.record_path(record.config), record.to_json())

    def all(self) -> list[RunRecord]:
        """Every readable record of a known method, ordered by file name."""
        found = []
        for path in sorted((self.root / "records").glob("*.json")):
            try:
                raw = json.loads(path.read_bytes())
                if raw["config"]["method"] not in METHODS:
                    continue
                record = RunRecord.from_json(raw)
            except (ValueError, KeyError, TypeError) as e:
                warnings.warn(f"record {path} is unreadable and left out ({e})", stacklevel=2)
                continue
            if path == self.record_path(record.config):  # else: of an older version of its method
                found.append(record)
        return found

    # -- tensors ------------------------------------------------------------------------------------------------------

    def checkpoint_path(self, cfg: RunConfig) -> Path:
        return self.root / "checkpoints" / f"{cfg.id}.safetensors"

    def snapshot_path(self, cfg: RunConfig, epoch: int) -> Path:
        return self.root / "checkpoints" / f"{cfg.id}@{epoch}.safetensors"

    def save_tensors(self, path: Path, tensors: dict, meta: dict) -> None:
        digest = _digest(tensors)
        publish(path, safetensors_bytes(tensors, {"faeval": json.dumps({**meta, "digest": digest})}))

    def load_tensors(self, path: Path):
        """(tensors, meta) of a checkpoint or snapshot, or None where it is missing or, with a warning, damaged."""
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as f:
                meta = json.loads(f.metadata()["faeval"])
                tensors = {k: f.get_tensor(k) for k in f.keys()}
            if _digest(tensors) != meta["digest"]:
                raise ValueError("its digest does not match its content")
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as e:
            warnings.warn(f"checkpoint {path} is damaged and is made anew ({e})", stacklevel=2)
            return None
        return tensors, meta

    def check_dataset(self, data) -> None:
        """Compare a dataset with the fingerprint this store's records were made on; note it where it is new."""
        path = self.root / "datasets.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        expected = known.setdefault(data.name, data.fingerprint)
        if expected != data.fingerprint:
            raise ValueError(
                f"dataset {data.name!r} here has fingerprint {data.fingerprint}, but the records in {self.root} were made on "
                f"{expected}; register your images under another name, or use another results folder"
            )
        if not path.exists() or json.loads(path.read_text()) != known:
            publish_json(path, dict(sorted(known.items())))


def _digest(tensors) -> str:
    h = hashlib.sha256()
    for k in sorted(tensors):
        h.update(f"{k}{tuple(tensors[k].shape)}{tensors[k].dtype}".encode())
        h.update(tensors[k].contiguous().numpy().tobytes())
    return h.hexdigest()
