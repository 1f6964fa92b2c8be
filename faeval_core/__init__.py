"""faeval_core: training and validity-first diagnostics for credit assignment without
back-propagation.
"""

__version__ = "0.1.0"

from .config import RunConfig  # noqa: E402
from .methods import METHODS, LocalMethod, Method, register  # noqa: E402
from .models import Model, register_model  # noqa: E402
from .runs import run  # noqa: E402
from .store import RunRecord, Store  # noqa: E402

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
