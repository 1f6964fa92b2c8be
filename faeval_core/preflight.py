"""Rules of a user's own on the initial net, before they train: a mistake shows within seconds, and
costs nothing.

One step in float32, one diagnosis in float64 without gradients and one rescaling, alone and in
company. What would make a result wrong, or fail at the end, is a RuleError; what may be meant is a
warning.
"""

import difflib
import random
import types
import warnings
from copy import copy
from dataclasses import fields
from dataclasses import replace as with_fields
from functools import partial

import numpy as np
import torch

from . import data, diagnostics
from .config import RunConfig, stream
from .exploit import SETTINGS
from .methods import METHODS
from .methods.base import LocalMethod, Method, RuleError, Shared, SharedConfig
from .models import MODELS
from .training import Ensemble, build, initial, noise

STEPS = 2  # of the training that is compared alone and in company
# similarity from which on a name is taken for a misspelt one: 'credits' and 'creidt', not 'heads'
# for 'heard'
ALIKE = 0.82
UPHILL = -0.5  # Γ of the initial net below which credit is likely to have the wrong sign
# before a global generator that has moved is the rule's doing, rather than that of another thread
ATTEMPTS = 3
# by a surrogate
IGNORABLE = (
    "embedding",
    "credit_norm",
    "norm_embedding",
    "credit_level",
    "rule",
    "penalty_reduction",
)
AS_AUTOGRAD = (
    "take derivatives by self.exact_credit or torch.func.grad, or inside `with "
    "torch.enable_grad():`"
)
AS_DTYPE = (
    "make what credit adds in the dtype and on the device of logits, as in F.one_hot(y, "
    "classes).to(logits.dtype)"
)
PASSED = set()  # (signature, code, device) of the rules that this process has found sound


def faults(configs, device="cpu") -> dict[RunConfig, Exception]:
    """Config -> what is wrong with its rule or model, for those of `configs` that are not faeval's
    own.

    One check for each signature and code, of which this process makes none twice once it is passed.
    """
    groups = {}
    for c in configs:
        is_own = own(METHODS[c.method]) and own(MODELS[c.model])
        if not is_own and (c.signature, c.code, str(device)) not in PASSED:
            groups.setdefault(c.signature, []).append(c)
    found = {}
    for group in groups.values():
        try:
            images = few(data.load(group[0].dataset), group[0].batch_size, device)
            if not own(MODELS[group[0].model]):
                check_model(group[0], images)
            if not own(METHODS[group[0].method]):
                check(group, images)
        except Exception as e:
            found |= dict.fromkeys(group, e)
        else:
            PASSED.update((c.signature, c.code, str(device)) for c in group)
    return found


def own(thing) -> bool:
    """Whether a class or function is faeval's own."""
    return thing.__module__.startswith("faeval_core.")


def few(images, batch: int, device) -> data.Pixels:
    """As many of the images as `check` needs."""
    train, test = max(STEPS * batch, diagnostics.BATCH), diagnostics.BATCH
    splits = {"train_x": train, "train_y": train, "test_x": test, "test_y": test}
    return data.Pixels(
        with_fields(images, **{k: getattr(images, k)[:n] for k, n in splits.items()}), device
    )


def check(configs, pixels) -> None:
    """Raise RuleError for a fault of the rule of `configs`, which are of one signature; warn of
    what is likely to be one.
    """
    cfg = configs[0]
    check_names(METHODS[cfg.method])
    method, p, s, x, y = built(cfg, pixels)
    check_credit(method, p, s, x, y)
    check_step(method, cfg, p, s, x, y)
    check_diagnosis(method, cfg, p, s, x, y, pixels)
    check_company(configs, pixels)
    check_reads(cfg, p, s, x, y, pixels)
    check_code_kept(cfg)


# -- a model


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


# -- the class


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


# -- parts of a step


