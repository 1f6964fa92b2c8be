"""Runs: what is kept of each, what a list lacks, and how that is trained, here or elsewhere."""

from .queue import MAX_MEMBERS, RunsFailed, check_configs, run, training_allowed
from .record import RunRecord
from .store import Store

__all__ = [
    "MAX_MEMBERS",
    "RunRecord",
    "RunsFailed",
    "Store",
    "check_configs",
    "run",
    "training_allowed",
]
