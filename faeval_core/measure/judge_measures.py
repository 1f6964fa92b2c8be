"""What is measured of a model and a credit, each with why it is undefined where it is."""

from contextlib import nullcontext
from functools import partial
from itertools import islice

import torch
from torch import nn

from ..ground.streams import stream
from . import diagnostics, protocol
from .diagnostics import BATCH, RESCALE, STABILITY_BATCHES
from .judge_levels import LevelError, first, hooked, submodules, with_first
from .judge_model import in_float64

NUMBERS_AT_ONCE = 2**25  # of the directions that ρ draws at a level: 256 MiB in float64
SAME_FUNCTION = 0.01  # change of a loss, over the largest, that may come of rounding


def alignment(stack, hs, gs, credits) -> tuple[dict, dict]:
    """(quantities, quantity -> why it is undefined, or '') in the model's own precision."""
    gamma, copied = partial(diagnostics.gamma, stack), gs[-1]
    h_norm = [diagnostics.median_norm(stack, h) for h in hs]
    ratios, no_ratio = _growth(stack.tap.names, hs, h_norm)
    known = [r for r in ratios if r is not None]
    worst = max(known, default=None)
    # one that is beyond the threshold says all; one that is not, only with the others
    growth = worst if not no_ratio or protocol.crosses("a", worst) else None
    found = {
        "gamma": [gamma(a, g) for a, g in zip(credits, gs)],
        "gamma_clamped": [gamma(a, g, diagnostics.cosine_clamped) for a, g in zip(credits, gs)],
        "gamma_copied": [gamma(copied, g) for g in gs],
        "h_norm": h_norm,
        "g_norm": [diagnostics.median_norm(stack, g) for g in gs],
        "growth_to_next": [*ratios, None],
        "growth": growth,
    }
    why = {"growth": no_ratio if growth is None else ""}
    levels = list(zip(stack.tap.names, gs))
    if zero := [name for name, g in levels if not g.any()]:
        why["gamma"] = f"the gradient is zero for every sample at {', '.join(zero)}"
    if other := [name for name, g in levels if g.shape != copied.shape]:
        told = f"levels {', '.join(other)} are of other shapes than {stack.tap.names[-1]}"
        why["gamma_copied"] = f"{told}, whose gradient is copied"
    return found, why


def _growth(names, hs, h_norm) -> tuple[list, str]:
    """(‖h_{l+1}‖ / ‖h_l‖ of neighbouring levels of one shape, why one of them is undefined)."""
    ratios, why = [], "" if len(names) > 1 else "there is one level alone"
    for l, (a, b) in enumerate(zip(hs, hs[1:])):
        if a.shape[1:] != b.shape[1:]:
            ratios.append(None)
            shapes = f"{tuple(a.shape[1:])} and {tuple(b.shape[1:])}"
            why = why or f"{names[l]} and {names[l + 1]} are of different shapes, {shapes}"
        elif not h_norm[l]:
            ratios.append(None)
            why = why or f"the state at {names[l]} is zero"
        else:
            ratios.append(h_norm[l + 1] / h_norm[l])
    return ratios, why


def stability(stack, batches) -> tuple[float | None, str]:
    """(mean pairwise cosine of the mean gradients of disjoint batches, why it is undefined)."""
    wanted = f"{STABILITY_BATCHES} disjoint batches of {BATCH}"
    if batches is None:
        if len(stack.y) < STABILITY_BATCHES * BATCH:
            told = f"x has {len(stack.y)} samples, fewer than {wanted}"
            return None, f"{told}; give stability_batches, such as a DataLoader"
        batches = zip(stack.x.split(BATCH), stack.y.split(BATCH))
    middle, directions = (len(stack.tap.names) - 1) // 2, []
    for x, y in islice(batches, STABILITY_BATCHES):
        if len(y) < BATCH:
            return None, f"stability_batches has a batch of {len(y)}; (c) is defined on {BATCH}"
        on_device = (t[:BATCH].to(stack.x.device) for t in (x, y))
        _, _, gs = stack.on(*on_device).gradients()
        directions.append(gs[middle].double().mean(0).flatten())
    if len(directions) < STABILITY_BATCHES:
        return None, f"stability_batches has {len(directions)} batches, fewer than {wanted}"
    found = diagnostics.agreement(torch.stack(directions))
    return found, "the mean gradients are zero" if found is None else ""


