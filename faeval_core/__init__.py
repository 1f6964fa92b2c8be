"""faeval_core: training and validity-first diagnostics for credit assignment without
back-propagation.

The names below are imported when they are first used: whoever wants only a version or a help text
does not wait for torch.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

__version__ = "0.2.0"

__all__ = [
    "METHODS",
    "LocalMethod",
    "Method",
    "Model",
    "RunConfig",
    "RunRecord",
    "Store",
    "register",
    "register_model",
    "run",
]

if TYPE_CHECKING:
    from .config import RunConfig
    from .methods import METHODS, LocalMethod, Method, register
    from .models import Model, register_model
    from .runs import run
    from .store import RunRecord, Store

HOMES = {  # module: the public names that it defines
    "config": ("RunConfig",),
    "methods": ("METHODS", "LocalMethod", "Method", "register"),
    "models": ("Model", "register_model"),
    "runs": ("run",),
    "store": ("RunRecord", "Store"),
}


def __getattr__(name: str):
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    if find_spec(f"{__name__}.{name}"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
