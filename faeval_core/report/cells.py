"""Cells of a table of somebody else's numbers: what they hold, and what is wrong with it."""

import math
from collections.abc import Callable

import pandas as pd


def fraction(value: float) -> str:
    if 0 <= value <= 1:
        return ""
    percent = f", where {value:g} % is {value / 100:g}" if 1 < value <= 100 else ""
    return f"accuracies lie in 0..1{percent}"


def size(value: float) -> str:
    return "" if value >= 0 else "norms and their ratios are not negative"


def cosine(value: float) -> str:
    return "" if abs(value) <= 1 + 1e-6 else "cosines and correlations lie in -1..1"


def factor(value: float) -> str:
    return "" if value > 1 else "the stream is written larger, by a factor above 1"


def values(value) -> list:
    """The values of a cell: those of a list, or the one that it holds."""
    return list(value) if isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) else [value]


def missing(value) -> bool:
    return value is None or value is pd.NA or value != value or str(value).strip() == ""


def name(value) -> str | None:
    """A method, seed or status as text; None where the cell is empty."""
    if missing(value):
        return None
    is_whole = isinstance(value, float) and value.is_integer()  # as pandas makes of 42 beside a gap
    return str(int(value) if is_whole else value).strip()


def number(value, column: str, where: str, fault: Callable[[float], str]) -> float | None:
    """A value as a number, None where the cell is empty; ValueError for what it cannot be."""
    if missing(value):
        return None
    told, way_out = (
        f"{where}: {column} is {value!r}",
        "leave the cell empty where nothing was measured",
    )
    try:
        number = float(value)
    except (TypeError, ValueError) as e:
        if isinstance(value, str) and value.strip().endswith("%"):
            way_out = "write 61.3 % as 0.613"
        raise ValueError(f"{told}, which is no number; {way_out}") from e
    if isinstance(value, bool) or not math.isfinite(number):
        way_out = "where the net diverged, set its status to 'diverged' and leave the cell empty"
        raise ValueError(f"{told}, which is no finite number; {way_out}")
    if wrong := fault(number):
        raise ValueError(f"{told}; {wrong}")
    return number
