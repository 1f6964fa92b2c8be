"""Methods by name. To try a rule of your own: subclass LocalMethod, write `credit`, and `register` it."""

from .base import LocalMethod, Method
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
    if METHODS.get(method.name, method).__module__.startswith("faeval_core."):
        raise ValueError(f"the method name {method.name!r} belongs to faeval itself; choose another")
    METHODS[method.name] = method
    return method


__all__ = ["METHODS", "LocalMethod", "Method", "register"]
