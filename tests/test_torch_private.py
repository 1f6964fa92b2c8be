"""What training takes of torch that is not public: an update that changes it shows here."""

import pytest
import torch
from conftest import same

from faeval_core.training import torch_private

pytestmark = pytest.mark.numerical


def steps(update, optimizer):
    """Weights after three steps by a fused kernel, and by the optimiser of torch that it is of."""
    start = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients = torch.randn(3, 5, 3, generator=torch.Generator().manual_seed(1), dtype=start.dtype)
    mine, theirs = start.clone(), start.clone().requires_grad_()
    reference = optimizer([theirs])
    for g in gradients:
        update(mine, g)
        theirs.grad = g.clone()
        reference.step()
    return mine, theirs.detach()


def test_fused_adamw_is_torchs():
    first, second, count = torch.zeros(5, 3).double(), torch.zeros(5, 3).double(), torch.zeros(())
    lr = torch.tensor(0.01, dtype=torch.float64)

    def update(weights, g):
        count.add_(1)
        adam = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False}
        plain = {"lr": lr, "weight_decay": 0.1, "maximize": False}
        torch_private.fused_adamw([weights], [g], [first], [second], [], [count], **adam, **plain)

    mine, theirs = steps(update, lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1))
    same(mine, theirs)


def test_fused_sgd_is_torchs():
    moment, lr = torch.zeros(5, 3).double(), torch.tensor(0.01, dtype=torch.float64)

    def update(weights, g):
        rest = {"momentum": 0.9, "dampening": 0.0, "nesterov": False, "is_first_step": False}
        plain = {"lr": lr, "weight_decay": 0.1, "maximize": False}
        torch_private.fused_sgd([weights], [g], [moment], **rest, **plain)

    mine, theirs = steps(update, lambda p: torch.optim.SGD(p, 0.01, 0.9, weight_decay=0.1))
    same(mine, theirs)


def test_what_compiling_raises_is_an_exception_of_its_own():
    def fails(x):
        raise ZeroDivisionError("of the function")

    kind = torch_private.compile_errors()
    assert issubclass(kind, Exception) and not issubclass(ZeroDivisionError, kind)
    broken = torch.compile(torch.sin, backend=lambda module, inputs: 1 / 0)
    with pytest.raises(kind):
        broken(torch.ones(2))
    torch.compiler.reset()
