"""Classes of a user's own on their way to another process."""

import importlib
import io
import pickle
import sys
from contextlib import contextmanager

from .digests import OUTLINES, faevals_tables, is_own, outline_of, own_entries, walked


@contextmanager
def _by_value(modules):
    """cloudpickle takes the functions and classes of these modules by value, not by name."""
    import cloudpickle

    taken = [sys.modules[name] for name in modules if name in sys.modules and name != "__main__"]
    taken = [m for m in taken if m.__name__ not in cloudpickle.list_registry_pickle_by_value()]
    for module in taken:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield cloudpickle
    finally:
        for module in taken:
            cloudpickle.unregister_pickle_by_value(module)


def _pickler(cloudpickle):
    """cloudpickle's Pickler, but for faeval's own tables, which are those of the other process."""

    class Pickler(cloudpickle.Pickler):
        def __init__(self, file):
            super().__init__(file)
            self.tables = faevals_tables()

        def persistent_id(self, value):
            return self.tables.get(id(value))

    return Pickler


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, where):
        return _at(*where)


def _at(module: str, name: str):
    return getattr(importlib.import_module(module), name)


def packed(classes: list[type]) -> bytes:
    """Classes for another process: by value, with all they use, given cloudpickle; else by name.

    Raises ValueError where they can go neither way.
    """
    _, walk = walked(classes)
    if walk is None:
        return pickle.dumps((classes, {}, {}))
    try:
        with _by_value(walk.modules) as cloudpickle:
            outlines = {code: outline_of(code) for code in walk.codes}
            entries = {where: own_entries(_at(*where)) for where in walk.met}
            content = io.BytesIO()
            _pickler(cloudpickle)(content).dump((classes, outlines, entries))
            return content.getvalue()
    except ModuleNotFoundError:
        reason = "cloudpickle is not installed (pip install cloudpickle)"
    except Exception as e:  # whatever an object raises that cannot be pickled
        reason = f"{type(e).__name__}: {e}"
    if walk.modules & {"__main__", "__mp_main__"}:
        names = ", ".join(cls.__qualname__ for cls in classes if is_own(cls))
        way_out = "put it into a file that workers can import, or train in this process"
        raise ValueError(f"{names} cannot be sent to a worker by value: {reason}; {way_out}")
    return pickle.dumps((classes, {}, {}))


def unpacked(content: bytes) -> list[type]:
    """Inverse of `packed`, in the other process."""
    classes, outlines, entries = _Unpickler(io.BytesIO(content)).load()
    for where, values in entries.items():
        _at(*where).update(values)
    for code, text in outlines.items():
        OUTLINES.setdefault(code, text)
    return classes
