"""Methods by name. To try a rule of your own: subclass LocalMethod, write `credit`, and `register` it."""

import inspect
import re
from contextlib import suppress

from ..files import digest
from .base import LocalMethod, Method, check_member_options
from .bp import BP, Frozen
from .cb import CreditBridge
from .dfa import DFA, FrozenDFA
from .ep import EP
from .fa import FA, KolenPollack, Oracle, SignSymmetric
from .local import LocalLoss
from .sb import StateBridge
from .vec import VectorField

ALL = (BP, Frozen, DFA, FrozenDFA, FA, EP, StateBridge, CreditBridge, VectorField, KolenPollack, SignSymmetric, LocalLoss, Oracle)
METHODS = {m.name: m for m in ALL}


def register(method: type[Method]) -> type[Method]:
    """Add a method class under its `name`; usable as a decorator. Raise its `version` when its meaning changes."""
    if not (isinstance(method, type) and issubclass(method, Method) and method.name):
        raise TypeError(f"register needs a subclass of Method with a name, not {method!r}")
    if not re.fullmatch(r"[\w-]+", method.name):
        raise ValueError(f"the name of a method is of letters, digits, - and _, as it names files; not {method.name!r}")
    if METHODS.get(method.name, method).__module__.startswith("faeval_core."):
        raise ValueError(f"the method name {method.name!r} belongs to faeval itself; choose another")
    check_member_options(method)
    METHODS[method.name] = method
    return method


def source(name: str) -> str | None:
    """Digest of the source of a method that is not faeval's own, None where it is or where there is no source to read."""
    method = METHODS[name]
    with suppress(OSError, TypeError):
        return None if method.__module__.startswith("faeval_core.") else digest([inspect.getsource(method)])


__all__ = ["METHODS", "LocalMethod", "Method", "register"]
