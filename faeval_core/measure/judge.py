"""The diagnostics and the protocol on any nn.Module, as it is: nothing is trained here.

A level is a hidden state: the output of a submodule, or what a function of yours makes of the
input. A credit is what a rule of yours sends to it, in the place of the loss's gradient there.
What cannot be measured on a model is undefined, with the reason.
"""

import copy
import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ground.streams import stream
from ..methods.shared import RuleError
from ..models import Model
from . import diagnostics, protocol
from .diagnostics import BATCH, DIRECTIONS, RESCALE, STABILITY_BATCHES
from .protocol import Verdict

NUMBERS_AT_ONCE = 2**25  # of the directions that ρ draws at a level: 256 MiB in float64
SAME_FUNCTION = 0.01  # change of a loss, over the largest, that may come of rounding
LEAST_DIRECTIONS = 3  # of which a correlation can be taken
Credit = Callable[[list[Tensor], Tensor, Tensor], Sequence[Tensor]]
Levels = Sequence[str | nn.Module] | Callable[[Tensor], Sequence[Tensor]]


class CreditError(RuleError):
    """A credit cannot be compared with the gradient; the text names the level and the way out."""


class LevelError(ValueError):
    """`levels` or `writers` do not name what they are to name; the text says which, and the way
    out.
    """


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
        published, invariant = judged.text(), judged.text(protocol.INVARIANT)
        name = f"{self.name} on {self.samples} samples"
        out = [f"{name}: {published} (published protocol); {invariant} (scale-invariant)."]
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
ROW = ("growth", "stability", "h_norm", "g_norm", "gamma", "rho", "twin")


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
    stack = Stack(model, _tap(model, levels), loss, x, y)
    notes = _notes(model)
    with left_alone(model) as kept, eagerly():
        hs, gs, credits = stack.credited(credit, kept)
        found, why = _alignment(stack, hs, gs, credits)
        found["stability"], why["stability"] = _stability(stack, stability_batches)
        told, lacking = _in_float64(stack, gs, credits, directions)
        found, why = found | told, why | lacking
        found["rescaled"], why["rescaled"] = _rescaled(stack, credit, kept, writers)
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


# -- states


@contextmanager
def hooked(pairs: Iterable[tuple[nn.Module, Callable]]) -> Iterator[None]:
    """Forward hooks on modules while this lasts."""
    with ExitStack() as stack:
        for module, hook in pairs:
            stack.callback(module.register_forward_hook(hook).remove)
        yield


def first(output):
    """The state in a submodule's output: that itself, or the first of a tuple."""
    return output[0] if isinstance(output, tuple) and output else output


def with_first(output, state):
    """A submodule's output with another state in it."""
    return (state, *output[1:]) if isinstance(output, tuple) else state


