"""Methods by name. To try a rule of your own: subclass LocalMethod, write `credit`, and `register`
it.
"""

import re

from ..owncode import code_digest, is_own
from .base import Method, check_member_options
from .bp import BP, Frozen
from .cb import CreditBridge
from .dfa import DFA, FrozenDFA
from .ep import EP
from .fa import FA, KolenPollack, Oracle, SignSymmetric
from .local import LocalMethod
from .local_loss import LocalLoss
from .sb import StateBridge
from .vec import VectorField

ALL = (
    BP,
    Frozen,
    DFA,
    FrozenDFA,
    FA,
    EP,
    StateBridge,
    CreditBridge,
    VectorField,
    KolenPollack,
    SignSymmetric,
    LocalLoss,
    Oracle,
)
METHODS: dict[str, type[Method]] = {m.name: m for m in ALL}


def register(method: type[Method]) -> type[Method]:
    """Add a method class under its `name`, in the place of one of before; usable as a decorator.

    Runs of it are named by its code: when that changes, they are other runs.
    """
    if not (isinstance(method, type) and issubclass(method, Method) and method.name):
        raise TypeError(f"register needs a subclass of Method with a name, not {method!r}")
    if not re.fullmatch(r"[\w-]+", method.name):
        raise ValueError(
            "the name of a method is of letters, digits, - and _, as it names files; not "
            f"{method.name!r}"
        )
    if not is_own(METHODS.get(method.name, method)):
        raise ValueError(
            f"the method name {method.name!r} belongs to faeval itself; choose another"
        )
    check_member_options(method)
    METHODS[method.name] = method
    return method


def source(name: str) -> str | None:
    """Digest of the code of a method that is not faeval's own (see owncode.py), as it is now; None
    where it is.
    """
    return code_digest(METHODS[name]) or None


__all__ = ["METHODS", "LocalMethod", "Method", "register"]
