"""Credit beside δ_L copied to every level of the same net: what (e) is about."""

from statistics import fmean
from typing import NamedTuple

from .letters import LEAST_ROOM


class BesideCopy(NamedTuple):
    """Exact Γ at the hidden levels, l = 1..L-1, mean over them: of a rule's credit, and of δ_L
    copied to every level of the same net. At the top both may be exact, and level 0 has no block
    below it.
    """

    gamma: float
    copied: float

    @property
    def lead(self) -> float:
        return self.gamma - self.copied

    @property
    def room(self) -> float:
        """What the exact gradient leads the copy by."""
        return 1 - self.copied

    @property
    def share(self) -> float | None:
        """How much of that room the credit closes: 0 is the copy, 1 the gradient, below 0 worse
        than the copy. None where there is hardly any room, and the credit is not far below it.
        """
        has_room = self.room >= LEAST_ROOM or self.lead < -LEAST_ROOM
        return self.lead / max(self.room, LEAST_ROOM) if has_room else None


def beside_copy(diagnosis: dict) -> BesideCopy | None:
    """None where a hidden level has no Γ, there is none, or the record is older than the copy."""
    pairs = list(zip(diagnosis.get("gamma", ()), diagnosis.get("gamma_copied", ())))[1:-1]
    if not pairs or any(None in pair for pair in pairs):
        return None
    return BesideCopy(*map(fmean, zip(*pairs)))


def over_copy(diagnosis: dict) -> float | None:
    """Lead of the exact Γ over that of the copied δ_L, as in `BesideCopy`, or None."""
    found = beside_copy(diagnosis)
    return None if found is None else found.lead


def copy_gap(diagnosis: dict) -> str:
    """Why (e) is undefined on a diagnosis."""
    other = "it has another shape than the top level, whose gradient is copied"
    for quantity, usual in (("gamma", "no Γ"), ("gamma_copied", other)):
        levels = diagnosis.get(quantity)
        if levels is None:
            return reason(diagnosis, quantity)
        if len(levels) < 3:
            return "there is no hidden level between the lowest and the top one"
        if gone := [str(l) for l, v in enumerate(levels[1:-1], 1) if v is None]:
            why = diagnosis.get("undefined", {}).get(quantity, usual)
            return f"at level {', '.join(gone)}: {why}"
    return f"the exact gradient itself is less than {LEAST_ROOM:g} ahead of the copied δ_L"


def reason(diagnosis: dict, quantity: str) -> str:
    """Why a quantity of a diagnosis is undefined: what the diagnosis says, or that it lacks it."""
    return diagnosis.get("undefined", {}).get(quantity, f"no `{quantity}` was measured")
