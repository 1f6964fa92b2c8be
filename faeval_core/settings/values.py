"""Values of settings: plain JSON that cannot be changed."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from ..ground.checks import check_known, checked


class Options(dict):
    """A dict that cannot be changed, so that neither can the identity of the config that has it."""

    def _refused(self, *args, **kwargs):
        raise TypeError(
            "options cannot be changed; make another config: cfg.with_(options=cfg.options | {...})"
        )

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refused

    def __reduce__(self):
        return Options, (dict(self),)

    def __copy__(self):
        return self


def plain(name: str, value):
    """`value` as what JSON keeps, and unchangeable: numpy's numbers as Python's, lists as tuples,
    dicts as Options.

    Raises ValueError for what JSON cannot keep; `name` is what it calls the value.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if type(value) in (bool, int, str, type(None)) or (
        type(value) is float and math.isfinite(value)
    ):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(plain(name, v) for v in value)
    if isinstance(value, Mapping) and all(type(k) is str for k in value):
        return Options((k, plain(name, v)) for k, v in value.items())
    kinds = (
        "a finite number, text, True, False, None, or a list or dict (with text as keys) of these"
    )
    raise ValueError(f"{name} must be {kinds}, as it is kept as JSON, not {value!r}")


def checked_options(field_name: str, owner: str, known: dict, entered: dict, given) -> Options:
    """All options of a method or model, with `given` ones in place of the defaults `known`;
    ValueError for a wrong one.

    entered: their values in the tables of identity.py, which older records may have where the
    defaults are others by now.
    """
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{field_name} must be a dict of option: value, such as {known or {}!r}, not {given!r}"
        )
    check_known(f"option of {owner}", given, known)
    options = {}
    for name, default in known.items():
        told = f"option {name} of {owner}"
        default = plain(f"the default of {told}", default)
        usual = [v for v in (default, entered.get(name)) if type(v) in (int, float)]
        least = min([0, *usual])  # a default of -1 stands for never
        value = plain(told, given[name]) if name in given else default
        options[name] = checked(told, value, default, least)
    return Options(options)


def checked_epochs(value, last: int) -> tuple:
    """Sorted epochs for diagnostics before the last one, from any iterable of whole numbers in
    0..last.
    """
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ValueError(f"diagnose must be a list of epochs, such as [1, 5], not {value!r}")
    epochs = [e.item() if isinstance(e, np.generic) else e for e in value]
    if wrong := [e for e in epochs if type(e) is not int]:
        raise ValueError(f"diagnose must be a list of whole numbers, not {wrong}")
    if wrong := [e for e in epochs if not 0 <= e <= last]:
        raise ValueError(f"diagnose names epochs {wrong} outside 0..{last}")
    return tuple(sorted({*epochs} - {last}))
