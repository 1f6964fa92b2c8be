"""faeval_core: training and validity-first diagnostics for credit assignment without
back-propagation.

The names below are imported when they are first used: whoever wants only a version or a help text
does not wait for torch.
"""

import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.util import find_spec
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
    if find_spec(f"{__name__}.{name}"):
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


MOVED = {  # module of version 0.2: where it is since
    "arrays": "data",
    "audit": "report.audit",
    "commands": "cli.commands",
    "costs": "runs.costs",
    "diagnostics": "measure.diagnostics",
    "engines": "runs.engines",
    "execution": "training.execution",
    "exploit": "measure.exploit",
    "figures": "report.figures",
    "files": "ground.files",
    "images": "data",
    "judge": "measure.judge",
    "latex": "report.latex",
    "measured": "report.measured",
    "pipeline": "report.pipeline",
    "protocol": "measure.protocol",
    "stats": "measure.stats",
    "store": "runs",
    "study": "report.study",
    "synthetic": "data.synthetic",
    "table1": "report.table1",
    "tables": "report.tables",
}


class Moved(MetaPathFinder):
    """Says where a module went, to who imports it by the name that it had."""

    def find_spec(self, fullname, path=None, target=None):
        parent, _, name = fullname.rpartition(".")
        if parent == __name__ and name in MOVED:
            now = f"{__name__}.{MOVED[name]}"
            raise ModuleNotFoundError(f"{fullname} is {now} since version 0.3", name=fullname)
        return None


sys.meta_path.append(Moved())  # the last to be asked
