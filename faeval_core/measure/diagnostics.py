"""Per-level measurements of one trained (or untrained) member: SCIENCE section 4.

Index l = 0..L is the level of the residual stream; a_l is compared with g_l there, and trains the
block below it (level L trains block L-1, level 0 the embedding). `gamma_block[l]` is the study's
own reading: the credit that trains block l against the gradient at that block's input, g_l.
Undefined values are None, with the reason beside them.
"""

import math

import torch

from ..methods.local import LocalMethod
from ..methods.tensors import normalise
from .cosines import agreement, cosine, cosine_clamped, defined_mean
from .loss_changes import (
    DIRECTIONS,
    EPS_RHO,
    ETA_FROZEN,
    ETA_NUDGE,
    correlations,
    nudge,
    nudges,
    rho,
)

__all__ = [
    "BATCH",
    "DIRECTIONS",
    "EPS_RHO",
    "ETA_FROZEN",
    "ETA_NUDGE",
    "RESCALE",
    "STABILITY_BATCHES",
    "agreement",
    "alignment",
    "alike",
    "correlations",
    "cosine",
    "cosine_clamped",
    "credit_of",
    "credited",
    "defined_mean",
    "diagnose",
    "gamma",
    "gradients",
    "growth",
    "mean_gradient",
    "median_norm",
    "norms",
    "nudge",
    "nudges",
    "own_gradient",
    "rescaled",
    "rho",
    "stability",
    "update_alignment",
]

BATCH = 128  # g_l is the gradient of the mean cross-entropy over this many samples
STABILITY_BATCHES = 8


def gradients(method, p, x, y):
    """States h_0..h_L, logits and gradients g_0..g_L of the mean CE over batches of 128, in the
    precision of p and x.
    """
    model = method.model
    with torch.enable_grad():
        h0 = model.embed({k: v.detach() for k, v in p.items()}, x, {}).requires_grad_()
        hs = model.states(p, h0, stats={})
        logits = model.readout(p, hs[-1])
        gs = torch.autograd.grad(model.losses(logits, y).sum() / BATCH, hs)
    return [h.detach() for h in hs], logits.detach(), gs


