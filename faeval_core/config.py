"""RunConfig: the validated value that names one training run, and the random streams that derive
from it.
"""

import difflib
import functools
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch

from . import identity
from .methods import METHODS
from .models import MODELS
from .owncode import code_digest

CHOICES = {
    "method": METHODS,
    "model": MODELS,
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "constant"),
    "labels": ("true", "random"),
    "embedding": ("rule", "init", "exact", "shared"),
    "credit_norm": ("raw", "sample_rms", "batch_rms", "sample_rms_g"),
    "penalty_reduction": ("sum", "mean"),
    "rule": ("inner", "target", "cosine"),
    "credit_level": ("output", "input"),
    "precision": ("fp32", "bf16"),
}
LIKE = {
    bool: "True or False",
    int: "a whole number of at least {}",
    float: "a finite number of at least {}",
}
# Fields that differ only in values: runs that agree on all others train together as one ensemble.
MEMBER_FIELDS = (
    "seed labels lr weight_decay momentum penalty penalty_h0 eta clip upstream upstream_epoch"
).split()


def suggest(kind: str, value, valid) -> str:
    """Error text for a name that is not one of `valid`: the nearest match, then the full list."""
    names = sorted(str(v) for v in valid)
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {value!r}{hint} (valid: {', '.join(names)})"


def check_known(kind: str, names, valid, way_out="") -> None:
    """Raise ValueError for the first of `names` that is not one of `valid`."""
    for name in names:
        if name not in valid:
            raise ValueError(suggest(kind, name, valid) + way_out)


def stream(seed: int, name: str, epoch: int = 0) -> torch.Generator:
    """CPU generator that depends on (seed, name, epoch) alone, so a member never depends on its
    company.
    """
    digest = hashlib.sha256(f"{seed}/{name}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


class Options(dict):
    """A dict that cannot be changed, so that neither can the identity of the config that has it."""

    def _refused(self, *args, **kwargs):
        raise TypeError(
            "options cannot be changed; make another config: cfg.with_(options=cfg.options | {...})"
        )

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refused

    def __reduce__(self):
        return Options, (dict(self),)

    def __copy__(self):
        return self


def plain(name: str, value):
    """`value` as what JSON keeps, and unchangeable: numpy's numbers as Python's, lists as tuples,
    dicts as Options.

    Raises ValueError for what JSON cannot keep; `name` is what it calls the value.
    """
    value = value.item() if isinstance(value, np.generic) else value
    if type(value) in (bool, int, str, type(None)) or (
        type(value) is float and math.isfinite(value)
    ):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(plain(name, v) for v in value)
    if isinstance(value, Mapping) and all(type(k) is str for k in value):
        return Options((k, plain(name, v)) for k, v in value.items())
    kinds = (
        "a finite number, text, True, False, None, or a list or dict (with text as keys) of these"
    )
    raise ValueError(f"{name} must be {kinds}, as it is kept as JSON, not {value!r}")


def jsonable(value):
    """A value of a config as JSON gives it back: lists and dicts, that may be changed."""
    if isinstance(value, tuple):
        return [jsonable(v) for v in value]
    return {k: jsonable(v) for k, v in value.items()} if isinstance(value, dict) else value


def checked(name: str, value, default, least=0):
    """`value` in the type of `default`, where an int will do for a float and numpy's numbers for
    Python's.

    Raises ValueError for another type, or a number below `least`.
    """
    value, default = (v.item() if isinstance(v, np.generic) else v for v in (value, default))
    kind = type(default)
    if kind is float and type(value) is int and abs(value) < 1e300:
        value = float(value)
    if type(value) is not kind or (kind in (int, float) and not least <= value < float("inf")):
        like = LIKE[kind].format(least) if kind in LIKE else f"like {jsonable(default)!r}"
        raise ValueError(f"{name} must be {like}, not {value!r}")
    # -0.0 is 0.0, as equal configs have equal ids
    return abs(value) if kind is float and value == 0 else value


def checked_options(field_name: str, owner: str, known: dict, entered: dict, given) -> Options:
    """All options of a method or model, with `given` ones in place of the defaults `known`;
    ValueError for a wrong one.

    entered: their values in the tables of identity.py, which older records may have where the
    defaults are others by now.
    """
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{field_name} must be a dict of option: value, such as {known or {}!r}, not {given!r}"
        )
    check_known(f"option of {owner}", given, known)
    found = {}
    for name, default in known.items():
        told = f"option {name} of {owner}"
        default = plain(f"the default of {told}", default)
        usual = [v for v in (default, entered.get(name)) if type(v) in (int, float)]
        least = min([0, *usual])  # a default of -1 stands for never
        value = plain(told, given[name]) if name in given else default
        found[name] = checked(told, value, default, least)
    return Options(found)


