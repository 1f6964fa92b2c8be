"""RunConfig: the validated value that names one training run, and the random streams that derive from it."""

import difflib
import hashlib
import json
from dataclasses import dataclass, field, fields, replace

import torch

from .methods import METHODS
from .models import MODELS

CHOICES = {
    "method": METHODS, "model": MODELS, "optimizer": ("adamw", "sgd"), "schedule": ("cosine", "constant"),
    "labels": ("true", "random"), "embedding": ("rule", "init", "exact", "shared"),
    "credit_norm": ("raw", "sample_rms", "batch_rms", "sample_rms_g"), "penalty_reduction": ("sum", "mean"),
    "rule": ("inner", "target", "cosine"), "credit_level": ("output", "input"), "precision": ("fp32", "bf16"),
}  # fmt: skip
LIKE = {bool: "True or False", int: "a whole number of at least {}", float: "a finite number of at least {}"}
# Fields that differ only in values: runs that agree on all others train together as one ensemble.
MEMBER_FIELDS = "seed labels lr weight_decay momentum penalty penalty_h0 eta clip upstream upstream_epoch".split()


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
    """CPU generator that depends on (seed, name, epoch) alone, so a member never depends on its company."""
    digest = hashlib.sha256(f"{seed}/{name}/{epoch}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def changed(values: dict, plain: dict) -> dict:
    """Those of `values` that differ from the `plain` ones."""
    return {k: v for k, v in values.items() if v != plain[k]}


def checked(name: str, value, default, least=0):
    """`value` in the type of `default`, where an int will do for a float; ValueError for another, or a number below `least`."""
    kind = type(default)
    value = float(value) if kind is float and type(value) is int else value
    if type(value) is not kind or (kind in (int, float) and not least <= value < float("inf")):
        like = LIKE[kind].format(least) if kind in LIKE else f"like {default!r}"
        raise ValueError(f"{name} must be {like}, not {value!r}")
    return value


def checked_options(owner: str, known: dict, given: dict) -> dict:
    """All options of a method or model, with `given` ones in place of the defaults `known`; ValueError for a wrong one."""
    check_known(f"option of {owner}", given, known)
    least = {k: min(0, v) if type(v) in (int, float) else 0 for k, v in known.items()}  # a default of -1 stands for never
    return known | {k: checked(f"option {k} of {owner}", v, known[k], least[k]) for k, v in given.items()}


@dataclass(frozen=True)
class RunConfig:
    """One run: model, method, data and recipe. Its `id` is the hash of its canonical JSON and its method's version.

    Defaults are what the study gives of its recipe, with raw credit; its published rows are those of credit_norm='sample_rms_g'
    (notebook 11). `method` is a name in METHODS and `model` one in MODELS; `options` and `model_options` are their own.
    embedding: 'rule' (the method's own a_0), 'shared' (block 0's credit, a_1), 'init' (left at its random initialisation) or
        'exact' (BP's gradient).
    credit_norm: 'raw', or credit divided by its RMS over features ('sample_rms') or over batch and features ('batch_rms'), plus
        1e-6 on the scale of the per-sample gradient, or of g_l ('sample_rms_g'). norm_embedding: the embedding's credit too.
    credit_level: block l hears a_{l+1}, the credit of its output's level, or a_l, that of its 'input', as in the study's notes.
    penalty, penalty_h0: λ of the terms λ‖f_l‖² (every block) and λ‖h_0‖², batch mean, summed or averaged over features.
    rule: how credit moves a block, <f, a> ('inner'), the target shift by eta ('target') or cos(f, a) ('cosine').
    clip: largest norm of each block's gradient; 0 leaves it as it is.
    precision: 'bf16' makes the matrix products of training (not of the diagnostics) bfloat16; weights stay float32.
    train_net=False fits the method's auxiliary net alone, on the states of a fixed model. exploit: after the last epoch, try
    local steps of the method's rule on the model as it stands (see exploit.py).
    diagnose: epochs after which the per-level diagnostics are taken (0 is the initial net); the last epoch always is.
    upstream, upstream_epoch: start from the model weights of that run after that epoch instead of a fresh init, with a learning
    rate schedule, optimiser state and data order of the run's own; an auxiliary net of the same method comes along.
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

    def __post_init__(self):
        for f in fields(self):
            name, value, kind = f.name, getattr(self, f.name), type(f.default)
            if name in CHOICES:
                check_known(name, [value], CHOICES[name])
            elif kind in LIKE:
                least = 1 if kind is int and name not in ("seed", "upstream_epoch") else 0
                object.__setattr__(self, name, checked(name, value, f.default, least))
        method, model = METHODS[self.method], MODELS[self.model]
        for key, kind, owner in (("options", "method", method), ("model_options", "model", model)):
            object.__setattr__(self, key, checked_options(f"{kind} {getattr(self, kind)!r}", owner.options, getattr(self, key)))
        if wrong := [e for e in self.diagnose if not 0 <= e <= self.epochs]:
            raise ValueError(f"diagnose names epochs {wrong} outside 0..{self.epochs}")
        object.__setattr__(self, "diagnose", tuple(sorted({*map(int, self.diagnose)} - {self.epochs})))
        if self.upstream is None and self.upstream_epoch:
            raise ValueError(f"upstream_epoch {self.upstream_epoch} is given without an upstream run")
        if self.upstream is not None and not 0 < self.upstream_epoch <= self.upstream.epochs:
            raise ValueError(f"upstream_epoch {self.upstream_epoch} is outside 1..{self.upstream.epochs} of its upstream run")
        if self.upstream is not None and self.upstream.dataset != self.dataset:
            raise ValueError(f"upstream run is of dataset {self.upstream.dataset!r}, this one of {self.dataset!r}")
        model.check(self)
        method.check(self)

    def to_dict(self) -> dict:
        return vars(self) | {"diagnose": list(self.diagnose), "upstream": self.upstream.to_dict() if self.upstream else None}

    @classmethod
    def from_dict(cls, values: dict) -> "RunConfig":
        """Inverse of `to_dict`; a field that an older record lacks takes its default."""
        check_known("run parameter", values, {f.name for f in fields(cls)})
        return cls(**{**values, "upstream": cls.from_dict(values["upstream"]) if values.get("upstream") else None})

    @property
    def id(self) -> str:
        """Identity of the run. Fields at their default are left out, so that a new field keeps old records valid."""
        method, model = METHODS[self.method], MODELS[self.model]
        plain = {f.name: f.default for f in fields(self)} | {"model_options": {}, "model_version": 1}
        values = self.to_dict() | {"model_options": changed(self.model_options, model.options), "model_version": model.version}
        told = changed(values, plain) | {"options": changed(self.options, method.options)}
        told["upstream"] = self.upstream.id if self.upstream else None
        text = json.dumps([told, method.version], sort_keys=True)
        return f"{self.method}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def __hash__(self):
        return hash(self.id)

    def with_(self, **changes) -> "RunConfig":
        """A copy with changes; a change of method or model drops the options of the old one."""
        pairs = (("method", "options"), ("model", "model_options"))
        dropped = {key: {} for owner, key in pairs if changes.get(owner, getattr(self, owner)) != getattr(self, owner)}
        return replace(self, **dropped | changes)

    @property
    def signature(self) -> str:
        """Runs with equal signatures differ in values only and can train as one ensemble."""
        values = {k: v for k, v in self.to_dict().items() if k not in MEMBER_FIELDS}
        method = METHODS[self.method]
        values["options"] = {k: v for k, v in self.options.items() if k not in method.member_options}
        values["active"] = [v > 0 for v in (self.penalty, self.penalty_h0, self.momentum, *map(self.options.get, method.gates))]
        return json.dumps(values, sort_keys=True)
