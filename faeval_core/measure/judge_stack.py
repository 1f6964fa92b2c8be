"""A model as `diagnostics` sees one, and the credit that is sent to its levels."""

import copy
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from ..methods.base import RuleError
from ..models import Model
from .diagnostics import BATCH
from .judge_levels import LevelError
from .judge_model import Kept

Credit = Callable[[list[Tensor], Tensor, Tensor], Sequence[Tensor]]


class CreditError(RuleError):
    """A credit cannot be compared with the gradient; the text names the level and the way out."""


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
    def credited(self, credit: Credit, kept: Kept):
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
