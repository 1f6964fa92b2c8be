"""Records on disk, each verified when it is read and found by the id of its config."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

from ..config import RunConfig
from ..ground.files import UNREADABLE, publish_json, read_json
from .record import RecordRefused, RunRecord, StoreFault


class RecordFiles:
    """Records under root/records, and what root says of older ones.

    A record is found by the id of its config, code of the user's own included. Older records of a
    rule of one's own name no code: such a record counts for the code that root/rules.json names
    beside its id, and for no other (see `adopt`).
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
            if not cfg.code or not self.record_path(old := without_code(cfg)).exists():
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
        old = without_code(cfg)
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
            if not self.record_path(without_code(c)).exists():
                raise ValueError(
                    f"there is no record {without_code(c).id} in {self.root} to vouch for"
                )
            rules[without_code(c).id] = c.code_now()
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


def without_code(cfg: RunConfig) -> RunConfig:
    """The config as records told it that named no code."""
    return replace(cfg, code="") if cfg.code else cfg
