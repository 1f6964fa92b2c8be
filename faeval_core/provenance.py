"""Where numbers come from: the package's commit and source, and the machine; once per process.

None of it is part of a run's identity or checksum.
"""

import ast
import os
import platform
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import torch

from . import __version__
from .costs import cpu_model
from .files import digest
from .owncode import outline

ROOT = Path(__file__).parent
REPORTS = {  # modules that only read, send or show what has been measured
    "__main__",
    "audit",
    "commands",
    "backlog",
    "comparisons",
    "costs",
    "device",
    "engines",
    "extras",
    "figures",
    "files",
    "findings",
    "kernels",
    "latex",
    "letters",
    "page",
    "page_charts",
    "parcel",
    "pipeline",
    "plan",
    "preflight",
    "preloaded",
    "progress",
    "protocol",
    "provenance",
    "readme",
    "stats",
    "store",
    "study",
    "svg",
    "table1",
    "tables",
    "terminal",
    "tuning",
}


def _read() -> dict[str, bytes]:
    """The package's modules by path, as they are on disk."""
    return {p.relative_to(ROOT).as_posix(): p.read_bytes() for p in sorted(ROOT.rglob("*.py"))}


# when this process imported them: a checkout may move on under a kernel that lives long
LOADED = _read()


def source_digest(files: dict[str, bytes]) -> str:
    """Digest of the modules that make numbers, without comments, layout and docstrings."""
    numerical = {
        name: text for name, text in files.items() if name.removesuffix(".py") not in REPORTS
    }
    return digest(
        f"{name} {outline(ast.parse(text))}\n" for name, text in sorted(numerical.items())
    )[:16]


def _git(*command) -> str | None:
    """What git says about this package, None where it says nothing (no git, no checkout)."""
    plain = {
        k: v for k, v in os.environ.items() if not k.startswith("GIT_")
    }  # a hook's would name another tree
    try:
        told = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(ROOT), *command],
            env=plain,
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() if told.returncode == 0 else None


def checkout() -> dict:
    """{commit, clean} of the git checkout that the package is part of; None for a wheel.

    clean: whether the package's folder was as that commit has it.
    """
    tracked = _git("ls-files", "--error-unmatch", "__init__.py")
    if tracked is None or _read() != LOADED:
        return {"commit": None, "clean": None}
    return {
        "commit": _git("rev-parse", "HEAD"),
        "clean": _git("status", "--porcelain", "--", ".") == "",
    }


@cache
def made_by() -> dict:
    """What every record of this process says of the code and the machine that made it."""
    return {
        "package": __version__,
        **checkout(),
        "source": source_digest(LOADED),
        "cpu": cpu_model(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
