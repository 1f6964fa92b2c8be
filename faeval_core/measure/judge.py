"""The diagnostics and the protocol on any nn.Module, as it is: nothing is trained here.

A level is a hidden state: the output of a submodule, or what a function of yours makes of the
input. A credit is what a rule of yours sends to it, in the place of the loss's gradient there.
What cannot be measured on a model is undefined, with the reason.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import protocol
from .diagnostics import DIRECTIONS
from .judge_levels import LevelError, Levels, tap
from .judge_measures import alignment, by_float64, enlarged, stability
from .judge_model import eagerly, left_alone
from .judge_stack import Credit, CreditError, Stack
from .protocol import Verdict

__all__ = ["Credit", "CreditError", "Judgement", "LevelError", "Levels", "judge"]

LEAST_DIRECTIONS = 3  # of which a correlation can be taken


@dataclass
class Judgement:
    """What `judge` found of one model and one credit.

    diagnosis: quantities by name, a list over the levels or one figure, as in `diagnostics`; None
    is undefined. fired: letter -> whether it fires, or None. undefined: letter or quantity -> why.
    """

    name: str
    levels: list[str]
    shapes: list[tuple]
    samples: int
    diagnosis: dict
    fired: dict[str, bool | None]
    undefined: dict[str, str]
    accuracy: float | None = None
    frozen_accuracy: float | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        return Verdict.of([self.fired])

    def to_frame(self):
        """One row per level, from the input up: a pandas.DataFrame."""
        import pandas as pd

        nothing = [None] * len(self.levels)
        told = {k: self.diagnosis.get(k, nothing) for k in PER_LEVEL}
        rows = {"level": self.levels, "shape": self.shapes} | told
        return pd.DataFrame(rows).set_index("level").astype(dict.fromkeys(PER_LEVEL, float))

    def to_row(self, **names) -> dict:
        """What was measured, as a row of `measured.verdict_from`, which judges many nets together.

        names: `method` and `seed`, by which it takes rows for seeds of one method.
        """
        told = {k: self.diagnosis[k] for k in ROW if k in self.diagnosis}
        if moved := self.diagnosis.get("rescaled"):
            told |= {f"{k}_rescaled": moved[k] for k in ("gamma", "g_norm")}
            told |= {"rescale_factor": moved["factor"]} if moved["repeatable"] else {}
        told |= {"accuracy": self.accuracy, "frozen_accuracy": self.frozen_accuracy}
        return names | {k: v for k, v in told.items() if v is not None}

    @property
    def lines(self) -> list[str]:
        """The verdict in sentences: both protocols, what to withdraw, and why a letter is
        undefined.
        """
        judged = self.verdict
        published, invariant = (
            judged.text(letters, spelled=True)
            for letters in (protocol.PUBLISHED, protocol.INVARIANT)
        )
        name = f"{self.name} on {self.samples} samples"
        out = [f"{name}: {published} (study's protocol); {invariant} (scale-invariant)."]
        out += protocol.sentences(judged, [protocol.reference_fault(self.diagnosis)])
        if lead := protocol.over_copy(self.diagnosis):
            out.append(f"Γ at the hidden levels, less that of δ_L copied to each: {lead:.3g}.")
        known = [(n, v) for n, v in zip(self.levels, self.diagnosis["gamma"]) if v is not None]
        if wrong := [name for name, v in known if v < protocol.UPHILL]:
            told = "check the sign of its credit, which is that of the gradient"
            out.append(f"Γ is negative at {', '.join(wrong)}: {told}.")
        for what, why in self.undefined.items():
            name = f"({what})" if what in self.fired else f"`{what}`"
            out.append(f"{name} is undefined: {why}.")
        return out + self.notes

    @property
    def text(self) -> str:
        shown = self.to_frame().to_string(float_format="{:.3g}".format, na_rep="—")
        return "\n".join([shown, "", *self.lines])


PER_LEVEL = ("gamma", "gamma_clamped", "gamma_copied", "rho", "nudge", "nudge_raw")
PER_LEVEL += ("h_norm", "g_norm", "growth_to_next", "twin")
ROW = ("growth", "stability", "h_norm", "g_norm", "gamma", "gamma_copied", "rho", "twin")


def judge(
    model: nn.Module,
    levels: Levels,
    credit: Credit,
    x: Tensor,
    y: Tensor,
    *,
    loss: Callable = F.cross_entropy,
    accuracy: float | None = None,
    frozen_accuracy: float | None = None,
    stability_batches: Iterable[tuple[Tensor, Tensor]] | None = None,
    writers: Sequence[str | nn.Module] = (),
    directions: int = DIRECTIONS,
) -> Judgement:
    """Both protocols and every per-level diagnostic of a rule's credit on a model, as it stands.

    levels: names of submodules (or these themselves) from the input up, whose outputs (of a tuple,
    the first) are the states h_0..h_L; or a function x -> [h_0, …, h_L] that calls `model` once and
    returns tensors of that pass. States have the batch as their first axis; of those with three
    axes, (batch, positions, features), Γ and norms are per position, others are one vector.
    credit: (states, output of the model, y) -> a tensor for each level, of the state's shape and
    in the sign of the gradient. The states hang on the graph, so that torch.autograd.grad(loss,
    states) is BP's own credit; what is returned must not hang on it.
    loss: (output, y) -> the loss of each sample, (batch, …); a function or module with a
    `reduction` is asked for 'none'. Any loss will do, also of a regression.
    accuracy, frozen_accuracy: of the trained model, and of one whose hidden blocks were left at
    their initial values, in 0..1, for (d).
    stability_batches: eight disjoint batches (x, y) of 128 or more, such as a DataLoader, for (c);
    by default x itself, where it has so many.
    writers: the submodules that write to a residual stream, for (b'): their outputs are made 1e5
    times as large, which must not change the function (it does not where all that reads the
    stream, the head too, normalises it first). The credit is then asked three times.
    directions: per sample and level, for ρ; each costs a pass of the model in float64.

    The model is judged in evaluation mode, on x's device. Its parameters, buffers, gradients and
    modes are after it what they were before. Raises LevelError, CreditError for what cannot be
    compared, and ValueError for other arguments that cannot be.
    """
    _check_arguments(model, x, y, accuracy, frozen_accuracy, directions)
    stack = Stack(model, tap(model, levels), loss, x, y)
    notes = _notes(model)
    with left_alone(model) as kept, eagerly():
        hs, gs, credits = stack.credited(credit, kept)
        found, why = alignment(stack, hs, gs, credits)
        found["stability"], why["stability"] = stability(stack, stability_batches)
        told, lacking = by_float64(stack, gs, credits, directions)
        found, why = found | told, why | lacking
        found["rescaled"], why["rescaled"] = enlarged(stack, credit, kept, writers)
    undefined = {k: v for k, v in why.items() if v}
    diagnosis = {k: v for k, v in found.items() if v is not None} | {"undefined": undefined}
    fired = protocol.fires(diagnosis, accuracy, frozen_accuracy)
    letters = protocol.undefined(diagnosis, accuracy, frozen_accuracy)
    behind = {*protocol.LETTERS.values(), "twin", "rescaled"}  # told by their letters
    rest = {k: v for k, v in undefined.items() if k not in behind}
    return Judgement(
        type(model).__name__,
        stack.tap.names,
        [tuple(h.shape[1:]) for h in hs],
        len(y),
        diagnosis,
        fired,
        letters | rest,
        accuracy,
        frozen_accuracy,
        notes,
    )


def _check_arguments(model, x, y, accuracy, frozen_accuracy, directions) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"judge measures a torch.nn.Module, not {model!r}")
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor):
            way_out = "wrap a model of several inputs into a module that takes one"
            raise ValueError(f"{name} must be a tensor, not {type(value).__name__}; {way_out}")
    if len(x) != len(y) or not len(x):
        raise ValueError(f"x has {len(x)} samples and y {len(y)}; both need the same, one or more")
    for name, value in (("accuracy", accuracy), ("frozen_accuracy", frozen_accuracy)):
        if value is not None and not 0 <= value <= 1:
            way_out = f"; {value:g} % is {value / 100:g}" if 1 < value <= 100 else ""
            raise ValueError(f"{name} must lie in 0..1, not be {value!r}{way_out}")
    if not (isinstance(directions, int) and directions >= LEAST_DIRECTIONS):
        raise ValueError(f"directions must be {LEAST_DIRECTIONS} or more, not {directions!r}")


def _notes(model) -> list[str]:
    kinds = {
        "BatchNorm takes its running statistics": nn.modules.batchnorm._BatchNorm,
        "dropout is off": nn.modules.dropout._DropoutNd,
    }
    found = [
        told for told, kind in kinds.items() if any(isinstance(m, kind) for m in model.modules())
    ]
    out = [f"Judged in evaluation mode: {', '.join(found)}."] if found else []
    if any(p.dtype == torch.float64 for p in model.parameters()):
        out.append("The model is in float64 itself, so that its twin is itself.")
    return out
