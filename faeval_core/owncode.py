"""Digests of code that is not faeval's own: a rule is named by what it does, not by its name.

A digest covers the functions of a class over its whole MRO, up to faeval's own classes; the
globals, helpers, closures and defaults that they use, as they stand, and those of their helpers in
turn; and the class attributes. Of an installed package it tells name and version; of faeval's own
classes the name and their `version`; of torch, numpy and the standard library the name alone, since
a rule of faeval's own, too, keeps its id under another version of these (a record's provenance
names them).

Functions are told by their syntax tree, so that comments, layout, docstrings and annotations do not
count, and any version of Python gives the same digest. The source must be that of the code in
memory (a notebook's cell is found as a file is); where it is gone, or was edited since, the
bytecode is told.
"""

import __future__

import ast
import builtins
import copy
import dis
import functools
import importlib
import importlib.metadata
import io
import linecache
import pickle
import sys
import types
from collections.abc import Mapping
from contextlib import contextmanager, suppress

import numpy as np
import torch

from .files import digest

INSTALLED = ("site-packages", "dist-packages")  # folders whose code is not the user's own
UNVERSIONED = ("faeval_core", "torch", "numpy")
FUTURE = sum(getattr(__future__, name).compiler_flag for name in __future__.all_feature_names)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
WITHOUT_EFFECT = {"annotation", "returns", "type_comment", "type_params", "kind", "ctx"}
ATOMS = (bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented))
BY_NAME = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
BY_NAME += (types.MemberDescriptorType, types.GetSetDescriptorType, types.ClassMethodDescriptorType)
BY_NAME += (types.MethodWrapperType,)
NOT_OF_THE_RULE = {
    "_abc_impl",
    "_backward_cls",
}  # that abc and torch.autograd add to a class, new each time
LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
MISSING = object()


def is_own(cls: type) -> bool:
    """Whether a rule or model is the user's own, not faeval's."""
    return cls.__module__.partition(".")[0] != "faeval_core"


def code_digest(*classes: type) -> str:
    """16 hex digits for the code of those of `classes` that are not faeval's own, '' for none."""
    return _walked(classes)[0]


def _walked(classes):
    own = [cls for cls in classes if is_own(cls)]
    if not own:
        return "", None
    walk = Walk({cls.__module__.partition(".")[0] for cls in own})
    parts = [f"{i} {walk.of(cls)}\n" for i, cls in enumerate(classes) if cls in own]
    return digest(parts)[:16], walk


# -- functions as text ----------------------------------------------------------------------------


def outline(node) -> str:
    """A syntax tree as text: no positions, docstrings and annotations, alike in all Pythons."""
    if isinstance(node, list):
        return f"[{','.join(outline(n) for n in node if not _does_nothing(n))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(k, v) for k, v in ast.iter_fields(node) if k not in WITHOUT_EFFECT]
    told = (f"{k}={outline(v)}" for k, v in fields if v is not None and v != [])
    return f"{type(node).__name__}({','.join(told)})"


def _does_nothing(node) -> bool:
    """Whether a statement is `pass`, or a constant alone, such as a docstring."""
    return isinstance(node, ast.Pass) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def _nested(code):
    """A code object and all those inside it."""
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _nested(const)


@functools.lru_cache(maxsize=256)
def _compiled(text: str, flags: int):
    """(code objects of a text, its functions by first line) as Python compiles it now."""
    tree = ast.parse(text)
    functions = {}
    for node in ast.walk(tree):
        if isinstance(node, DEFINITIONS):
            lines = [d.lineno for d in getattr(node, "decorator_list", ())]
            functions.setdefault(min([*lines, node.lineno]), []).append(node)
    module = compile(tree, "text", "exec", flags=flags, dont_inherit=True)
    return set(_nested(module)), functions


def _from_source(code) -> str | None:
    """Outline of the function with this code; None where its text is gone, or of other code."""
    linecache.checkcache(code.co_filename)
    text = "".join(linecache.getlines(code.co_filename))
    try:
        known, functions = _compiled(text, code.co_flags & FUTURE)
    except (SyntaxError, ValueError):
        return None
    there = functions.get(code.co_firstlineno, ())
    found = [node for node in there if getattr(node, "name", "<lambda>") == code.co_name]
    return outline(found) if found and code in known else None


def _from_bytecode(code) -> str:
    walk = Walk()
    consts = (
        _from_bytecode(c) if isinstance(c, types.CodeType) else walk.of(c) for c in code.co_consts
    )
    parts = (code.co_code.hex(), *code.co_names, *code.co_varnames, *code.co_freevars, *consts)
    return digest(f"{part}\n" for part in parts)


_OUTLINES: dict[
    types.CodeType, str
] = {}  # as first read: a file may be edited under the code in memory


def _outline_of(code) -> str:
    if code not in _OUTLINES:
        found = _from_source(code)
        if found is None:
            return _from_bytecode(code)
        _OUTLINES[code] = found
    return _OUTLINES[code]


@functools.lru_cache(maxsize=4096)
def _globals_used(code) -> tuple:
    """(global, attribute, …) of each global that a code reads; (import, module) of its imports."""
    found = set()
    for part in _nested(code):
        chain = ()
        for step in dis.get_instructions(part):
            if chain and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                chain += (step.argval,)
            elif step.opname != "EXTENDED_ARG":
                found.add(chain)
                chain = (step.argval,) if step.opname in LOADS else ()
            if step.opname == "IMPORT_NAME":
                found.add(("import", step.argval))
        found.add(chain)
    return tuple(sorted(found - {()}))


# -- values ---------------------------------------------------------------------------------------


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


class Walk:
    """Digests of values by their content.

    own: top-level packages that are the user's, wherever they lie. After a walk, `modules` are the
    names of the user's modules that were met, `codes` the code of their functions, `met` the tables
    of faeval that these use.
    """

    def __init__(self, own=()):
        self.own, self.stack, self.done = {"__main__", "__mp_main__", *own}, [], {}
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
            for part in self.members(value):
                yield self.of(part)

    def members(self, value):
        """The parts of a container, a wrapper or an object of any other kind."""
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
            return sorted(self.apart(v, value) for v in value)
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

    def named(self, values: dict):
        """Names and digests of the entries of a namespace that are not Python's own."""
        for name, value in sorted(values.items()):
            is_special = name.startswith("__") and name.endswith("__")
            is_method = isinstance(value, (types.FunctionType, staticmethod, classmethod, property))
            if name not in NOT_OF_THE_RULE and (is_method or not is_special):
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
            yield _outline_of(f.__code__)
            yield self.of(f.__defaults__)
            yield self.of(f.__kwdefaults__)
            yield from self.named({k: v for k, v in vars(f).items() if k != "__wrapped__"})
            yield from self.globals_(f)
        for name, cell in zip(f.__code__.co_freevars, f.__closure__ or ()):
            with suppress(ValueError):  # of an empty cell
                yield f"{name}: {self.of(cell.cell_contents)}"

    def globals_(self, f):
        for name, *rest in _globals_used(f.__code__):
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


# -- to another process ---------------------------------------------------------------------------


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
    _, walk = _walked(classes)
    if walk is None:
        return pickle.dumps((classes, {}, {}))
    try:
        with _by_value(walk.modules) as cloudpickle:
            outlines = {code: _outline_of(code) for code in walk.codes}
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
        _OUTLINES.setdefault(code, text)
    return classes
