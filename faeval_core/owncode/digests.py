"""Digests of values by their content: what a rule is made of, in the same words in any process."""

import builtins
import copy
import functools
import importlib
import importlib.metadata
import sys
import types
from collections.abc import Mapping
from contextlib import suppress

import numpy as np
import torch

from ..ground.files import digest
from .outlines import from_source, globals_used

INSTALLED = ("site-packages", "dist-packages")  # folders whose code is not the user's own
UNVERSIONED = ("faeval_core", "torch", "numpy")
ATOMS = (bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented))
BY_NAME = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
BY_NAME += (types.MemberDescriptorType, types.GetSetDescriptorType, types.ClassMethodDescriptorType)
BY_NAME += (types.MethodWrapperType,)
# that abc and torch.autograd add to a class, new each time
NOT_OF_THE_RULE = {"_abc_impl", "_backward_cls"}
MISSING = object()


def is_own(cls: type) -> bool:
    """Whether a rule or model is the user's own, not faeval's."""
    return cls.__module__.partition(".")[0] != "faeval_core"


def code_digest(*classes: type, without: frozenset[str] = frozenset()) -> str:
    """16 hex digits for the code of those of `classes` that are not faeval's own, '' for none.

    without: names that are left out, with what they alone use.
    """
    return walked(classes, without)[0]


def walked(classes, without=frozenset()):
    own = [cls for cls in classes if is_own(cls)]
    if not own:
        return "", None
    walk = Walk({cls.__module__.partition(".")[0] for cls in own}, without)
    parts = [f"{i} {walk.of(cls)}\n" for i, cls in enumerate(classes) if cls in own]
    return digest(parts)[:16], walk


def _from_bytecode(code) -> str:
    walk = Walk()
    consts = (
        _from_bytecode(c) if isinstance(c, types.CodeType) else walk.of(c) for c in code.co_consts
    )
    parts = (code.co_code.hex(), *code.co_names, *code.co_varnames, *code.co_freevars, *consts)
    return digest(f"{part}\n" for part in parts)


# as first read: a file may be edited under the code in memory
OUTLINES: dict[types.CodeType, str] = {}


def outline_of(code) -> str:
    if code not in OUTLINES:
        found = from_source(code)
        if found is None:
            return _from_bytecode(code)
        OUTLINES[code] = found
    return OUTLINES[code]


@functools.cache
def _version(package: str) -> str:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return str(getattr(sys.modules.get(package), "__version__", ""))


def faevals_tables() -> dict[int, tuple[str, str]]:
    """id -> (module, name) of the dicts, lists and sets of faeval's modules, such as METHODS."""
    found = {}
    for module_name, module in sorted(sys.modules.items()):
        if module_name.partition(".")[0] == "faeval_core" and not module_name.endswith("__main__"):
            for name, value in vars(module).items():
                if isinstance(value, (dict, list, set)) and not name.startswith("__"):
                    found.setdefault(id(value), (module_name, name))
    return found


def own_entries(table) -> dict[str, type]:
    """What a dict of faeval's holds of the user's own, such as the rules that are registered."""
    entries = table.items() if isinstance(table, dict) else ()
    return {k: v for k, v in entries if isinstance(v, type) and is_own(v)}


def members(value, apart):
    """The parts of a container, a wrapper or an object of any other kind; apart: of Walk."""
    if isinstance(value, (staticmethod, classmethod, types.MethodType)):
        return [value.__func__, getattr(value, "__self__", None)]
    if isinstance(value, property):
        return [value.fget, value.fset, value.fdel]
    if isinstance(value, (functools.partial, functools.partialmethod)):
        return [value.func, value.args, value.keywords]
    if hasattr(value, "__wrapped__"):
        return [value.__wrapped__]
    if isinstance(value, Mapping):
        return [part for item in value.items() for part in item]
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, (set, frozenset)):
        return sorted(apart(v, value) for v in value)
    if hasattr(value, "__dict__"):
        return [dict(sorted(vars(value).items()))]
    with suppress(Exception):  # whatever an object says that cannot be taken apart
        made = value.__reduce_ex__(2)
        return (
            [made]
            if isinstance(made, str)
            else [list(p) if hasattr(p, "__next__") else p for p in made]
        )
    return []


