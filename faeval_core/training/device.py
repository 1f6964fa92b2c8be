"""The device that runs train on."""

import os

import torch


def check_device(device) -> None:
    """Raise ValueError for what names no device at all."""
    if not isinstance(device, (str, torch.device)):
        raise ValueError(f"device must be auto, cpu or cuda, not {device!r}")


def resolve_device(device="auto") -> torch.device:
    """'auto' is what $FAEVAL_DEVICE says, or CUDA where there is one. Raises ValueError for a
    device this machine lacks.
    """
    check_device(device)
    asked = os.environ.get("FAEVAL_DEVICE", "").strip() if device == "auto" else ""
    device, source = (asked, " of FAEVAL_DEVICE in the environment") if asked else (device, "")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise ValueError(f"unknown device {device!r}{source}; use auto, cpu or cuda")
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r}{source} was asked for but torch finds no CUDA device; use auto "
            "or cpu"
        )
    if found.index and found.index >= torch.cuda.device_count():
        raise ValueError(
            f"device {device!r}{source} is not among the {torch.cuda.device_count()} CUDA "
            "devices of this machine"
        )
    return found
