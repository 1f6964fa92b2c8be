"""Finite differences of the loss along directions at every level."""

import torch

from .learned import TINY


def norm(v):
    """Norms of directions (M, batch, …), in a shape that divides them."""
    return v.square().sum(tuple(range(2, v.ndim)), keepdim=True).sqrt()


def slopes(model, p, hs, y, directions, step, one_sided: bool, relative: bool) -> list[tuple]:
    """Per level: unit directions v (M, batch, …) and the loss's finite differences along them over
    ε, (M, batch).

    hs: states (batch, *level shape) of levels 0..L. directions: of each level, (M, batch, …).
    relative: ε is `step` times the norm of the state, else `step` itself. Displaced copies of all
    levels pass through a block together.
    """
    moved, displaced = None, []
    for l, (h, v) in enumerate(zip(hs, directions)):
        v = v / norm(v)
        size = h.square().sum(tuple(range(1, h.ndim)), keepdim=True).sqrt()
        eps = step * (size if relative else torch.ones_like(size))
        displaced.append((v, eps.flatten() * (1 if one_sided else 2)))
        copies = [h + eps * v] if one_sided else [h + eps * v, h - eps * v]
        earlier = [] if moved is None else [moved]
        moved = torch.cat([c.flatten(0, 1) for c in copies] + earlier)
        if l < model.depth:
            moved = model.add(moved, model.block(p, l, moved, {}))
    labels = y.repeat(len(moved) // len(y))
    losses = model.losses(model.readout(p, moved), labels).view(-1, len(y))
    # (level, M, batch), up and down
    sides = losses.view(len(hs), 1 if one_sided else 2, -1, len(y)).flip(0).unbind(1)
    base = model.losses(model.readout(p, hs[-1]), y) if one_sided else sides[1]
    return [(v, change / over) for (v, over), change in zip(displaced, sides[0] - base)]


def correlation(slope, exact) -> float | None:
    """Correlation of two tensors of one shape over all entries; None where it is undefined."""
    pair = torch.stack([slope, exact]).flatten(1).double()
    pair = pair / pair.abs().amax(1, keepdim=True).clamp_min(TINY)
    centred = pair - pair.mean(1, keepdim=True)
    corr = (centred[0] @ centred[1] / (centred[0].norm() * centred[1].norm())).item()
    return corr if corr == corr else None


def quality(gs, steps) -> dict:
    """How good the finite differences of `slopes` are, per level: `fd_zero`, the share of them that
    is exactly zero, and `fd_corr`, their correlation with the derivatives by the gradients gs.
    """
    pairs = [(slope, (v * g).flatten(2).sum(-1)) for g, (v, slope) in zip(gs, steps)]
    return {
        "fd_zero": [(slope == 0).double().mean().item() for slope, _ in pairs],
        "fd_corr": [correlation(slope, exact) for slope, exact in pairs],
    }
