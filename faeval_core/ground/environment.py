"""What variables of the environment say. Each is read here, and one that says nothing known is
refused by its name.
"""

import math
import os
import re
from contextlib import contextmanager
from pathlib import Path

SWITCHES = {
    word: word in ("1", "true", "yes", "on") for word in "1 true yes on 0 false no off".split()
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def training() -> bool:
    """FAEVAL_TRAIN: whether runs that a store lacks may be trained; unset or empty, they may."""
    text = os.environ.get("FAEVAL_TRAIN", "").strip().lower()
    if text and text not in SWITCHES:
        told = (
            f"FAEVAL_TRAIN={os.environ['FAEVAL_TRAIN']!r} in the environment says neither "
            "yes nor no"
        )
        raise ValueError(f"{told}; use one of {', '.join(SWITCHES)}, or unset it")
    return SWITCHES.get(text, True)


def waiting(default: float) -> float:
    """FAEVAL_WAIT: the seconds for which an engine waits for its first worker; `default` where it
    is unset or empty.
    """
    text = os.environ.get("FAEVAL_WAIT", "").strip()
    try:
        seconds = float(text or default)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(
            f"FAEVAL_WAIT={text!r} in the environment is no number of seconds; use one such as "
            "600, or unset it"
        )
    return seconds


def check_threads() -> None:
    """Raise ValueError where the numbers of threads that OpenMP and MKL read are none, which they
    would take without a word
    and disagree on: training is then several times slower."""
    for name in THREADS:
        text = os.environ.get(name, "")
        if text.strip() and not re.fullmatch(r"\s*[1-9]\d*(\s*,\s*[1-9]\d*)*\s*", text):
            raise ValueError(
                f"{name}={text!r} in the environment is no number of threads; use one such as "
                "2, or unset it"
            )


def expanded(path) -> Path:
    """A path with its ~ replaced. Raises ValueError where the user has no home folder that could be
    found.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as e:
        told = (
            f"{str(path)!r} needs your home folder, and neither $HOME nor the list of users "
            "names one"
        )
        raise ValueError(
            f"{told}; set HOME, and FAEVAL_DATA to a folder for images if they are not to go there"
        ) from e


@contextmanager
def changed(values: dict[str, str]):
    """The environment with these variables, which is inherited by what starts meanwhile."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
