"""How far notebooks are: what will happen, one line with the time left, what to open then."""

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

from tqdm import tqdm

# Seconds that a smoke notebook took beside another one, on two cores of an Intel Xeon.
SECONDS = {
    "00_tour": 6,
    "01_foundations": 22,
    "02_explore": 38,
    "03_boundary_conditions": 39,
    "04_dissection": 37,
    "05_vector_field": 28,
    "06_exploitability": 52,
    "07_snapshot_time": 31,
    "08_schedule_timing": 7,
    "09_handoff": 10,
    "10_blend_mechanism": 15,
    "11_audit": 11,
    "12_mode1": 47,
    "13_mode2": 24,
    "14_fa_against_dfa": 43,
    "15_architectures": 7,
    "16_protocol_calibration": 12,
}
READING, UNKNOWN = 10, 30  # of one that only reads records; of one that is not listed
NEXT = {
    "make table1": "Table 1 from the committed records, in seconds",
    "python -m faeval_core reproduce --profile paper": "every notebook from them, in minutes",
    "python -m faeval_core status": "what they lack, and what it costs",
}
PAGE, TABLE = "tour_broadcast.html", "11_audit.ipynb"


def expected(names: list[str], profile: str, trains: bool) -> dict[str, int] | None:
    """Seconds that each notebook is expected to take alone on a core, by name; None where training
    at the study's sizes decides, which `status` estimates.
    """
    if profile == "smoke":
        return {name: SECONDS.get(name, UNKNOWN) for name in names}
    return None if trains else dict.fromkeys(names, READING)


def rounded(seconds: float) -> str:
    """A duration as a reader takes it in: '40 seconds', '4 minutes'."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} seconds"
    return f"{seconds / 60:.0f} minutes"


def opening(profile: str, seconds: dict[str, int] | None, count: int, side_by_side: int) -> str:
    """What is about to happen, and how long it takes."""
    if profile == "smoke":
        what = "the whole programme on the embedded digits, with tiny nets: it shows that all of it"
        what += " works, its numbers are no results"
    else:
        what = f"the {profile} profile, at the study's sizes"
    told = f"{count} notebook{'s' * (count != 1)}, {side_by_side} at a time: {what}."
    if seconds is None:
        return (
            f"{told} What is missing is trained; `python -m faeval_core status` says for how long."
        )
    return f"{told} About {rounded(sum(seconds.values()) / side_by_side)}."


def closing(profile: str, figures: Path, executed: Path) -> str:
    """The things to open, as far as they are there, and what to run next."""
    places = {"report": figures / PAGE, "figures": figures, "notebook": executed / TABLE}
    told = ["", "to open:"]
    told += [f"  {k:<9} {os.path.relpath(p)}" for k, p in places.items() if p.exists()]
    if profile == "smoke":
        told.append("next, at the study's own sizes:")
        told += [f"  {command:<48} {what}" for command, what in NEXT.items()]
    return "\n".join(told)


class Progress:
    """One line with the time left where stdout is a terminal, else, and where `plain` lines are
    asked for, a line for every notebook that has ended.

    seconds: what each is expected to take, by name; None where nobody knows. What the first ones
    took says how fast this machine is.
    """

    def __init__(self, names: list[str], seconds: dict[str, int] | None, plain: bool = False):
        self.seconds = seconds or dict.fromkeys(names, 1)
        self.known, self.count = seconds is not None, len(names)
        self.begun, self.ended = [], []
        self.began = time.monotonic()
        self.bar = None
        if not plain and sys.stdout.isatty():
            form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, about {remaining} left"
            total = sum(self.seconds.values())
            self.bar = tqdm(total=total, file=sys.stdout, bar_format=form, smoothing=0, leave=False)
            self.bar.set_description_str(f"0 of {self.count}")

    def begin(self, name: str) -> None:
        """Note that a notebook runs now; several threads may."""
        self.begun.append(name)

    def done(self) -> float:
        """Expected seconds of what has ended, and of half of each notebook that runs."""
        return sum(self.seconds[name] for name in [*self.begun, *self.ended]) / 2

    def left(self) -> float:
        """Seconds left, if the rest goes as what is done."""
        done = self.done()
        return (sum(self.seconds.values()) - done) * (time.monotonic() - self.began) / done

    def end(self, name: str, told: str) -> None:
        """Say that a notebook has ended, `told` being how."""
        self.ended.append(name)
        line = f"[{len(self.ended)}/{self.count}] {name} {told}"
        if self.bar is not None:
            self.bar.write(line, file=sys.stdout)
            self.bar.set_description_str(f"{len(self.ended)} of {self.count}", refresh=False)
            self.bar.update(self.done() - self.bar.n)
            return
        if self.known and len(self.ended) < self.count:
            first, *rest = line.split("\n")
            left = timedelta(seconds=round(self.left()))
            line = "\n".join([f"{first}, about {left} left", *rest])
        print(line, flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
