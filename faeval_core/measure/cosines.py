"""Cosines of vectors, and means of what is defined."""

import torch


def cosine(u, v):
    """Exact cosine over the last axis in float64; NaN where a vector is zero."""
    # squares of 1e-200 would underflow even here
    u, v = (w / w.abs().amax(-1, keepdim=True) for w in (u.double(), v.double()))
    return (u * v).sum(-1) / (u.norm(dim=-1) * v.norm(dim=-1))


def cosine_clamped(u, v):
    """The cosine as the study takes it: in the tensors' own precision, each norm clamped to at
    least 1e-8.
    """
    return torch.cosine_similarity(u, v, dim=-1, eps=1e-8)


def defined_mean(values):
    """Mean over the defined (non-NaN) entries, or None where there is none."""
    values = values[~values.isnan()]
    return values.mean().item() if len(values) else None


def agreement(u):
    """Mean cosine between different rows of u, or None where no pair is defined."""
    c = cosine(u[:, None], u[None])
    return defined_mean(c[~torch.eye(len(u), dtype=bool, device=u.device)])
