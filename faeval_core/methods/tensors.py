"""Products, sizes and normalisations of states and credit, sample by sample."""

import torch
import torch.nn.functional as F


def inner(u, v):
    """Sum of elementwise products of two tensors of one shape, in the wider of their types
    (autocast leaves some in bfloat16).
    """
    wider = torch.promote_types(u.dtype, v.dtype)
    return torch.dot(u.reshape(-1).to(wider), v.reshape(-1).to(wider))


def rms(a):
    """RMS of each sample, (batch, 1, …)."""
    return a.square().mean(tuple(range(1, a.ndim)), keepdim=True).sqrt()


def unit(a):
    """Each sample over its RMS, whatever its scale; zero stays zero."""
    return a / rms(a).clamp_min(1e-30)


def flat_norm(h):
    """LayerNorm of states as one long vector each."""
    return F.layer_norm(h.flatten(1), (h[0].numel(),))


def normalise(a, how: str):
    """One level's credit over its RMS + 1e-6: over all but the batch ('sample_rms') or all
    ('batch_rms'); 'raw' as it is.

    Credit here is on the scale of the per-sample gradient δ, batch times that of g_l, and so is the
    1e-6. 'sample_rms_g' adds 1e-6 on the scale of g_l: where gradients are small, it then leaves
    small credit small.
    """
    if how == "raw":
        return a
    found = a.square().mean().sqrt() if how == "batch_rms" else rms(a)
    return a / (found + 1e-6 * (len(a) if how == "sample_rms_g" else 1))
