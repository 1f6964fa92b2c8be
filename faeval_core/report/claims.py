"""Claims of a notebook: what each states, and what becomes of them together."""

from collections.abc import Iterable
from typing import NamedTuple

from ..measure import stats
from ..measure.stats import Bound, Estimate

NO_RECORDS = "not run"  # what is decided of a claim without a figure


class Claim(NamedTuple):
    """A statement about a figure, with the bound that it has to be beyond; `found` is None where
    nothing is recorded.
    """

    name: str
    statement: str
    bound: Bound
    found: Estimate | None

    def told(self, decided: str, p: float | None) -> dict:
        """Plain data for the summary of a study."""
        side = "above" if self.bound.is_above else "below"
        interval = str(self.found.interval()) if self.found else "no records"
        bound = {side: self.bound.at, "smallest": self.bound.smallest}
        size = f", by over {self.bound.smallest:g}" if self.bound.smallest else ""
        told = {"name": self.name, "statement": self.statement + size, "decided": decided}
        return told | {"interval": interval, "p": p, **bound}


def decide(claims: Iterable[Claim]) -> list[dict]:
    """What became of claims that are decided together, by Holm's method, as plain data."""
    claims = list(claims)
    decisions = stats.decide_together([(c.bound, c.found) for c in claims])
    return [c.told(decided, p) for c, (decided, p) in zip(claims, decisions)]


def lines(told: list[dict]) -> str:
    """What `decide` says, a line for each claim and one for how many were tested together."""
    width = max(map(len, stats.WORDS))
    rows = []
    decided = [c for c in told if c["decided"] != NO_RECORDS]
    for c in decided:
        p = "" if c["p"] is None else f", p={c['p']:.2g}" if c["p"] >= 1e-4 else ", p<0.0001"
        rows.append(f"{c['decided']:>{width}} | {c['statement']} | {c['interval']}{p}")
    tested = sum(c["p"] is not None for c in told)
    waiting = f"; {len(told) - len(decided)} wait for runs" if len(decided) < len(told) else ""
    return "\n".join([*rows, f"{tested} tested together, at {stats.ALPHA:.0%} (Holm){waiting}"])
