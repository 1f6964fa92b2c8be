"""A model as it was: in evaluation mode, eagerly or in float64 for a while, and then put back."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn


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
