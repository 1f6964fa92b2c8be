"""Credit against what the loss does: along random directions (ρ), and along the credit itself."""

import torch

from ..methods.tensors import rms
from .cosines import cosine, defined_mean

DIRECTIONS, EPS_RHO = 32, 1e-3
ETA_NUDGE, ETA_FROZEN = 0.01, 0.003  # the latter where estimators are measured on a fixed net


def correlations(method, p64, l, h, credits, y, generator, directions=DIRECTIONS) -> list:
    """For each of `credits` of level l: each sample's Pearson correlation, (batch,), over random
    unit directions v, of <a_l, εv> with L(h_l + εv) - L(h_l). Float64; NaN where the differences
    vanish.
    """
    v = torch.randn(
        directions, *h.shape, dtype=torch.float64, generator=generator, device=generator.device
    ).to(h.device)
    v = v / v.flatten(2).norm(dim=-1).view(*v.shape[:2], *[1] * (v.ndim - 2))
    base = method.tail_losses(p64, h, y, l)
    true = torch.stack([method.tail_losses(p64, h + EPS_RHO * u, y, l) - base for u in v])
    found = []
    for credit in credits:
        told = EPS_RHO * (v * credit).flatten(2).sum(-1)
        found.append(cosine((true - true.mean(0)).T, (told - told.mean(0)).T))
    return found


def rho(method, p64, hs, credits, y, generator) -> list[list]:
    """For each of `credits`, per level: mean over the batch of `correlations`, over 32 directions;
    None where the differences of every sample vanish.
    """
    levels = [
        correlations(method, p64, l, h, [credit[l] for credit in credits], y, generator)
        for l, h in enumerate(hs)
    ]
    return [[defined_mean(each) for each in found] for found in zip(*levels)]


def nudge(method, p64, l, h, credit, y) -> tuple[float, float]:
    """Mean loss change after h_l <- h_l - η credit, float64: credit over its per-sample RMS, and
    raw.
    """
    eta = ETA_NUDGE if method.cfg.train_net else ETA_FROZEN
    before = method.tail_losses(p64, h, y, l)

    def change(step):
        return (method.tail_losses(p64, h - eta * step, y, l) - before).mean().item()

    return change(credit / rms(credit).clamp_min(1e-300)), change(credit)


def nudges(method, p64, hs, credit, y) -> tuple[list[float], list[float]]:
    """`nudge` per level: credit over its per-sample RMS, and raw."""
    found = [nudge(method, p64, l, h, a, y) for l, (h, a) in enumerate(zip(hs, credit))]
    return [normalised for normalised, _ in found], [raw for _, raw in found]