def stability(method, p, x, y):
    """Mean pairwise cosine of the mean gradient directions of 8 disjoint batches of 128 at level
    L/2, or None.
    """
    if len(y) < STABILITY_BATCHES * BATCH:
        return None
    batches = list(zip(x.split(BATCH), y.split(BATCH)))[:STABILITY_BATCHES]
    middle = [gradients(method, p, *batch)[2][method.model.depth // 2] for batch in batches]
    return agreement(torch.stack([g.double().mean(0).flatten() for g in middle]))


def median_norm(method, *tensors):
    """Median over samples and positions of the norm, or the product of norms; on several positions,
    of those above zero.
    """
    found = math.prod(method.model.vectors(t).double().norm(dim=-1) for t in tensors)
    found = found[found > 0] if found.shape[1] > 1 else found
    return found.median().item() if found.numel() else 0.0


def norms(method, p, x, y):
    """The cheap part, for every epoch: medians of ‖h_l‖ and ‖g_l‖ over the batch, growth."""
    hs, _, gs = gradients(method, p, x, y)
    h = [median_norm(method, t) for t in hs]
    return {"h_norm": h, "g_norm": [median_norm(method, g) for g in gs], "growth": growth(h)}


def growth(h_norm):
    """max_l ‖h_{l+1}‖ / ‖h_l‖ of the median norms."""
    return max(b / a for a, b in zip(h_norm, h_norm[1:])) if all(h_norm[:-1]) else None


def credit_of(method, p, s, x, hs, logits, y, draws=()):
    """a_0..a_L of a diagnosis; where there are `draws` of the method's noise, the mean over them,
    in place of that which s holds.
    """
    if not draws:
        return method.ask("credit", x, p, s, hs, logits, y)
    total = [torch.zeros_like(h) for h in hs]
    for noise in draws:
        drawn = {k: v.to(logits.dtype) for k, v in noise.items()}
        credit = method.ask("credit", x, p, s | drawn, hs, logits, y)
        total = [a + b for a, b in zip(total, credit)]
    return [a / len(draws) for a in total]


def alignment(method, p, s, y, hs, logits, gs, x=None, draws=()):
    """Γ_l exact and clamped from what `gradients` gave, in the net's own precision and with its
    training-time feedback. x: for a credit that asks for it; draws: see `credit_of`.
    """
    a = credit_of(method, p, s, x, hs, logits, y, draws)
    # `block`: what trains block l against g_l
    same, block = list(zip(a, gs)), list(zip(method.heard(a), gs))
    read = {"gamma": (same, cosine), "gamma_clamped": (same, cosine_clamped)}
    read |= {"gamma_block": (block, cosine), "gamma_block_clamped": (block, cosine_clamped)}
    found = {
        name: [gamma(method, u, g, cos) for u, g in pairs] for name, (pairs, cos) in read.items()
    }
    return found | {"credit_rms": [u.double().square().mean().sqrt().item() for u in a]}


def gamma(method, credit, g, cos=cosine):
    """Mean cosine of credit and gradient over the positions whose gradient is not zero; a zero
    credit there counts as 0.

    None where all of the credit or of the gradient is zero, or the two are of different sizes.
    """
    if credit.shape != g.shape or not credit.any():
        return None
    u, v = method.model.vectors(credit), method.model.vectors(g)
    found = cos(u, v)
    if cos is cosine or u.shape[1] > 1:
        found = found.where(u.abs().amax(-1) > 0, 0.0)[v.abs().amax(-1) > 0]
    return defined_mean(found)


def own_gradient(method, p, s, x, y, names) -> dict:
    """Name -> gradient of the method's scalar on a batch; None where the scalar does not reach a
    parameter.
    """
    leaves = {k: p[k].detach().requires_grad_() for k in names}
    scalar, _ = method.surrogate(p | leaves, s, x, y)
    return dict(zip(names, torch.autograd.grad(scalar, list(leaves.values()), allow_unused=True)))


def mean_gradient(method, p, s, x, y, names, draws=()) -> dict:
    """`own_gradient`; where there are `draws` of the method's noise, its mean over them."""
    if not draws:
        return own_gradient(method, p, s, x, y, names)
    total = dict.fromkeys(names)
    for noise in draws:
        for k, g in own_gradient(method, p, s | noise, x, y, names).items():
            total[k] = g if total[k] is None else total[k] + g
    return {k: None if g is None else g / len(draws) for k, g in total.items()}


def credited(method, p, s, x, y, names) -> dict:
    """Name -> gradient of Σ_l <f_l, a>, a being the credit that a diagnosis reads, for blocks'
    parameters of a batch: the update of the blocks, but for penalties, where the rule trains by its
    credit.
    """
    leaves = {k: p[k].detach().requires_grad_() for k in names}
    _, fs, hs = method.forward(p | leaves, s, x, {}, local=True)
    logits = method.model.readout(p, hs[-1]).detach()
    hs = [h.detach() for h in hs]
    with torch.no_grad():
        credit = credit_of(method, p, s, x, hs, logits, y)
    if getattr(method, "learns_elsewhere", False):
        _, fs, _ = method.elsewhere(p | leaves, p, s, x, hs, logits, y)
    heard = [normalise(a.detach(), method.cfg.credit_norm) for a in method.heard(credit)]
    scalar = LocalMethod.push(method, s, fs, heard)
    return dict(zip(names, torch.autograd.grad(scalar, list(leaves.values()), allow_unused=True)))


def update_alignment(method, p, s, step, x, y, draws=()):
    """Cosine with BP's parameter gradient, per part (embed, each block, readout): of the method's
    own gradient on the same batch ('update_cos'), and of the optimiser's running step ('step_cos',
    None before the first). None: not trained.

    'credit_cos': per block, the cosine of the method's own gradient with that which its `credit`
    makes, both without
    penalties: 1 where Γ is of what trains the net.

    draws: of the method's noise, over which 'update_cos' averages its gradient.
    """
    model, own = method.model, mean_gradient(method, p, s, x, y, list(p), draws)
    exact = torch.func.grad(lambda q: model.loss(model.logits(q, model.embed(q, x, {}), 0, {}), y))(
        p
    )
    blocks = [k for k in p if k.startswith("blocks.") and method.trains(k)]
    bare = s | {k: torch.zeros_like(s[k]) for k in ("penalty", "penalty_h0") if k in s}
    free = own_gradient(method, p, bare, x, y, blocks) if blocks else {}
    made = credited(method, p, s, x, y, blocks) if blocks else {}

    def defined(k, *gradients):
        return all(found[k] is not None for found in (own, *gradients))

    def part_cosine(direction, part, against=exact):
        names = [
            k
            for k in direction
            if k.startswith(part) and method.trains(k) and defined(k, direction, against)
        ]
        u, v = ([t[k].flatten() for k in names] for t in (direction, against))
        return defined_mean(cosine(torch.cat(u), torch.cat(v))[None]) if names else None

    inner = [f"blocks.{l}." for l in range(model.depth)]
    parts = ["embed.", *inner, "readout."]
    found = {
        f"{k}_cos": [part_cosine(v, part) for part in parts]
        for k, v in (("update", own), ("step", step))
    }
    return found | {"credit_cos": [part_cosine(free, part, made) for part in inner]}


# upwards: shrinking a stream brings its small levels down to LayerNorm's eps, which changes the
# function
RESCALE = 1e5


def alike(credit, again) -> bool:
    """Whether two answers of one `credit` to the same question are equal, to a thousandth of each
    level's largest entry.
    """
    return all(
        torch.allclose(a, b, rtol=0, atol=1e-3 * a.abs().max().item())
        for a, b in zip(credit, again)
    )


def rescaled(method, p, s, x, y, logits, draws=()):
    """Γ and ‖g_l‖ of the same function written with a stream 1e5 times as large: what moves here is
    the instrument.

    Feedback in place of a weight (of Kolen-Pollack, or of FA on tokens) is scaled as the weight is.
    repeatable: whether the credit, asked twice, is the same; where it is not, that Γ moves tells
    nothing.
    """
    q, t = method.model.rescaled(p, RESCALE), method.model.scaled(s, RESCALE)
    hs, others, gs = gradients(method, q, x, y)
    found = alignment(method, q, t, y, hs, others, gs, x, draws)
    change = (logits - others).abs().max().item()
    kept = {k: found[k] for k in ("gamma", "gamma_clamped", "gamma_block_clamped")}
    asked = (credit_of(method, q, t, x, hs, others, y) for _ in range(2))
    return {
        "factor": RESCALE,
        "g_norm": [median_norm(method, g) for g in gs],
        "logit_change": change,
        "repeatable": alike(*asked),
        **kept,
    }


@torch.no_grad()
def diagnose(method, p, s, probe, stability_probe, generator, draws=()) -> dict:
    """Every per-level diagnostic of one member on `probe` = (x, y); `stability_probe` holds 8
    further batches of 128.

    Lists run over levels 0..L (`gamma_block*` over blocks 0..L-1); None is undefined, see
    `undefined`. draws: of the method's noise, over which credit is averaged; then `draws` says how
    many, and `gamma_draw` is Γ of the one draw that s holds.
    """
    x, y = probe
    hs, logits, gs = gradients(method, p, x, y)
    p64 = {k: v.double() for k, v in p.items()}
    s64 = {k: v.double() if v.is_floating_point() else v for k, v in s.items()}
    hs64, logits64, gs64 = gradients(method, p64, x.double(), y)
    a64 = credit_of(method, p64, s64, x.double(), hs64, logits64, y, draws)
    parts = method.parts(p64, s64, hs64, logits64, y)
    rhos = rho(method, p64, hs64, [a64, *parts.values()], y, generator)
    nudge, nudge_raw = nudges(method, p64, hs64, a64, y)
    h_norm, g_norm = ([median_norm(method, t) for t in levels] for levels in (hs, gs))
    out = alignment(method, p, s, y, hs, logits, gs, x, draws) | {
        "gamma_fp64": [gamma(method, a, g) for a, g in zip(a64, gs64)],
        "twin": [gamma(method, g, t) for g, t in zip(gs, gs64)],
        # what skip connections give for nothing
        "gamma_copied": [gamma(method, gs[-1], g) for g in gs],
        "rho": rhos[0],
        "nudge": nudge,
        "nudge_raw": nudge_raw,
        "h_norm": h_norm,
        "g_norm": g_norm,
        "sensitivity": [median_norm(method, g, h) for g, h in zip(gs64, hs64)],
        "growth": growth(h_norm),
        "stability": stability(method, p, *stability_probe),
        "rescaled": rescaled(method, p, s, x, y, logits, draws),
    }
    if draws:
        single = credit_of(method, p, s, x, hs, logits, y)
        out |= {
            "draws": len(draws),
            "gamma_draw": [gamma(method, a, g) for a, g in zip(single, gs)],
        }
    for (name, credit), found in zip(parts.items(), rhos[1:]):
        out |= {
            f"gamma_{name}": [gamma(method, a, g) for a, g in zip(credit, gs64)],
            f"rho_{name}": found,
        }
    out |= method.measured(p, s, hs, gs, y, generator)
    zero = "is exactly zero for every sample"
    reasons = {
        "gamma": f"credit or gradient {zero}",
        "gamma_block": (f"credit or gradient {zero}, or the two levels differ in size"),
        "twin": f"the gradient {zero}",
        "rho": "all loss differences or all credits vanish",
        "growth": "a state is exactly zero",
        "stability": f"fewer than {STABILITY_BATCHES} disjoint batches of {BATCH}, or a zero mean "
        "gradient",
    }
    lacking = [
        k for k in reasons if (None in out[k] if isinstance(out[k], list) else out[k] is None)
    ]
    return out | {"undefined": {k: reasons[k] for k in lacking}}