def built(cfg, pixels):
    """(method, p, s, x, y): the initial net, its state with the noise of a step, and a batch."""

    def make():
        method, _ = build(cfg, pixels.data.image_shape, len(pixels.data.classes))
        return method, *initial(cfg, method)

    method, p, s = undrawn(cfg.method, "__init__, init_params or init_state", make)
    x, y = pixels.subset("train", min(cfg.batch_size, pixels.n))
    s |= noise(method, cfg, len(y), stream(cfg.seed, "preflight"))
    return method, *({k: v.to(pixels.device) for k, v in part.items()} for part in (p, s)), x, y


def generators() -> dict[str, bytes]:
    """State of the generators that all code of a process shares."""
    kind, keys, position, *_ = np.random.get_state()
    found = {
        "torch's": torch.get_rng_state().numpy().tobytes(),
        "numpy's": keys.tobytes() + bytes(str(position), "ascii"),
    }
    found["Python's"] = repr(random.getstate()).encode()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found["CUDA's"] = torch.cuda.get_rng_state().numpy().tobytes()
    return found


def undrawn(name, where, call):
    """What `call` returns; RuleError where it draws from a generator that is not its own."""
    for _ in range(ATTEMPTS):
        before = generators()
        found = call()
        moved = [k for k, v in generators().items() if k in before and before[k] != v]
        if not moved:
            return found
    told = (
        f"method {name!r} draws from {' and '.join(moved)} global generator in {where}, so "
        "that runs depend on one another"
    )
    raise RuleError(
        f"{told}; draw from the generator that init_state and init_params receive, or name the "
        "numbers in `noise`"
    )


def held(value, path="", seen=None) -> dict:
    """Place -> content of all that a value holds: tensors and arrays copied, containers and objects
    taken apart.
    """
    seen = set() if seen is None else seen
    if isinstance(value, torch.Tensor):
        return {path: value.detach().clone()}
    if isinstance(value, np.ndarray):
        return {path: value.copy()}
    if isinstance(value, torch.Generator):
        return {path: value.get_state()}
    if isinstance(value, np.random.Generator):
        return {path: repr(value.bit_generator.state)}
    if isinstance(value, random.Random):
        return {path: repr(value.getstate())}
    if (
        isinstance(value, (type, types.FunctionType, types.ModuleType, types.MethodType))
        or id(value) in seen
    ):
        return {}
    seen.add(id(value))
    if isinstance(value, dict):
        parts = {f"{path}[{k!r}]": v for k, v in value.items()}
    elif isinstance(value, (list, tuple)):
        parts = {f"{path}[{i}]": v for i, v in enumerate(value)}
    elif hasattr(value, "__dict__"):
        parts = {f"{path}.{k}": v for k, v in vars(value).items()}
    else:
        return {path: repr(value)}
    found = {}
    for place, part in parts.items():
        found |= held(part, place, seen)
    return found | {f"the entries of {path}": repr(sorted(parts))}


def moved(before, after) -> str | None:
    """The first place whose content is another than before."""
    for place in (*before, *(k for k in after if k not in before)):
        a, b = before.get(place), after.get(place)
        if type(a) is not type(b):
            return place
        if isinstance(a, torch.Tensor):
            same = (
                a.shape == b.shape
                and a.dtype == b.dtype
                and torch.equal(a.nan_to_num(), b.nan_to_num())
            )
        else:
            same = np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b
        if not same:
            return place
    return None


def unmoved(method, where, given, call):
    """What `call` returns; RuleError where it edits what it is given, or the method or its
    class.
    """
    kinds = [part for part in type(method).__mro__ if not own(part) and part is not object]

    def held_now():
        found = held(given | {"self": vars(method)})
        for kind in kinds:
            values = {
                k: v for k, v in vars(kind).items() if not k.startswith("__") and not callable(v)
            }
            found |= held(values, f"[{kind.__name__!r}]")
        return found

    before = held_now()
    found = call()
    if place := moved(before, held_now()):
        head, *rest = place.split("]", 1)
        place = head.replace("['", "").rstrip("'") + "".join(rest)
        told = f"{where} of method {method.name!r} edits {place} in place"
        raise RuleError(
            f"{told}; make a new tensor, and keep what is to last in the state: auxiliary "
            "returns its changes"
        )
    return found