def by_float64(stack, gs, credits, directions) -> tuple[dict, dict]:
    """(what is measured in float64: twin, ρ and nudges; quantity -> why it is undefined, or '')."""
    nothing = [None] * len(gs)
    found = dict.fromkeys(("rho", "nudge", "nudge_raw"), nothing)
    loss = in_float64(stack.loss) if isinstance(stack.loss, nn.Module) else nullcontext()
    try:
        with in_float64(stack.network), loss:
            double = stack.doubled()
            hs64, _, gs64 = double.gradients()
            hs64, credits64 = [h.detach() for h in hs64], [a.double() for a in credits]
            found["twin"] = [diagnostics.gamma(stack, g, t) for g, t in zip(gs, gs64)]
            if stack.tap.can_resume:
                found |= _moved(double, hs64, credits64, directions)
    except (RuntimeError, TypeError) as e:  # as of a tensor that the model makes in float32
        told = f"the model does not run in float64 ({str(e).strip().splitlines()[0]})"
        return found, {"twin": told, "rho": told}
    why = {"twin": "the gradient is zero at some level" if None in found["twin"] else ""}
    if not stack.tap.can_resume:
        why["rho"] = "a function gives the levels, and from its states the model cannot go on"
    elif None in found["rho"]:
        why["rho"] = "no direction at some level changes the loss"
    return found, why


@torch.no_grad()
def _moved(stack, hs, credits, directions) -> dict:
    """ρ and nudges per level, a few samples at a time."""
    generator, found = stream(0, "rho"), {"rho": [], "nudge": [], "nudge_raw": []}
    for l, (h, a) in enumerate(zip(hs, credits)):
        size = max(1, NUMBERS_AT_ONCE // (directions * h[0].numel()))
        parts = zip(*(t.split(size) for t in (stack.x, stack.y, h, a)))
        each, moves = [], []
        for x, y, some, credit in parts:
            part = stack.on(x, y)
            told = diagnostics.correlations(part, None, l, some, [credit], y, generator, directions)
            each += told
            moves.append(
                [len(y) * move for move in diagnostics.nudge(part, None, l, some, credit, y)]
            )
        found["rho"].append(diagnostics.defined_mean(torch.cat(each)))
        for name, total in zip(("nudge", "nudge_raw"), map(sum, zip(*moves))):
            found[name].append(total / len(stack.y))
    return found


@torch.no_grad()
def enlarged(stack, credit, kept, writers) -> tuple[dict | None, str]:
    """(Γ and ‖g_l‖ of the model with a stream 1e5 times as large, why that cannot be)."""
    if not writers:
        told = "it is not known which submodules write to the residual stream"
        return None, f"{told}; name them in writers, where there is one"
    names, modules = submodules(stack.network, writers, "writers")
    ran = set()

    def enlarge(name):
        def hook(module, args, output):
            ran.add(name)
            return with_first(output, RESCALE * first(output))

        return hook

    before = stack.losses(stack.network(stack.x), stack.y)
    with hooked((m, enlarge(name)) for m, name in zip(modules, names)):
        after = stack.losses(stack.network(stack.x), stack.y)
        if idle := [name for name in names if name not in ran]:
            raise LevelError(f"writers names {idle[0]!r}, which does not run in a pass")
        change = ((after - before).abs().max() / before.abs().max()).item()
        if not change <= SAME_FUNCTION:
            told = f"a stream {RESCALE:g} times as large changes the loss by {100 * change:.2g} %"
            way_out = "it is another function without every writer, or without a last normalisation"
            return None, f"{told}: {way_out}"
        (_, gs, credits), (*_, again) = (stack.credited(credit, kept) for _ in range(2))
    return {
        "factor": RESCALE,
        "g_norm": [diagnostics.median_norm(stack, g) for g in gs],
        "loss_change": change,
        "repeatable": diagnostics.alike(credits, again),
        "gamma": [diagnostics.gamma(stack, a, g) for a, g in zip(credits, gs)],
    }, ""