class Walk:
    """Digests of values by their content.

    own: top-level packages that are the user's, wherever they lie; without: names in classes and
    modules that do not count. After a walk, `modules` are the names of the user's modules that were
    met, `codes` the code of their functions, `met` the tables of faeval that these use.
    """

    def __init__(self, own=(), without=frozenset()):
        self.own, self.stack, self.done = {"__main__", "__mp_main__", *own}, [], {}
        self.without = NOT_OF_THE_RULE | without
        self.modules, self.codes = set(), set()
        self.tables, self.met = faevals_tables(), set()  # of faeval; those that were met
        self.sets = ()  # that this walk is inside of

    def of(self, value) -> str:
        """Digest of a value; equal values have equal ones, in any process."""
        if type(value) in ATOMS:
            return f"{type(value).__name__} {value!r}"
        if id(value) in self.done:
            return self.done[id(value)]
        if id(value) in self.sets:
            return f"inside {len(self.sets) - self.sets.index(id(value))}"
        if id(value) in self.stack:
            return f"cycle {len(self.stack) - self.stack.index(id(value))}"
        self.stack.append(id(value))
        try:
            found = digest(f"{part}\n" for part in self.parts(value))
        finally:
            self.stack.pop()
        if isinstance(
            value, (types.FunctionType, type)
        ):  # which outlive the walk, so that their ids stay theirs
            self.done[id(value)] = found
        return found

    def apart(self, value, container) -> str:
        """Digest of a value of a set, by a walk of its own: else what two of them share would be
        told where it is met first, and a set has no order.
        """
        walk = copy.copy(self)
        walk.stack, walk.done, walk.sets = [], {}, (*self.sets, id(container))
        return walk.of(value)

    def package(self, name) -> str | None:
        """Name and version of a module's installed package; None for a module of the user's own."""
        top = (name or "builtins").partition(".")[0]
        if top in self.own:
            self.modules.add(name)
            return None
        if top in sys.stdlib_module_names or top in UNVERSIONED:
            return top
        file = getattr(sys.modules.get(name) or sys.modules.get(top), "__file__", None)
        if file is None or not any(
            f"/{folder}/" in file.replace("\\", "/") for folder in INSTALLED
        ):
            self.modules.add(name)
            return None
        return f"{top} {_version(top)}"

    def parts(self, value):
        """What makes a value, as texts."""
        kind = type(value)
        if id(value) in self.tables:
            self.met.add(self.tables[id(value)])
            yield f"faeval_core {self.tables[id(value)][1]}"
            yield from self.named(own_entries(value))
        elif isinstance(value, types.FunctionType):
            yield from self.function(value)
        elif isinstance(value, type):
            yield from self.class_(value)
        elif isinstance(value, types.ModuleType):
            package = self.package(value.__name__)
            yield package or "module"
            yield from () if package else self.named(vars(value))
        elif isinstance(value, BY_NAME):
            owner = getattr(value, "__self__", None)
            yield f"{getattr(value, '__module__', '')}.{value.__qualname__}"
            yield self.of(None if isinstance(owner, types.ModuleType) else owner)
        elif isinstance(value, (torch.dtype, torch.device)):
            yield repr(value)
        elif isinstance(value, torch.Tensor):
            flat = value.detach().cpu().contiguous().reshape(-1)
            yield f"{tuple(value.shape)} {value.dtype}"
            yield digest([flat.view(torch.uint8)])
        elif isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
            yield f"{value.shape} {value.dtype}"
            yield value.tobytes().hex()
        else:
            yield f"{kind.__module__}.{kind.__qualname__}"
            yield self.of(kind) if self.package(kind.__module__) is None else ""
            for part in members(value, self.apart):
                yield self.of(part)

    def named(self, values: dict):
        """Names and digests of the entries of a namespace that are not Python's own."""
        for name, value in sorted(values.items()):
            is_special = name.startswith("__") and name.endswith("__")
            is_method = isinstance(value, (types.FunctionType, staticmethod, classmethod, property))
            if name not in self.without and (is_method or not is_special):
                yield f"{name}: {self.of(value)}"

    def class_(self, cls):
        package = self.package(cls.__module__)
        if package:
            yield (
                f"{package} {cls.__qualname__} {'' if is_own(cls) else getattr(cls, 'version', '')}"
            )
            return
        for base in cls.__mro__:
            if self.package(base.__module__):
                yield self.of(base)
            else:
                yield f"class {base.__name__}"
                yield from self.named(vars(base))

    def function(self, f):
        package = self.package(
            f.__globals__.get("__name__", "__main__")
        )  # __module__ is another's under functools.wraps
        if package:
            yield f"{package} {f.__code__.co_qualname}"
        else:
            self.codes.add(f.__code__)
            yield outline_of(f.__code__)
            yield self.of(f.__defaults__)
            yield self.of(f.__kwdefaults__)
            yield from self.named({k: v for k, v in vars(f).items() if k != "__wrapped__"})
            yield from self.globals_(f)
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or ()):
            with suppress(ValueError):  # of an empty cell
                yield f"{name}: {self.of(cell.cell_contents)}"

    def globals_(self, f):
        for name, *rest in globals_used(f.__code__):
            value = f.__globals__.get(name, MISSING)
            if name == "import":
                value, rest = self.imported(rest[0], f.__globals__.get("__package__")), []
            if value is MISSING:
                yield f"{name} is {'built in' if hasattr(builtins, name) else 'not defined'}"
                continue
            while rest and isinstance(value, types.ModuleType) and not self.package(value.__name__):
                name, value = f"{name}.{rest[0]}", getattr(value, rest.pop(0), None)
            yield f"{name}: {self.of(value)}"

    def imported(self, name, package):
        for full in (name, f"{package}.{name}"):
            with suppress(ImportError):
                return importlib.import_module(full)
        return None
