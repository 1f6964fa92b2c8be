"""What a model or a method declares: names, shapes, draws, rates."""

import difflib
import math
import warnings

import torch

from ..ground.streams import stream
from ..methods.base import RATES, Method
from ..methods.local import LocalMethod
from ..methods.shared import RuleError
from ..training import build
from .changes import own

# similarity from which on a name is taken for a misspelt one: 'credits' and 'creidt', not 'heads'
# for 'heard'
ALIKE = 0.82


def check_model(cfg, pixels) -> None:
    """RuleError where the model of a config is not the stack that training takes it for: names of
    parameters, shapes of its states and logits on a batch.
    """
    _, model = build(cfg, pixels.data.image_shape, len(pixels.data.classes))
    told = f"model {cfg.model!r}"
    p = {k: v.to(pixels.device) for k, v in model.init(stream(cfg.seed, "init")).items()}
    parts = ("embed.", *(f"blocks.{l}." for l in range(model.depth)), "readout.")
    if outside := [k for k in p if not k.startswith(parts)]:
        way_out = f"names begin with {', '.join(parts)}, which say what trains them"
        raise RuleError(f"{told} has a parameter {outside[0]!r}; {way_out}")
    if len(model.levels) != model.depth + 1:
        way_out = "self.levels holds the shape of each state h_0..h_L of one sample"
        raise RuleError(f"{told} of depth {model.depth} has {len(model.levels)} levels; {way_out}")
    x, _ = pixels.subset("train", min(cfg.batch_size, pixels.n))
    with torch.no_grad():
        hs = model.states(p, model.embed(p, x, {}), stats={})
        logits = model.readout(p, hs[-1])
    for l, (h, level) in enumerate(zip(hs, model.levels)):
        if tuple(h.shape) != (len(x), *level):
            made = f"makes a state of shape {tuple(h.shape)} at level {l}"
            raise RuleError(f"{told} {made}, whose entry in self.levels says {tuple(level)}")
    if tuple(logits.shape) != (wanted := (len(x), model.classes)):
        raise RuleError(f"{told} makes logits of shape {tuple(logits.shape)}, not {wanted}")
    for name, found in {**{f"h_{l}": h for l, h in enumerate(hs)}, "logits": logits}.items():
        if not found.isfinite().all():
            raise RuleError(f"{told} at its initial values: {name} is not finite")


def check_names(kind) -> None:
    """Every method has a credit, for the diagnostics at least; a name that is close to a hook's may
    be misspelt.
    """
    hooks = [name for name in dir(LocalMethod) if not name.startswith("_")]
    added = {
        name for part in kind.__mro__ if not own(part) and part is not object for name in vars(part)
    }
    added = sorted(name for name in added if not name.startswith("_") and name not in hooks)
    near = {name: difflib.get_close_matches(name, hooks, 1, ALIKE) for name in added}
    inherited = {
        name
        for part in kind.__mro__
        if own(part) and part not in (Method, LocalMethod)
        for name in vars(part)
    }
    meant = {name: hook[0] for name, hook in near.items() if hook and name not in inherited}
    for hook in ("credit", "surrogate"):
        if getattr(kind, hook) is getattr(Method, hook):
            told = next(
                (
                    f"; did you mean it by {name!r}?"
                    for name, other in meant.items()
                    if other == hook
                ),
                "",
            )
            raise RuleError(f"method {kind.name!r} has no `{hook}`{told}")
    for name, hook in meant.items():
        warnings.warn(
            f"method {kind.name!r}: faeval calls no {name!r}; did you mean {hook!r}?", stacklevel=2
        )


def check_code_kept(cfg) -> None:
    """What a rule reads besides its arguments names its runs, so that it must not change it."""
    if cfg.code != cfg.code_now():
        raise RuleError(
            f"method {cfg.method!r} changes a global, class attribute or default that it reads, "
            "such as a counter, and so is another rule at each step; keep what changes in the "
            "state `s`, through init_state and at_epoch"
        )


def check_draws(method, batch) -> None:
    """RuleError for `draws` that is no number of draws, or of a rule without noise."""
    told = f"method {method.name!r} declares draws = {method.draws!r}"
    if type(method.draws) is not int or method.draws < 1:
        raise RuleError(f"{told}; it is the number of draws that a diagnosis averages over")
    if method.draws > 1 and not method.noise(batch):
        raise RuleError(f"{told}, but its `noise` names nothing to draw; name there what is random")


def check_rates(method, cfg, p) -> None:
    """RuleError for rates that are not finite factors of at least 0 of what `rates` may name."""
    for k in (k for k in p if method.trains(k)):
        rates = method.rates(cfg, k)
        told = f"rates of method {method.name!r} are {rates!r} for {k}"
        sound = isinstance(rates, dict) and set(rates) <= set(RATES)
        if not sound or not all(
            isinstance(v, (int, float)) and 0 <= v < math.inf for v in rates.values()
        ):
            wanted = " and ".join(map(repr, RATES))
            raise RuleError(f"{told}; give a dict of factors of at least 0, by {wanted}")
