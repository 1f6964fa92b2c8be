"""RunRecord: what one run gave, as readable JSON with a checksum."""

import json
import math
from dataclasses import dataclass

from ..config import RunConfig
from ..ground.files import digest

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
        return checksum_of(self.science())

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
        more = raw.keys() - PARTS
        content = {k: v for k, v in raw.items() if k not in ("id", "provenance", "checksum")}
        is_whole = checksum_of(content) == raw.get("checksum")
        if more and (is_whole or raw.keys() > PARTS):
            raise RecordRefused(
                "it has parts that this version of faeval does not know "
                f"({', '.join(sorted(more))})"
            )
        # as it is: an older config lacks fields that are new
        told = {k: raw[k] for k in (*SCIENCE, "config")}
        if checksum_of(told) != raw["checksum"]:
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


def checksum_of(science: dict) -> str:
    return digest([json.dumps(science, sort_keys=True)])
