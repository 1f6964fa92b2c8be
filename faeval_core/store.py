"""RunRecord and the store: one readable JSON per run, verified when read, beside checkpoints and
weight snapshots.
"""

import json
import math
import warnings
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from .config import RunConfig
from .files import (
    UNREADABLE,
    digest,
    explained,
    publish_json,
    publish_tensors,
    read_json,
    read_tensors,
)
from .methods import METHODS

DIGITS = 7  # significant digits kept of a measured value
# what a rerun reproduces: not timing and provenance
SCIENCE = ("status", "curves", "diagnostics", "fault")
PARTS = {"id", *SCIENCE, "config", "provenance", "checksum"}  # of a record, as of this version


def rounded(value):
    """Measured values to 7 significant digits; a non-finite number becomes None, which means
    undefined.
    """
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, (list, tuple)) else value


@dataclass
class RunRecord:
    """What one run gave. `curves` has one entry per epoch (epoch 1 first), `diagnostics` one per
    chosen epoch.

    status is 'complete' or 'diverged'; a diverged run has `fault` = {step, quantity} and no final
    accuracy.
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
        return {
            "id": self.config.id,
            **self.science(),
            "provenance": self.provenance,
            "checksum": self.checksum,
        }

    @classmethod
    def from_json(cls, raw: dict) -> "RunRecord":
        """Inverse of `to_json`. Raises one of UNREADABLE for what is damaged, RecordRefused for
        what is whole but not understood.
        """
        if raw.keys() > PARTS:
            more = raw.keys() - PARTS
            raise RecordRefused(
                "it has parts that this version of faeval does not know "
                f"({', '.join(sorted(more))})"
            )
        # as it is: an older config lacks fields that are new
        told = {k: raw[k] for k in (*SCIENCE, "config")}
        if _checksum(told) != raw["checksum"]:
            raise ValueError("its checksum does not match its content")
        try:
            config = RunConfig.from_dict(raw["config"])
        except (ValueError, TypeError) as e:
            raise RecordRefused(
                f"this version of faeval does not understand its config ({e})"
            ) from e
        return cls(config, *(raw[k] for k in (*SCIENCE, "provenance")))


class StoreFault(ValueError):
    """A file of the store that only its owner can put right."""


class RecordRefused(StoreFault):
    """A record that is whole, and neither used nor replaced here: of another version of faeval,
    another config, other images.
    """


class Store:
    """Records under root/records (to be committed); checkpoints and snapshots under
    root/checkpoints (not).

    A record is found by the id of its config, code of the user's own included. Older records of a
    rule of one's own name no
    code: such a record counts for the code that root/rules.json names beside its id, and for no
    other (see `adopt`).
    """

    def __init__(self, root="results"):
        self.root = Path(root)

    def record_path(self, cfg: RunConfig) -> Path:
        return self.root / "records" / f"{cfg.id}.json"

    def get(self, cfg: RunConfig) -> RunRecord | None:
        """The record of a run, or None; a damaged one counts as missing, with a warning. Raises
        RecordRefused.
        """
        record, told = self._found(cfg)
        if told:
            warnings.warn(told, stacklevel=2)
        return record

    def has(self, cfg: RunConfig) -> bool:
        """Whether `get` finds a record; it does not warn of one that is damaged."""
        return self._found(cfg)[0] is not None

    def _found(self, cfg):
        """(record or None, what to say of a file that does not count as one)."""
        path = self._place(cfg)
        try:
            return self._read(path, cfg), ""
        except FileNotFoundError:
            if not cfg.code or not self.record_path(old := _without_code(cfg)).exists():
                return None, ""
            told = (
                f"the record {old.id} in {self.root} is from before records named the code "
                "of a rule, so it is not taken"
            )
            return (
                None,
                (
                    f"{told}; if it is of this very rule, say so with "
                    f"Store({str(self.root)!r}).adopt([config])"
                ),
            )
        except StoreFault:
            raise
        except UNREADABLE as e:
            return None, f"record {path} is unreadable and counts as missing ({e})"

    def put(self, record: RunRecord) -> Path:
        """Write a record, in the place of one of the same config or of a damaged one. Raises
        RecordRefused for any other.
        """
        path = self.record_path(record.config)
        try:
            self._read(path, record.config)
        except StoreFault:
            raise
        except UNREADABLE:
            pass  # there is none, or a damaged one
        return publish_json(path, record.to_json())

    def all(self) -> list[RunRecord]:
        """Every record of the rules and models that are known here, ordered by file name; one
        warning says what is left out.
        """
        found, left = self.survey()
        if left:
            told = ", ".join(f"{count} {reason}" for reason, count in left.items())
            warnings.warn(f"of the records in {self.root} these are left out: {told}", stacklevel=2)
        return found

    def survey(self) -> tuple[list[RunRecord], Counter]:
        """(the records of `all`, reason -> number of those left out)."""
        found, left = [], Counter()
        for path in sorted((self.root / "records").glob("*.json")):
            if path.stem.rpartition("-")[0] not in METHODS:
                left["of methods that are not known here"] += 1
                continue
            try:
                record = self._read(path)
            except RecordRefused:
                left["of models, versions of faeval or images that are not those of here"] += 1
            except StoreFault:
                raise
            except UNREADABLE:
                left[f"unreadable, such as {path.name}"] += 1
            else:
                c = record.config
                if path != self._place(c):
                    left["of an older version of their method or model"] += 1
                elif c.code != c.code_now():
                    left["of other code than their method or model has here"] += 1
                else:
                    found.append(record)
        return found, _merged(left)

    def _read(self, path, cfg=None) -> RunRecord:
        """A record that is of `cfg`. Raises FileNotFoundError, RecordRefused, or another of
        UNREADABLE where it is damaged.
        """
        try:
            record = RunRecord.from_json(json.loads(path.read_bytes()))
            if (cfg is None or cfg.code) and (code := self._vouched(record.config)):
                record = replace(record, config=replace(record.config, code=code))
            if cfg not in (None, record.config):
                raise RecordRefused("it belongs to another config")
            made_on, here = (
                record.provenance.get("dataset_fingerprint"),
                self._datasets().get(record.config.dataset),
            )
            if made_on and here and made_on != here:
                dataset = record.config.dataset
                raise RecordRefused(
                    f"it was made on images of {dataset!r} with fingerprint {made_on}, others "
                    f"here on {here}"
                )
            return record
        except RecordRefused as e:
            way_out = "use another results folder, or move it away to train it anew"
            raise RecordRefused(f"record {path} is not used, nor replaced: {e}; {way_out}") from e

    def _place(self, cfg) -> Path:
        """Path of a run's record, which may be an older one that names no code."""
        path = self.record_path(cfg)
        if not cfg.code or path.exists():
            return path
        old = _without_code(cfg)
        return self.record_path(old) if self._vouched(old) == cfg.code else path

    def _vouched(self, cfg) -> str:
        """Digest of the code that a record which names none is said to be of; '' where nothing is
        said.
        """
        return "" if cfg.code or not cfg.code_now() else self._json("rules.json").get(cfg.id, "")

    def adopt(self, configs) -> Path:
        """Vouch that the records of these configs, from before records named the code of a rule,
        are of the code of now.
        """
        rules = self._json("rules.json")
        for c in configs:
            if not self.record_path(_without_code(c)).exists():
                raise ValueError(
                    f"there is no record {_without_code(c).id} in {self.root} to vouch for"
                )
            rules[_without_code(c).id] = c.code_now()
        return publish_json(self.root / "rules.json", dict(sorted(rules.items())))

    def _json(self, name) -> dict:
        """What a file at the root says, {} where there is none. Raises StoreFault, which names a
        damaged one.
        """
        path = self.root / name
        try:
            return read_json(path)
        except FileNotFoundError:
            return {}
        except ValueError as e:
            raise StoreFault(str(e)) from e

    def _datasets(self) -> dict:
        return self._json("datasets.json")

    # -- tensors

    def checkpoint_path(self, cfg: RunConfig) -> Path:
        return self.root / "checkpoints" / f"{cfg.id}.safetensors"

    def snapshot_path(self, cfg: RunConfig, epoch: int) -> Path:
        return self.root / "checkpoints" / f"{cfg.id}@{epoch}.safetensors"

    def save_tensors(self, path: Path, tensors: dict, meta: dict) -> None:
        meta = {**meta, "digest": _digest(tensors)}
        publish_tensors(path, tensors, {**meta, "header": _checksum(meta)})

    def load_tensors(self, path: Path, only_meta=False):
        """(tensors, meta) of a checkpoint or snapshot, or None where it is missing or, with a
        warning, damaged.

        only_meta: read and check the header alone, without the tensors and without comparing their
        digest.
        """
        try:
            before = _stamp(path)
            tensors, meta = read_tensors(path, only_meta)
            told = {k: v for k, v in meta.items() if k != "header"}
            # a snapshot from before headers were covered says nothing there that is used
            if "header" in meta or "progress" in meta:
                if _checksum(told) != meta.get("header"):
                    raise ValueError("its header does not match its digest")
            if not only_meta:
                if _digest(tensors) != meta["digest"]:
                    raise ValueError("its digest does not match its content")
                _WHOLE.add(before)
            return tensors, meta
        except UNREADABLE as e:
            if not isinstance(e, FileNotFoundError):
                warnings.warn(f"checkpoint {path} is damaged and is made anew ({e})", stacklevel=2)
            return None

    def has_tensors(self, path: Path) -> bool:
        """Whether a checkpoint or snapshot is there whole; each file, as it stands, is read for
        this once in a process.
        """
        with suppress(OSError):
            return _stamp(path) in _WHOLE or self.load_tensors(path) is not None
        return False

    @contextmanager
    def lock(self, name: str, wait=True):
        """Hold the lock `name` among the processes on this store, of which it outlives none; False
        where another has it.

        wait: for the other, rather than yield False.
        """
        path = self.lock_path(name)
        held = FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout):
                held.acquire()
        except (OSError, NotImplementedError) as e:
            raise explained(e, path) from e
        try:
            yield held.is_locked
        finally:
            if held.is_locked:  # then only may it go: who waits for it sees that, and makes another
                with suppress(OSError):
                    path.unlink()
            held.release()

    def lock_path(self, name: str) -> Path:
        return self.root / "checkpoints" / f"{name}.lock"

    def is_locked(self, name: str) -> bool | None:
        """Whether another process holds the lock `name`; None where this one may not find out.
        Leaves no file behind.
        """
        if not self.lock_path(name).exists():
            return False
        try:
            with self.lock(name, wait=False) as free:
                return not free
        except OSError:
            return None

    def check_dataset(self, data) -> None:
        """Compare a dataset with the fingerprint this store's records were made on; note it where
        it is new.
        """
        # else two processes that note new datasets at once would lose one of them
        with self.lock("datasets"):
            known = self._datasets()
            if data.name not in known:
                publish_json(
                    self.root / "datasets.json",
                    dict(sorted({**known, data.name: data.fingerprint}.items())),
                )
        if (expected := known.get(data.name, data.fingerprint)) != data.fingerprint:
            here = f"dataset {data.name!r} here has fingerprint {data.fingerprint}"
            way_out = "register your images under another name, or use another results folder"
            raise ValueError(
                f"{here}, but the records in {self.root} were made on {expected}; {way_out}"
            )


_WHOLE = set()  # stamps of the tensor files that this process has read and found whole


def _stamp(path) -> tuple:
    """What changes when a file is replaced."""
    now = path.stat()
    return str(path.resolve()), now.st_ino, now.st_mtime_ns, now.st_size


def _without_code(cfg: RunConfig) -> RunConfig:
    """The config as records told it that named no code."""
    return replace(cfg, code="") if cfg.code else cfg


def _merged(left: Counter) -> Counter:
    """One line for all unreadable records, with the name of the first."""
    damaged = [reason for reason in left if reason.startswith("unreadable")]
    merged = Counter({reason: n for reason, n in left.items() if reason not in damaged})
    return merged + Counter({damaged[0]: len(damaged)}) if damaged else merged


def _checksum(science: dict) -> str:
    return digest([json.dumps(science, sort_keys=True)])


def _digest(tensors) -> str:
    return digest(
        part for k, t in sorted(tensors.items()) for part in (f"{k}{tuple(t.shape)}{t.dtype}", t)
    )
