"""A whole step of a rule, and a whole diagnosis of what it trains."""

import difflib
import warnings

import torch

from ..ground.streams import stream
from ..measure import diagnostics
from ..measure.exploit import SETTINGS
from ..measure.letters import UPHILL_AT_A_LEVEL
from ..methods.base import varied
from ..methods.shared import RuleError
from ..training import Ensemble, build, initial, noise
from ..training.measurement import auxiliary_directions
from .changes import undrawn, unmoved
from .credit import AS_DTYPE, check_levels

STEPS = 2  # of the training that is compared alone and in company

AS_AUTOGRAD = (
    "take derivatives by self.exact_credit or torch.func.grad, or inside `with "
    "torch.enable_grad():`"
)


def built(cfg, pixels):
    """(method, p, s, x, y): the initial net, its state with the noise of a step, and a batch."""

    def make():
        method, _ = build(cfg, pixels.data.image_shape, len(pixels.data.classes))
        return method, *initial(cfg, method)

    method, p, s = undrawn(cfg.method, "__init__, init_params or init_state", make)
    x, y = pixels.subset("train", min(cfg.batch_size, pixels.n))
    s |= noise(method, cfg, len(y), stream(cfg.seed, "preflight"))
    return method, *({k: v.to(pixels.device) for k, v in part.items()} for part in (p, s)), x, y


def check_step(method, cfg, p, s, x, y) -> None:
    """The gradient of the whole scalar, and what it changes in the state."""
    names = [k for k in p if method.trains(k)]
    leaves = {k: p[k].detach().requires_grad_() for k in names}
    call = unmoved(
        method, "a training step", {"p": p, "s": s}, lambda: method.surrogate(p | leaves, s, x, y)
    )
    try:
        scalar, (loss, changed) = call
    except (TypeError, ValueError) as e:
        raise RuleError(
            f"surrogate of method {cfg.method!r} must return (scalar, (loss, changed tensors))"
        ) from e
    grads = {}
    if names and scalar.requires_grad:
        found = torch.autograd.grad(scalar, list(leaves.values()), allow_unused=True)
        grads = {f"the gradient of {k}": g for k, g in zip(names, found) if g is not None}
        idle = [k for k, g in zip(names, found) if g is None and k.startswith("aux.")]
        if idle:
            told = f"method {cfg.method!r}: no term of its scalar reaches {', '.join(idle)}"
            warnings.warn(f"{told}: what is not learnt stays as it began", stacklevel=2)
    for k, v in changed.items():
        like = s.get(k, p.get(k))
        if like is None:
            near = difflib.get_close_matches(k, [*s, *p], 1)
            told = f"; did you mean {near[0]!r}?" if near else "; begin it in init_state"
            raise RuleError(
                f"method {cfg.method!r} changes {k!r}, which its state does not hold{told}"
            )
        if v.shape != like.shape:
            raise RuleError(
                f"method {cfg.method!r} changes {k!r} from shape {tuple(like.shape)} to "
                f"{tuple(v.shape)}"
            )
    for name, v in (
        grads | {f"the changed {k}": v for k, v in changed.items()} | {"the loss": loss}
    ).items():
        if not v.isfinite().all():
            raise RuleError(
                f"in the first training step of method {cfg.method!r}, {name} is not finite"
            )


def check_diagnosis(method, cfg, p, s, x, y, pixels) -> None:
    """Credit in float64 without gradients; then all diagnostics, with the rescaling; and a step of
    each kind of exploitation.
    """
    when = "in a diagnosis, which is in float64 and without gradients,"
    p64, s64 = (
        {k: v.double() if v.is_floating_point() else v for k, v in part.items()} for part in (p, s)
    )
    hs, logits, _ = diagnostics.gradients(method, p64, x.double(), y)
    try:
        with torch.no_grad():
            credit = method.ask("credit", x.double(), p64, s64, list(hs), logits, y)
    except Exception as e:
        way_out = AS_AUTOGRAD if "grad" in str(e) else AS_DTYPE
        told = f"credit of method {cfg.method!r} {when} fails ({type(e).__name__}: {e})"
        raise RuleError(f"{told}; {way_out}") from e
    check_levels(method, credit, hs, when)
    ensemble = Ensemble([cfg], pixels, driver="loop")
    try:
        auxiliary_directions(ensemble, 0)
        found = ensemble.diagnose(0)
        for rule, norm, _ in SETTINGS if cfg.exploit else ():
            names = [
                k for k in p if k.startswith("blocks.") and not k.endswith(method.model.statistics)
            ]
            diagnostics.own_gradient(varied(method, rule=rule, credit_norm=norm), p, s, x, y, names)
    except Exception as e:
        raise RuleError(
            f"method {cfg.method!r} trains, but its diagnosis fails ({type(e).__name__}: {e})"
        ) from e
    against = [
        l
        for l, value in enumerate(found["gamma"])
        if value is not None and value < UPHILL_AT_A_LEVEL
    ]
    if against:
        told = (
            f"credit of method {cfg.method!r} points against BP's gradient at level "
            f"{', '.join(map(str, against))}"
        )
        values = ", ".join(f"{found['gamma'][l]:.2f}" for l in against)
        warnings.warn(
            f"{told} of the initial net (Γ {values}); check the sign: it is that of the gradient",
            stacklevel=2,
        )
