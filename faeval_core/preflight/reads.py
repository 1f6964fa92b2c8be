"""Which settings and options a rule reads."""

import types
import warnings
from copy import copy
from dataclasses import fields
from functools import partial

from ..config import RunConfig
from ..ground.streams import stream
from ..methods import METHODS
from ..methods.shared import RuleError, Shared, SharedConfig
from ..models import MODELS
from ..settings.fields import GATES, IN_STATE
from .changes import own

# by a surrogate
IGNORABLE = (
    "embedding",
    "credit_norm",
    "norm_embedding",
    "credit_level",
    "rule",
    "penalty_reduction",
)
PENALTIES = [k for k in GATES if k in IN_STATE]


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
    for k in p:
        method.rates(member, k)
    method.noise(len(y))
    settings.clear()
    method.surrogate(p, Read(s, (), options), x, y)
    plain = {f.name: f.default for f in fields(RunConfig)}
    ignored = [k for k in IGNORABLE if getattr(cfg, k) != plain[k] and k not in settings]
    ignored += [k for k in PENALTIES if getattr(cfg, k) and "active" not in settings]
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
