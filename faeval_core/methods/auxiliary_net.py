"""The net of learned credit: W_h LN(h_l) + W_s [t_l, s] → GELU → `layers` more → output."""

import torch
import torch.nn.functional as F

from ..models.base import Init
from .tensors import flat_norm


def initial(generator, sizes, code: int, hidden: int, layers: int, outputs) -> dict:
    """Its parameters: one input head for each size of level, one output head for each of `outputs`.

    code: features of the conditioning s, to which the time t_l is added.
    """
    new = Init(generator)
    shapes = {f"in{n}": (hidden, n) for n in sizes} | {"code": (hidden, 1 + code)}
    shapes |= {f"mid{i}": (hidden, hidden) for i in range(layers)}
    shapes |= {f"out{n}": (n, hidden) for n in outputs}
    for name, shape in shapes.items():
        new.uniform(f"aux.{name}", *shape)
    return new.p


def outputs(model, p, hs, code, levels: list[int], layers: int, sizes, timed=1) -> list:
    """Outputs, (rows, size), for the states hs at `levels`; timed=0 hides which level it is.

    A state may hold several copies of the batch, one after another; the code, (batch, features),
    holds the batch once. sizes: of the outputs for levels 0..L.
    """
    time = timed * torch.stack([code.new_full((1,), l) for l in levels]) / model.depth
    w_time, w_code = p["aux.code.weight"].split([1, code.shape[1]], 1)
    given = F.linear(time, w_time)[:, None] + F.linear(code, w_code, p["aux.code.bias"])
    heads = [model.linear(p, f"aux.in{h[0].numel()}", flat_norm(h)) for h in hs]
    # (levels, copies, batch, hidden)
    z = F.gelu(torch.stack(heads).unflatten(1, (-1, len(code))) + given[:, None])
    for i in range(layers):
        z = F.gelu(model.linear(p, f"aux.mid{i}", z))
    of_levels = zip(levels, z.flatten(1, 2))
    return [model.linear(p, f"aux.out{sizes[l]}", zl) for l, zl in of_levels]
