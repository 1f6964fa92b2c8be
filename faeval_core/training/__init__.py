"""Training: what a member begins with, the ensemble that takes steps, and the loop of epochs."""

from .ensemble import Ensemble
from .initial import build, initial, noise
from .loop import CURVES, DiagnosisFailed, first_fault, fresh_progress, train

__all__ = [
    "CURVES",
    "DiagnosisFailed",
    "Ensemble",
    "build",
    "first_fault",
    "fresh_progress",
    "initial",
    "noise",
    "train",
]