def check_levels(method, credit, hs, when) -> None:
    """RuleError where credit is not one finite tensor for each level, like its state."""
    told, wanted = (
        f"credit of method {method.name!r} {when}",
        f"it needs one tensor for each of the levels 0..{len(hs) - 1}",
    )
    if not isinstance(credit, (list, tuple, torch.Tensor)):
        raise RuleError(f"{told} is of type {type(credit).__name__}; {wanted}, in a list")
    if len(credit) != len(hs):
        raise RuleError(f"{told} has {len(credit)} levels; {wanted}")
    for l, (a, h) in enumerate(zip(credit, hs)):
        if not isinstance(a, torch.Tensor):
            raise RuleError(
                f"{told} is of type {type(a).__name__} at level {l}; {wanted}, as "
                "torch.as_tensor(a).to(hs[l])"
            )
        for name in ("shape", "dtype", "device"):
            found, like = (
                tuple(v) if name == "shape" else v for v in (getattr(a, name), getattr(h, name))
            )
            if found != like:
                way_out = (
                    "one number for each of its features and samples"
                    if name == "shape"
                    else AS_DTYPE
                )
                raise RuleError(
                    f"{told} has {name} {found} at level {l}, whose state has {like}; {way_out}"
                )
        if not a.isfinite().all():
            samples = (~a.isfinite()).flatten(1).any(1).sum().item()
            where = f"at level {l}, for {samples} of {len(a)} samples"
            raise RuleError(f"{told} is not finite {where}; look for a division by zero there")


def check_credit(method, p, s, x, y) -> None:
    """Credit of a training step, twice: it changes nothing and depends on nothing but what it is
    given.
    """
    hs, logits, _ = diagnostics.gradients(method, p, x, y)
    given = {"p": p, "s": s, "hs": hs, "logits": logits, "y": y}

    def called():
        return undrawn(method.name, "credit", lambda: method.credit(p, s, list(hs), logits, y))

    first, second = (unmoved(method, "credit", given, called) for _ in range(2))
    check_levels(method, first, hs, "in a training step")
    for l, (a, b) in enumerate(zip(first, second)):
        if not torch.equal(a, b):
            told = (
                f"credit of method {method.name!r} differs at level {l} when it is called "
                "twice on the same batch"
            )
            raise RuleError(
                f"{told}; name the random numbers that it needs in `noise`, and keep what is "
                "to last in the state"
            )
    heard = set(method.heard(range(len(hs)))) | ({0} if method.cfg.embedding == "rule" else set())
    silent = [l for l, a in enumerate(first) if l in heard and not a.any()]
    if silent and isinstance(method, LocalMethod):
        told = (
            f"credit of method {method.name!r} is zero at level "
            f"{', '.join(map(str, silent))} of the initial net"
        )
        warnings.warn(f"{told}: what it trains learns nothing there", stacklevel=2)


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
            credit = method.credit(p64, s64, list(hs), logits, y)
    except Exception as e:
        way_out = AS_AUTOGRAD if "grad" in str(e) else AS_DTYPE
        told = f"credit of method {cfg.method!r} {when} fails ({type(e).__name__}: {e})"
        raise RuleError(f"{told}; {way_out}") from e
    check_levels(method, credit, hs, when)
    ensemble = Ensemble([cfg], pixels, driver="loop")
    try:
        ensemble.auxiliary_directions(0)
        found = ensemble.diagnose(0)
        for rule, norm, _ in SETTINGS if cfg.exploit else ():
            names = [
                k for k in p if k.startswith("blocks.") and not k.endswith(method.model.statistics)
            ]
            diagnostics.own_gradient(method.varied(rule=rule, credit_norm=norm), p, s, x, y, names)
    except Exception as e:
        raise RuleError(
            f"method {cfg.method!r} trains, but its diagnosis fails ({type(e).__name__}: {e})"
        ) from e
    against = [l for l, value in enumerate(found["gamma"]) if value is not None and value < UPHILL]
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


