"""Checks of what a user gives: each error names the value and the way out."""

import difflib

import numpy as np

LIKE = {
    bool: "True or False",
    int: "a whole number of at least {}",
    float: "a finite number of at least {}",
}


def suggest(kind: str, value, valid) -> str:
    """Error text for a name that is not one of `valid`: the nearest match, then the full list."""
    names = sorted(str(v) for v in valid)
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {value!r}{hint} (valid: {', '.join(names)})"


def check_known(kind: str, names, valid, way_out="") -> None:
    """Raise ValueError for the first of `names` that is not one of `valid`."""
    for name in names:
        if name not in valid:
            raise ValueError(suggest(kind, name, valid) + way_out)


def jsonable(value):
    """A value of a config as JSON gives it back: lists and dicts, that may be changed."""
    if isinstance(value, tuple):
        return [jsonable(v) for v in value]
    return {k: jsonable(v) for k, v in value.items()} if isinstance(value, dict) else value


def checked(name: str, value, default, least=0):
    """`value` in the type of `default`, where an int will do for a float and numpy's numbers for
    Python's.

    Raises ValueError for another type, or a number below `least`.
    """
    value, default = (v.item() if isinstance(v, np.generic) else v for v in (value, default))
    kind = type(default)
    if kind is float and type(value) is int and abs(value) < 1e300:
        value = float(value)
    if type(value) is not kind or (kind in (int, float) and not least <= value < float("inf")):
        like = LIKE[kind].format(least) if kind in LIKE else f"like {jsonable(default)!r}"
        raise ValueError(f"{name} must be {like}, not {value!r}")
    # -0.0 is 0.0, as equal configs have equal ids
    return abs(value) if kind is float and value == 0 else value


def checked_name(name: str, value, valid) -> None:
    """Raise ValueError for what is not one of the names `valid`."""
    if isinstance(value, type):
        raise ValueError(
            f"{name} must be a name, not a class; register({value.__name__}), then give its name"
        )
    if isinstance(value, (list, tuple, set)):
        raise ValueError(
            f"{name} must be one name, not {value!r}; make a config for each of several"
        )
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a name, not {value!r} (valid: {', '.join(valid)})")
    check_known(name, [value], valid)
