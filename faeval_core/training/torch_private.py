"""The names of torch that are not public and that training needs, each with the reason.

tests/test_torch_private.py tells when a version of torch takes one away or changes what it does.
"""

import torch

# The kernels of torch.optim's fused optimisers, without the bookkeeping around them, a quarter of
# the time of a small step; torch.optim cannot be given views of stacked tensors one member at a
# time without it.
fused_adamw = torch._fused_adamw_
fused_sgd = torch._fused_sgd_


def compile_errors() -> type[Exception]:
    """What torch.compile raises where it fails itself, and not the function that it compiles; the
    public name of it does not exist. Looked up when it is needed, as its module is slow to import.
    """
    return torch._dynamo.exc.TorchDynamoException