def check_company(configs, pixels) -> None:
    """A few steps alone, and between two other runs of the same signature: the same, to the bit."""
    if pixels.device.type != "cpu":
        return  # where kernels may round otherwise from one tensor to the next
    cfg = configs[0]
    try:
        others = [*configs[1:3], *(cfg.with_(seed=cfg.seed + i, lr=2 * cfg.lr) for i in (1, 2))][:2]
        company = Ensemble([others[0], cfg, others[1]], pixels, driver="loop")
        company.run_epoch(STEPS)
    except Exception:
        return  # the fault of another run, which will tell when it trains
    alone = Ensemble([cfg], pixels, driver="loop")
    alone.run_epoch(STEPS)
    mine, theirs = (
        {k: v.detach() for k, v in e.views(m).items()} for e, m in ((alone, 0), (company, 1))
    )
    if place := moved(mine, theirs):
        told = (
            f"a run of method {cfg.method!r} is another in company than alone (first in "
            f"{place.split('/', 1)[1]})"
        )
        raise RuleError(
            f"{told}; what a rule depends on belongs in its parameters p and its state s"
        )


# -- what is read


class Read(Shared):
    """Options or a state that note in `names` which of them are read."""

    def __init__(self, values, own, names):
        super().__init__(values, own)
        self.names = names

    def __getitem__(self, name):
        self.names.add(name)
        return super().__getitem__(name)

    def items(self):
        self.names.update(self)
        return super().items()

    def values(self):
        self.names.update(self)
        return super().values()

    def __or__(self, other):
        return Read({**self, **other}, self.own, self.names)


class ReadConfig(SharedConfig):
    """A config that notes in `names` which of its fields are read."""

    def __getattribute__(self, name):
        if not name.startswith("_"):
            object.__getattribute__(self, "__dict__")["_names"].add(name)
        return object.__getattribute__(self, name)


def check_reads(cfg, p, s, x, y, pixels) -> None:
    """RuleError for a setting that a surrogate of the rule's own ignores; a warning of options that
    nothing reads.
    """
    kind, options, settings = METHODS[cfg.method], set(), set()
    shared = ReadConfig.__new__(ReadConfig)
    vars(shared)["_names"] = settings
    shared.__init__(cfg, set(kind.member_options) - set(kind.gates))
    vars(shared)["options"] = Read(cfg.options, vars(shared)["options"].own, options)
    member = copy(cfg)
    object.__setattr__(member, "options", Read(cfg.options, (), options))
    method = kind(
        shared, MODELS[cfg.model](shared, pixels.data.image_shape, len(pixels.data.classes))
    ).freeze()
    for make in (method.init_params, method.init_state):
        make(member, stream(cfg.seed, "preflight"))
    for ask in (method.at_epoch, method.phase_of, *(partial(method.learns, name=k) for k in p)):
        ask(member, epoch=0)
    method.noise(len(y))
    settings.clear()
    method.surrogate(p, Read(s, (), options), x, y)
    plain = {f.name: f.default for f in fields(RunConfig)}
    ignored = [k for k in IGNORABLE if getattr(cfg, k) != plain[k] and k not in settings]
    ignored += [
        k for k in ("penalty", "penalty_h0") if getattr(cfg, k) and "active" not in settings
    ]
    if ignored and not own(kind.surrogate):
        told = ", ".join(f"{k}={getattr(cfg, k)!r}" for k in ignored)
        raise RuleError(
            f"the surrogate of method {cfg.method!r} ignores {told}; leave it at its default, "
            "or let it act there"
        )
    unread = [k for k in cfg.options if k not in options and not named(kind, k)]
    if unread:
        told = (
            f"method {cfg.method!r} reads no option {', '.join(map(repr, unread))}, so that "
            "other values change nothing"
        )
        warnings.warn(told, stacklevel=2)


def named(kind, option) -> bool:
    """Whether the code of a method names an option: it may be read in a case that has not come
    up.
    """
    hooks = [getattr(kind, name) for name in dir(kind) if name not in ("check", "beside")]
    return any(option in constants(f.__code__) for f in hooks if isinstance(f, types.FunctionType))


def constants(code) -> set:
    """Texts in a code object and in those inside it."""
    found = {c for c in code.co_consts if isinstance(c, str)}
    for inner in code.co_consts:
        found |= constants(inner) if isinstance(inner, types.CodeType) else set()
    return found