def submodules(model: nn.Module, given, argument: str) -> tuple[list[str], list[nn.Module]]:
    """(names, modules) of what `given` names; LevelError for what the model has not."""
    known = dict(model.named_modules(remove_duplicate=False))
    of = {id(module): name for name, module in reversed(known.items())}
    if isinstance(given, nn.ModuleList):
        given = list(given)
    if isinstance(given, str) or not isinstance(given, Sequence):
        told = f"not {given!r}" if isinstance(given, str) else f"not a {type(given).__name__}"
        raise LevelError(f"{argument} must be a list of submodules or of their names, {told}")
    names = []
    for part in given:
        if isinstance(part, nn.Module):
            if id(part) not in of:
                told = f"{argument} holds a {type(part).__name__} that is no part of the model"
                raise LevelError(f"{told}; name it by its place, as in dict(model.named_modules())")
            part = of[id(part)]
        if part not in known:
            near = difflib.get_close_matches(str(part), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "dict(model.named_modules()) has them"
            raise LevelError(f"{argument} names {part!r}, which is no submodule; {hint}")
        names.append(part)
    if twice := [name for name in names if names.count(name) > 1]:
        raise LevelError(f"{argument} names {twice[0]!r} twice")
    return names, [known[name] for name in names]


class Outputs:
    """Levels that are outputs of submodules: read in a pass, or put in another's place."""

    can_resume = True

    def __init__(self, model, levels):
        self.model = model
        self.names, self.modules = submodules(model, levels, "levels")
        if not self.names:
            raise LevelError("levels is empty; name at least one submodule")

    def read(self, x):
        """(states, output) of a pass; the states hang on its graph."""
        found = []

        def keep(name):
            def hook(module, args, output):
                state = first(output)
                if not isinstance(state, Tensor) or not state.is_floating_point():
                    told = f"level {name!r} gives {type(state).__name__}, not a tensor of floats"
                    raise LevelError(f"{told}; name another submodule, or pass a function")
                state = state if state.requires_grad else state.detach().requires_grad_()
                found.append((name, state))
                return with_first(output, state.clone())  # what edits it in place, edits the copy

            return hook

        with hooked((m, keep(name)) for m, name in zip(self.modules, self.names)):
            output = self.model(x)
        self.check_order([name for name, _ in found])
        return [state for _, state in found], output

    def check_order(self, ran: list[str]) -> None:
        for name in self.names:
            if ran.count(name) != 1:
                told = f"level {name!r} runs {ran.count(name)} times in a pass, not once"
                raise LevelError(f"{told}; name a submodule that does, or pass a function")
        if ran != self.names:
            told = f"levels are {', '.join(self.names)}, and run in the order {', '.join(ran)}"
            raise LevelError(f"{told}; name them from the input up")

    def resume(self, x, level: int, state):
        """The model's output where a level's state is another."""

        def put(module, args, output):
            return with_first(output, state.clone())

        with hooked([(self.modules[level], put)]):
            return self.model(x)


class States:
    """Levels that a function gives, which runs the model."""

    can_resume = False

    def __init__(self, model, function):
        self.model, self.function, self.names = model, function, []

    def read(self, x):
        """(states, output) of a pass; the states hang on its graph."""
        outputs = []
        with hooked([(self.model, lambda module, args, output: outputs.append(output))]):
            states = list(self.function(x))
        if len(outputs) != 1:
            told = f"the function in levels calls the model {len(outputs)} times, not once"
            raise LevelError(f"{told}; return states of one pass of it")
        self.names = [f"h_{l}" for l in range(len(states))]
        for name, state in zip(self.names, states):
            if not (isinstance(state, Tensor) and state.requires_grad):
                told = f"{name} of the function in levels is not on the graph of its pass"
                raise LevelError(f"{told}; return it undetached, and from a model that can learn")
        if not states:
            raise LevelError("the function in levels returns no state")
        return states, outputs[0]


def _tap(model, levels) -> Outputs | States:
    is_function = callable(levels) and not isinstance(levels, nn.Module)
    return States(model, levels) if is_function else Outputs(model, levels)


class Stack:
    """A model as `diagnostics` sees one: states as vectors, and the loss from a level on."""

    vectors = Model.vectors
    cfg = SimpleNamespace(train_net=True)  # which `diagnostics.nudges` asks for

    def __init__(self, network, tap, loss, x, y):
        self.network, self.tap, self.given, self.x, self.y = network, tap, loss, x, y
        self.loss, self.model = each_sample(loss), self

    def on(self, x, y) -> "Stack":
        """The same model on other samples."""
        found = copy.copy(self)
        found.x, found.y, found.model = x, y, found
        return found

    def doubled(self) -> "Stack":
        """The same on float64 samples."""
        return self.on(*(t.double() if t.is_floating_point() else t for t in (self.x, self.y)))

    def losses(self, output, y) -> Tensor:
        """Loss of each sample, (batch,)."""
        found = self.loss(output, y)
        if not isinstance(found, Tensor) or found.ndim < 1 or len(found) != len(y):
            made = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            told = f"the loss must give one value for each of {len(y)} samples, not {made}"
            raise ValueError(f"{told}; leave out its mean, as by reduction='none'")
        return found.flatten(1).mean(1) if found.ndim > 1 else found

    @torch.enable_grad()
    def gradients(self):
        """(states, output, gradients g_0..g_L of the mean loss over batches of 128)."""
        states, output = self.tap.read(self.x)
        for name, h in zip(self.tap.names, states):
            if h.ndim < 2 or len(h) != len(self.y):
                told = f"level {name!r} has shape {tuple(h.shape)}"
                way_out = f"its first axis must be the batch, {len(self.y)} (batch_first=True)"
                raise LevelError(f"{told}; {way_out}")
        losses = self.losses(output, self.y)
        scalar = losses.sum() / BATCH
        if not scalar.requires_grad:
            told = "no gradient reaches the loss: the model runs under torch.no_grad, or detaches"
            raise LevelError(f"{told}; judge a model that back-propagation can go through")
        gs = torch.autograd.grad(scalar, states, retain_graph=True, allow_unused=True)
        for name, g in zip(self.tap.names, gs):
            if g is None:
                told = f"the loss does not depend on level {name!r}"
                raise LevelError(f"{told}; name a state on the way to the output")
            if not g.isfinite().all():
                raise ValueError(
                    f"the gradient at level {name!r} is not finite, so nothing is judged"
                )
        return states, output, list(gs)

    @torch.enable_grad()
    def credited(self, credit: Credit, kept: "Kept"):
        """(detached states, gradients, checked credit)."""
        states, output, gs = self.gradients()
        versions = [h._version for h in states]
        found = credit(list(states), output, self.y)
        for name, h, before in zip(self.tap.names, states, versions):
            if h._version != before:
                way_out = "make a new tensor of it"
                raise CreditError(f"the credit edits the state at level {name!r}; {way_out}")
        if moved := kept.changed():
            way_out = "a credit reads the model, and changes nothing of it"
            raise CreditError(f"the credit changes {moved} of the model; {way_out}")
        check_credit(self.tap.names, found, states)
        return [h.detach() for h in states], gs, list(found)

    def tail_losses(self, p, h, y, level) -> Tensor:
        """Loss of each sample, (batch,), where a level's state is h."""
        return self.losses(self.tap.resume(self.x, level, h), y)


def each_sample(loss: Callable) -> Callable:
    """A loss that is not reduced, where it can be asked for that."""
    if isinstance(loss, nn.Module):
        loss = copy.copy(loss)
        if hasattr(loss, "reduction"):
            loss.reduction = "none"
        return loss
    try:
        has_reduction = "reduction" in inspect.signature(loss).parameters
    except (TypeError, ValueError):  # of what is not written in Python
        has_reduction = False
    return partial(loss, reduction="none") if has_reduction else loss


def check_credit(names: list[str], credit, states: list[Tensor]) -> None:
    """CreditError where a credit is not one finite tensor of its own for each level, like its
    state, or is zero there.
    """
    wanted = f"it needs one tensor for each of the {len(names)} levels, {', '.join(names)}"
    if not isinstance(credit, (list, tuple)):
        raise CreditError(f"the credit is of type {type(credit).__name__}; {wanted}, in a list")
    if len(credit) != len(names):
        raise CreditError(f"the credit has {len(credit)} levels; {wanted}")
    for name, a, h in zip(names, credit, states):
        told = f"the credit at level {name!r}"
        if not isinstance(a, Tensor):
            way_out = "leave a level that has none out of levels"
            raise CreditError(f"{told} is of type {type(a).__name__}; {wanted}; {way_out}")
        if a.shape != h.shape:
            shapes = f"has shape {tuple(a.shape)}, and its state {tuple(h.shape)}"
            way_out = "it needs a number for each of the state's; levels of one size can share one"
            raise CreditError(f"{told} {shapes}; {way_out}")
        for what, found, like in (("dtype", a.dtype, h.dtype), ("device", a.device, h.device)):
            if found != like:
                way_out = "make it like its state, by a.to(h)"
                raise CreditError(f"{told} has {what} {found}, and its state {like}; {way_out}")
        if a.requires_grad:
            way_out = "return a.detach(), or write @torch.no_grad() above the credit"
            raise CreditError(f"{told} has a gradient attached; {way_out}")
        if not a.isfinite().all():
            count = int((~a.isfinite()).flatten(1).any(1).sum())
            way_out = "look for a division by zero there"
            raise CreditError(f"{told} is not finite for {count} of {len(a)} samples; {way_out}")
        if not a.any():
            way_out = "it has no direction: leave the level out of levels, or mend the credit"
            raise CreditError(f"{told} is zero for every sample; {way_out}")


# -- the model as it was


class Kept:
    """Copies of a model's parameters and buffers, by name."""

    def __init__(self, model):
        tensors = chain(model.named_parameters(), model.named_buffers())
        self.tensors = {name: (t, t.detach().clone()) for name, t in tensors}

    def changed(self) -> str | None:
        """The first that is not what it was."""
        moved = (name for name, (t, before) in self.tensors.items() if not same(t, before))
        return next(moved, None)

    @torch.no_grad()
    def restore(self) -> None:
        for t, before in self.tensors.values():
            if not same(t, before):
                t.copy_(before)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same; NaN is like NaN."""
    return torch.equal(a, b) or torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)


@contextmanager
def left_alone(model: nn.Module) -> Iterator[Kept]:
    """The model in evaluation mode; after it, as it was before, whatever has happened."""
    modes = [(module, module.training) for module in model.modules()]
    grads = [(p, p.grad, p.grad if p.grad is None else p.grad.clone()) for p in model.parameters()]
    owned = [
        (module, name, t)
        for module in model.modules()
        for name, t in chain(
            module.named_parameters(recurse=False), module.named_buffers(recurse=False)
        )
    ]
    kept = Kept(model)
    try:
        model.eval()
        yield kept
    finally:
        for module, mode in modes:
            module.training = mode
        for module, name, t in owned:
            if getattr(module, name) is not t:
                setattr(module, name, t)
        kept.restore()
        for p, grad, before in grads:
            p.grad = grad
            if grad is not None:
                grad.copy_(before)


@contextmanager
def eagerly() -> Iterator[None]:
    """Submodules run one by one, so that hooks are heard: nothing compiled, no fused transformer
    layer.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def in_float64(module: nn.Module) -> Iterator[None]:
    """A module's tensors in float64; after it, the very ones that it had."""
    tensors = [t for t in chain(module.parameters(), module.buffers()) if t.is_floating_point()]
    own = [t.data for t in tensors]
    try:
        for t in tensors:
            t.data = t.data.double()
        yield
    finally:
        for t, before in zip(tensors, own):
            t.data = before


# -- what is measured


def _alignment(stack, hs, gs, credits) -> tuple[dict, dict]:
    """(quantities, quantity -> why it is undefined, or '') in the model's own precision."""
    gamma, copied = partial(diagnostics.gamma, stack), gs[-1]
    h_norm = [diagnostics.median_norm(stack, h) for h in hs]
    ratios, no_ratio = _growth(stack.tap.names, hs, h_norm)
    known = [r for r in ratios if r is not None]
    worst = max(known, default=None)
    # one that is beyond the threshold says all; one that is not, only with the others
    growth = worst if not no_ratio or protocol.crosses("a", worst) else None
    found = {
        "gamma": [gamma(a, g) for a, g in zip(credits, gs)],
        "gamma_clamped": [gamma(a, g, diagnostics.cosine_clamped) for a, g in zip(credits, gs)],
        "gamma_copied": [gamma(copied, g) for g in gs],
        "h_norm": h_norm,
        "g_norm": [diagnostics.median_norm(stack, g) for g in gs],
        "growth_to_next": [*ratios, None],
        "growth": growth,
    }
    why = {"growth": no_ratio if growth is None else ""}
    levels = list(zip(stack.tap.names, gs))
    if zero := [name for name, g in levels if not g.any()]:
        why["gamma"] = f"the gradient is zero for every sample at {', '.join(zero)}"
    if other := [name for name, g in levels if g.shape != copied.shape]:
        told = f"levels {', '.join(other)} are of other shapes than {stack.tap.names[-1]}"
        why["gamma_copied"] = f"{told}, whose gradient is copied"
    return found, why


def _growth(names, hs, h_norm) -> tuple[list, str]:
    """(‖h_{l+1}‖ / ‖h_l‖ of neighbouring levels of one shape, why one of them is undefined)."""
    ratios, why = [], "" if len(names) > 1 else "there is one level alone"
    for l, (a, b) in enumerate(zip(hs, hs[1:])):
        if a.shape[1:] != b.shape[1:]:
            ratios.append(None)
            shapes = f"{tuple(a.shape[1:])} and {tuple(b.shape[1:])}"
            why = why or f"{names[l]} and {names[l + 1]} are of different shapes, {shapes}"
        elif not h_norm[l]:
            ratios.append(None)
            why = why or f"the state at {names[l]} is zero"
        else:
            ratios.append(h_norm[l + 1] / h_norm[l])
    return ratios, why


def _stability(stack, batches) -> tuple[float | None, str]:
    """(mean pairwise cosine of the mean gradients of disjoint batches, why it is undefined)."""
    wanted = f"{STABILITY_BATCHES} disjoint batches of {BATCH}"
    if batches is None:
        if len(stack.y) < STABILITY_BATCHES * BATCH:
            told = f"x has {len(stack.y)} samples, fewer than {wanted}"
            return None, f"{told}; give stability_batches, such as a DataLoader"
        batches = zip(stack.x.split(BATCH), stack.y.split(BATCH))
    middle, directions = (len(stack.tap.names) - 1) // 2, []
    for x, y in islice(batches, STABILITY_BATCHES):
        if len(y) < BATCH:
            return None, f"stability_batches has a batch of {len(y)}; (c) is defined on {BATCH}"
        on_device = (t[:BATCH].to(stack.x.device) for t in (x, y))
        _, _, gs = stack.on(*on_device).gradients()
        directions.append(gs[middle].double().mean(0).flatten())
    if len(directions) < STABILITY_BATCHES:
        return None, f"stability_batches has {len(directions)} batches, fewer than {wanted}"
    found = diagnostics.agreement(torch.stack(directions))
    return found, "the mean gradients are zero" if found is None else ""


def _in_float64(stack, gs, credits, directions) -> tuple[dict, dict]:
    """(what is measured in float64: twin, ρ and nudges; quantity -> why it is undefined, or '')."""
    nothing = [None] * len(gs)
    found = dict.fromkeys(("rho", "nudge", "nudge_raw"), nothing)
    loss = in_float64(stack.loss) if isinstance(stack.loss, nn.Module) else nullcontext()
    try:
        with in_float64(stack.network), loss:
            double = stack.doubled()
            hs64, _, gs64 = double.gradients()
            hs64, credits64 = [h.detach() for h in hs64], [a.double() for a in credits]
            found["twin"] = [diagnostics.gamma(stack, g, t) for g, t in zip(gs, gs64)]
            if stack.tap.can_resume:
                found |= _moved(double, hs64, credits64, directions)
    except (RuntimeError, TypeError) as e:  # as of a tensor that the model makes in float32
        told = f"the model does not run in float64 ({str(e).strip().splitlines()[0]})"
        return found, {"twin": told, "rho": told}
    why = {"twin": "the gradient is zero at some level" if None in found["twin"] else ""}
    if not stack.tap.can_resume:
        why["rho"] = "a function gives the levels, and from its states the model cannot go on"
    elif None in found["rho"]:
        why["rho"] = "no direction at some level changes the loss"
    return found, why


@torch.no_grad()
def _moved(stack, hs, credits, directions) -> dict:
    """ρ and nudges per level, a few samples at a time."""
    generator, found = stream(0, "rho"), {"rho": [], "nudge": [], "nudge_raw": []}
    for l, (h, a) in enumerate(zip(hs, credits)):
        size = max(1, NUMBERS_AT_ONCE // (directions * h[0].numel()))
        parts = zip(*(t.split(size) for t in (stack.x, stack.y, h, a)))
        each, moves = [], []
        for x, y, some, credit in parts:
            part = stack.on(x, y)
            told = diagnostics.correlations(part, None, l, some, [credit], y, generator, directions)
            each += told
            moves.append(
                [len(y) * move for move in diagnostics.nudge(part, None, l, some, credit, y)]
            )
        found["rho"].append(diagnostics.defined_mean(torch.cat(each)))
        for name, total in zip(("nudge", "nudge_raw"), map(sum, zip(*moves))):
            found[name].append(total / len(stack.y))
    return found


@torch.no_grad()
def _rescaled(stack, credit, kept, writers) -> tuple[dict | None, str]:
    """(Γ and ‖g_l‖ of the model with a stream 1e5 times as large, why that cannot be)."""
    if not writers:
        told = "it is not known which submodules write to the residual stream"
        return None, f"{told}; name them in writers, where there is one"
    names, modules = submodules(stack.network, writers, "writers")
    ran = set()

    def enlarge(name):
        def hook(module, args, output):
            ran.add(name)
            return with_first(output, RESCALE * first(output))

        return hook

    before = stack.losses(stack.network(stack.x), stack.y)
    with hooked((m, enlarge(name)) for m, name in zip(modules, names)):
        after = stack.losses(stack.network(stack.x), stack.y)
        if idle := [name for name in names if name not in ran]:
            raise LevelError(f"writers names {idle[0]!r}, which does not run in a pass")
        change = ((after - before).abs().max() / before.abs().max()).item()
        if not change <= SAME_FUNCTION:
            told = f"a stream {RESCALE:g} times as large changes the loss by {100 * change:.2g} %"
            way_out = "it is another function without every writer, or without a last normalisation"
            return None, f"{told}: {way_out}"
        (_, gs, credits), (*_, again) = (stack.credited(credit, kept) for _ in range(2))
    return {
        "factor": RESCALE,
        "g_norm": [diagnostics.median_norm(stack, g) for g in gs],
        "loss_change": change,
        "repeatable": diagnostics.alike(credits, again),
        "gamma": [diagnostics.gamma(stack, a, g) for a, g in zip(credits, gs)],
    }, ""