def checked_name(name: str, value, valid) -> None:
    """Raise ValueError for what is not one of the names `valid`."""
    if isinstance(value, type):
        raise ValueError(
            f"{name} must be a name, not a class; register({value.__name__}), then give its name"
        )
    if isinstance(value, (list, tuple, set)):
        raise ValueError(
            f"{name} must be one name, not {value!r}; make a config for each of several"
        )
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a name, not {value!r} (valid: {', '.join(valid)})")
    check_known(name, [value], valid)


def checked_epochs(value, last: int) -> tuple:
    """Sorted epochs for diagnostics before the last one, from any iterable of whole numbers in
    0..last.
    """
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ValueError(f"diagnose must be a list of epochs, such as [1, 5], not {value!r}")
    epochs = [e.item() if isinstance(e, np.generic) else e for e in value]
    if wrong := [e for e in epochs if type(e) is not int]:
        raise ValueError(f"diagnose must be a list of whole numbers, not {wrong}")
    if wrong := [e for e in epochs if not 0 <= e <= last]:
        raise ValueError(f"diagnose names epochs {wrong} outside 0..{last}")
    return tuple(sorted({*epochs} - {last}))


@dataclass(frozen=True)
class RunConfig:
    """One run: model, method, data and recipe. Its `id` is the hash of its canonical JSON, of its
    method's version, and of the code of a method or model that is not faeval's own.

    Defaults are what the study gives of its recipe, with raw credit; its published rows are those
    of credit_norm='sample_rms_g' (notebook 11). `method` is a name in METHODS and `model` one in
    MODELS; `options` and `model_options` are their own.
    embedding: 'rule' (the method's own a_0), 'shared' (block 0's credit, a_1), 'init' (left at its
    random initialisation) or
        'exact' (BP's gradient).
    credit_norm: 'raw', or credit divided by its RMS over features ('sample_rms') or over batch and
    features ('batch_rms'), plus
        1e-6 on the scale of the per-sample gradient, or of g_l ('sample_rms_g'). norm_embedding:
        the embedding's credit too.
    credit_level: block l hears a_{l+1}, the credit of its output's level, or a_l, that of its
    'input', as in the study's notes.
    penalty, penalty_h0: λ of the terms λ‖f_l‖² (every block) and λ‖h_0‖², batch mean, summed or
    averaged over features.
    rule: how credit moves a block, <f, a> ('inner'), the target shift by eta ('target') or cos(f,
    a) ('cosine').
    clip: largest norm of each block's gradient; 0 leaves it as it is.
    precision: 'bf16' makes the matrix products of training (not of the diagnostics) bfloat16;
    weights stay float32. train_net=False fits the method's auxiliary net alone, on the states of a
    fixed model. exploit: after the last epoch, try local steps of the method's rule on the model as
    it stands (see exploit.py).
    diagnose: epochs after which the per-level diagnostics are taken (0 is the initial net); the
    last epoch always is.
    upstream, upstream_epoch: start from the model weights of that run after that epoch instead of a
    fresh init, with a learning rate schedule, optimiser state and data order of the run's own; an
    auxiliary net of the same method comes along.
    code: digest of the code of a method or model of your own when the config was made ('' where
    both are faeval's own, or where an older record names none); it is made here, and only
    `from_dict` gives one.
    """

    method: str
    dataset: str = "cifar10"
    model: str = "resmlp"
    width: int = 256
    depth: int = 4
    terminal_ln: bool = True
    residual: bool = True
    seed: int = 42
    epochs: int = 100
    batch_size: int = 128
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: str = "cosine"
    augment: bool = True
    labels: str = "true"
    embedding: str = "rule"
    credit_norm: str = "raw"
    norm_embedding: bool = True
    credit_level: str = "output"
    penalty: float = 0.0
    penalty_h0: float = 0.0
    penalty_reduction: str = "sum"
    rule: str = "inner"
    eta: float = 0.1
    clip: float = 0.0
    precision: str = "fp32"
    train_net: bool = True
    exploit: bool = False
    model_options: dict = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    diagnose: tuple = ()
    upstream: "RunConfig | None" = None
    upstream_epoch: int = 0
    code: str | None = field(default=None, repr=False)

    def __post_init__(self):
        for f in fields(self):
            name, value, kind = f.name, getattr(self, f.name), type(f.default)
            if isinstance(value, np.str_):
                object.__setattr__(self, name, str(value))
            if name in CHOICES:
                checked_name(name, value, CHOICES[name])
            elif kind in LIKE:
                least = 1 if kind is int and name not in ("seed", "upstream_epoch") else 0
                object.__setattr__(self, name, checked(name, value, f.default, least))
        if not (isinstance(self.dataset, str) and self.dataset):
            raise ValueError(f"dataset must be the name of a dataset, not {self.dataset!r}")
        method, model = METHODS[self.method], MODELS[self.model]
        parts = (
            ("options", "method", method, identity.OPTIONS),
            ("model_options", "model", model, identity.MODEL_OPTIONS),
        )
        for key, kind, owner, table in parts:
            name = getattr(self, kind)
            found = checked_options(
                key, f"{kind} {name!r}", owner.options, table.get(name, {}), getattr(self, key)
            )
            object.__setattr__(self, key, found)
        object.__setattr__(self, "diagnose", checked_epochs(self.diagnose, self.epochs))
        if self.code is None:
            object.__setattr__(self, "code", self.code_now())
        if not isinstance(self.upstream, RunConfig | None):
            way_out = (
                "; RunConfig.from_dict makes one of a dict"
                if isinstance(self.upstream, dict)
                else ""
            )
            raise ValueError(
                f"upstream must be a RunConfig or None, not {self.upstream!r}{way_out}"
            )
        if self.upstream is None and self.upstream_epoch:
            raise ValueError(
                f"upstream_epoch {self.upstream_epoch} is given without an upstream run"
            )
        if self.upstream is not None and not 0 < self.upstream_epoch <= self.upstream.epochs:
            raise ValueError(
                f"upstream_epoch {self.upstream_epoch} is outside 1..{self.upstream.epochs} of "
                "its upstream run"
            )
        if self.upstream is not None and self.upstream.dataset != self.dataset:
            raise ValueError(
                f"upstream run is of dataset {self.upstream.dataset!r}, this one of "
                f"{self.dataset!r}"
            )
        model.check(self)
        method.check(self)

    def to_dict(self) -> dict:
        """Plain JSON values, which may be changed; `code` only where there is some."""
        values = {f.name: jsonable(getattr(self, f.name)) for f in fields(self)}
        values["upstream"] = self.upstream.to_dict() if self.upstream else None
        return values if self.code else {k: v for k, v in values.items() if k != "code"}

    @classmethod
    def from_dict(cls, values: dict) -> "RunConfig":
        """Inverse of `to_dict`; what an older record lacks has the value that ids are reckoned
        against (identity.py).
        """
        check_known("run parameter", values, {f.name for f in fields(cls)})
        full = {**identity.FIELDS, "options": {}, "model_options": {}, "code": "", **values}
        for owner, key, table in (
            ("method", "options", identity.OPTIONS),
            ("model", "model_options", identity.MODEL_OPTIONS),
        ):
            if isinstance(full[key], Mapping) and isinstance(full.get(owner), str):
                full[key] = table.get(full[owner], {}) | full[key]
        full["upstream"] = cls.from_dict(values["upstream"]) if values.get("upstream") else None
        return cls(**full)

    def code_now(self) -> str:
        """Digest of the code that the method and model of these names have now, as far as it is not
        faeval's own.
        """
        return code_digest(METHODS[self.method], MODELS[self.model])

    @property
    def id(self) -> str:
        """Identity of the run: the hash of what differs from the tables of identity.py, whatever
        the defaults are now.
        """
        method, model, values = METHODS[self.method], MODELS[self.model], self.to_dict()
        # of code that is known by its digest, all options are told
        known = identity.OPTIONS.get(self.method, {} if self.code else method.options)
        known_of_model = identity.MODEL_OPTIONS.get(self.model, {} if self.code else model.options)
        values |= {
            "model_options": identity.told(values["model_options"], known_of_model),
            "model_version": model.version,
        }
        told = identity.told(values, identity.FIELDS | {"model_options": {}, "model_version": 1})
        told["options"] = identity.told(values["options"], known)
        told["upstream"] = self.upstream.id if self.upstream else None
        text = json.dumps([told, method.version], sort_keys=True)
        return f"{self.method}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def __hash__(self):
        return hash(self.id)

    def with_(self, **changes) -> "RunConfig":
        """A copy with changes; a change of method or model drops the options of the old one."""
        pairs = (("method", "options"), ("model", "model_options"))
        dropped = {
            key: {}
            for owner, key in pairs
            if changes.get(owner, getattr(self, owner)) != getattr(self, owner)
        }
        return replace(self, **{"code": None} | dropped | changes)

    @property
    def signature(self) -> str:
        """Runs with equal signatures differ in values only and can train as one ensemble."""
        values = {k: v for k, v in self.to_dict().items() if k not in MEMBER_FIELDS}
        method = METHODS[self.method]
        values["options"] = {
            k: v for k, v in self.options.items() if k not in method.member_options
        }
        values["active"] = [
            v > 0
            for v in (
                self.penalty,
                self.penalty_h0,
                self.momentum,
                *map(self.options.get, method.gates),
            )
        ]
        return json.dumps(values, sort_keys=True)


def _naming(init):
    """RunConfig's constructor, with the nearest match for a misspelt name."""

    @functools.wraps(init)
    def checked_init(self, *args, **given):
        check_known("run parameter", given, {f.name for f in fields(RunConfig)})
        init(self, *args, **given)

    return checked_init


RunConfig.__init__ = _naming(RunConfig.__init__)
