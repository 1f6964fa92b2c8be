"""faeval_core: training and validity-first diagnostics for credit assignment without
back-propagation.

The names below are imported when they are first used: whoever wants only a version or a help text
does not wait for torch.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.3.0"

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
    from .runs import RunRecord, Store, run

HOMES = {  # module: the public names that it defines
    "config": ("RunConfig",),
    "methods": ("METHODS", "LocalMethod", "Method", "register"),
    "models": ("Model", "register_model"),
    "runs": ("RunRecord", "Store", "run"),
    "measure.judge": ("judge",),
    "report.audit": ("audit",),
    "report.measured": ("verdict_from",),
    "report.study": ("Study",),
}
FOLDERS = {  # of modules that are found under their own name, too
    "measure": ("diagnostics", "exploit", "protocol", "stats"),
    "report": ("figures", "latex", "pipeline", "study", "tables"),
    "runs": ("costs",),
}


def __getattr__(name: str):
    for home, names in HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    for folder, modules in FOLDERS.items():
        if name in modules:
            return import_module(f"{__name__}.{folder}.{name}")
    full = f"{__name__}.{name}"
    try:
        return import_module(full)
    except ModuleNotFoundError as e:
        if e.name != full:  # but of what it needs
            raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class Moved(MetaPathFinder):
    """Says where a module lies, to who imports it without its folder, as before version 0.3."""

    def find_spec(self, fullname, path=None, target=None):
        parent, _, name = fullname.rpartition(".")
        if parent == __name__ and (places := sorted(Path(__file__).parent.glob(f"*/{name}.py"))):
            now = " or ".join(f"{__name__}.{place.parent.name}.{name}" for place in places)
            raise ModuleNotFoundError(f"{fullname} is now {now}", name=fullname)
        return None


sys.meta_path.append(Moved())  # the last to be asked
