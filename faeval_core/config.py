"""RunConfig: the validated value that names one training run."""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from .ground.checks import LIKE, check_known, checked, checked_name, jsonable
from .methods import METHODS
from .models import MODELS
from .owncode import code_digest
from .settings import fields as declared
from .settings import identity
from .settings.fields import GATES, MEMBER_FIELDS, Settings
from .settings.values import checked_epochs, checked_options

CHOICES = {"method": METHODS, "model": MODELS, **declared.CHOICES}


@dataclass(frozen=True)
class RunConfig(Settings):
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
        check_upstream(self)
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
        gated = [getattr(self, k) for k in GATES] + [self.options[k] for k in method.gates]
        values["active"] = [v > 0 for v in gated]
        return json.dumps(values, sort_keys=True)


def check_upstream(cfg) -> None:
    """Raise ValueError for an upstream run that a config cannot start from."""
    if not isinstance(cfg.upstream, RunConfig | None):
        way_out = (
            "; RunConfig.from_dict makes one of a dict" if isinstance(cfg.upstream, dict) else ""
        )
        raise ValueError(f"upstream must be a RunConfig or None, not {cfg.upstream!r}{way_out}")
    if cfg.upstream is None and cfg.upstream_epoch:
        raise ValueError(f"upstream_epoch {cfg.upstream_epoch} is given without an upstream run")
    if cfg.upstream is not None and not 0 < cfg.upstream_epoch <= cfg.upstream.epochs:
        raise ValueError(
            f"upstream_epoch {cfg.upstream_epoch} is outside 1..{cfg.upstream.epochs} of "
            "its upstream run"
        )
    if cfg.upstream is not None and cfg.upstream.dataset != cfg.dataset:
        raise ValueError(
            f"upstream run is of dataset {cfg.upstream.dataset!r}, this one of {cfg.dataset!r}"
        )


def _naming(init):
    """RunConfig's constructor, with the nearest match for a misspelt name."""

    @functools.wraps(init)
    def checked_init(self, *args, **given):
        check_known("run parameter", given, {f.name for f in fields(RunConfig)})
        init(self, *args, **given)

    return checked_init


RunConfig.__init__ = _naming(RunConfig.__init__)
