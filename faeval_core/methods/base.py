"""A method is one scalar: a pure function of (params, state, batch) whose gradient is the whole
update.

Everything here is written for one member; the engine maps it over the ensemble. h_l and a_l are
(batch, *level shape), and credit is the list a_0..a_L, on the scale of the per-sample gradient. The
level convention is that a_{l+1} trains block l, whose output is part of h_{l+1} (unless
credit_level='input'), and a_0 trains the embedding; a perfect credit has a_l ∝ g_l.
"""

import copy
import difflib
import inspect

import torch

from .passes import forward
from .shared import EVERYTHING, Phase, RuleError, SharedConfig
from .tensors import flat_norm, inner, normalise, rms, unit

__all__ = ["Method", "RuleError", "flat_norm", "inner", "normalise", "rms", "unit"]
GIVEN_X = ("credit", "common", "auxiliary")  # hooks that may ask for the inputs x by that name
SHARED = (
    "method {method!r} sets self.{name} after __init__, which all members of an ensemble would "
    "share; keep it in the state: begin it in init_state and return its change from auxiliary"
)
RATES = ("lr", "weight_decay")  # what `rates` may give factors of


def takes_x(hook) -> bool:
    """Whether a hook has a parameter x."""
    return "x" in inspect.signature(hook).parameters


class Method:
    """Base of every method. Subclasses set `name`, `version` and `options` and define `surrogate`
    and `credit`.

    One object serves all members of an ensemble, so its attributes are set in `__init__` and stay
    as they are. What belongs to a member is in its parameters p and its state s.
    """

    name = ""
    version = 1
    # option -> default, which says its type; numbers are at least 0, or at least a default below 0
    options: dict = {}
    # options that may differ inside an ensemble, numbers or bools; the state holds them by name
    member_options: tuple = ()
    gates: tuple = ()  # those of them whose zero switches a term off
    # draws of its noise over which a diagnosis averages the credit of a rule that is random
    draws: int = 1
    phase = EVERYTHING  # set by `during`
    stream = ""  # name of the random stream of `init_state` where it is not the method's own
    _frozen = False

    def __init__(self, cfg, model):
        self.cfg = cfg if isinstance(cfg, SharedConfig) else self.shared(cfg)
        self.model = model
        hooks = {name: getattr(type(self), name, None) for name in GIVEN_X}
        self.given_x = frozenset(name for name, hook in hooks.items() if hook and takes_x(hook))

    @classmethod
    def shared(cls, cfg) -> SharedConfig:
        """What all members of the ensemble of a config have in common."""
        return SharedConfig(cfg, set(cls.member_options) - set(cls.gates))

    def __setattr__(self, name, value):
        if self._frozen:
            raise RuleError(SHARED.format(method=self.name, name=name))
        super().__setattr__(name, value)

    def freeze(self) -> "Method":
        """The method itself, whose attributes cannot be set from now on."""
        self.__dict__["_frozen"] = True
        return self

    def during(self, phase: Phase) -> "Method":
        """The method in a phase: a copy that shares all else."""
        found = copy.copy(self)
        found.__dict__["phase"] = phase
        return found

    @classmethod
    def check(cls, cfg):
        """Raise ValueError for a config that this method cannot train."""

    def init_params(self, cfg, generator) -> dict[str, torch.Tensor]:
        """Auxiliary parameters, named `aux.…`, which the terms that `auxiliary` adds train."""
        return {}

    def init_state(self, cfg, generator) -> dict[str, torch.Tensor]:
        """Tensors of one member that no gradient trains, such as fixed feedback."""
        return {}

    def init_copies(self, params) -> dict[str, torch.Tensor]:
        """State tensors that begin as copies of parameters, such as a moving average."""
        return {}

    def noise(self, batch: int) -> dict[str, tuple]:
        """Name -> shape of the standard normal tensors that one step finds in the state."""
        return {}

    def at_epoch(self, cfg, epoch: int) -> dict[str, torch.Tensor]:
        """State tensors that depend on the epoch alone, such as the weight of a blend."""
        return {}

    def trains(self, name: str) -> bool:
        """Whether the parameter `name` is trained at all."""
        fixed = name.endswith(self.model.statistics) or (
            name.startswith("embed.") and self.cfg.embedding == "init"
        )
        return name.startswith("aux.") or (self.cfg.train_net and not fixed)

    def rates(self, cfg, name: str) -> dict[str, float]:
        """Learning rate ('lr') and 'weight_decay' of the trained parameter `name` of a member, each
        as a factor of its config's; what is not named is 1.
        """
        return {}

    def learns(self, cfg, epoch: int, name: str) -> bool:
        """Whether a trained parameter moves in this epoch."""
        return True

    def phase_of(self, cfg, epoch: int) -> Phase:
        """The phase of a member in an epoch."""
        return EVERYTHING

    def surrogate(self, p, s, x, y):
        """(scalar whose gradient is the update, (mean loss, changed tensors)) for one batch."""
        raise NotImplementedError

    def credit(self, p, s, hs, logits, y):
        """a_0..a_L from the detached states hs and logits of one batch. It is cut from the graph,
        whatever hangs on it. A rule that needs the inputs names a further parameter x.
        """
        raise NotImplementedError(f"method {self.name!r} has no credit")

    def ask(self, hook: str, x, *args):
        """What `hook` (one of GIVEN_X) answers, given the inputs x where it has a parameter x."""
        given = {"x": x} if hook in self.given_x else {}
        return getattr(self, hook)(*args, **given)

    def predict(self, p, s, x):
        """Class of each input, (batch,): that of the largest logit. Accuracy is of this; s is
        without noise.
        """
        return self.model.logits(p, self.model.embed(p, x)).argmax(-1)

    def heard(self, credit):
        """Of credit a_0..a_L, what trains blocks 0..L-1."""
        return credit[1:] if self.cfg.credit_level == "output" else credit[:-1]

    def parts(self, p, s, hs, logits, y) -> dict:
        """Other credits that the diagnostics set beside the method's own, by name."""
        return {}

    def measured(self, p, s, hs, gs, y, generator) -> dict:
        """Diagnostics of the method's own, per level, from the states hs and gradients gs of the
        probe.
        """
        return {}

    def forward(self, p, s, x, changed, local=False):
        """(h_0, block outputs f_0..f_{L-1}, states h_0..h_L) of a training batch; local: every
        state is cut from the graph. Public: rules may call it.
        """
        return forward(self.model, p, s, x, changed, local)

    def tail_losses(self, p, h, y, start):
        """Loss of each sample, (batch,), with h, (batch, *level shape), at level `start`; the
        gradient of their sum is that of each sample, δ. Public: rules may call it.
        """
        return self.model.losses(self.model.logits(p, h, start, {}), y)

    def exact_credit(self, p, hs, y, level):
        """δ_level, (batch, *level shape): the exact per-sample gradient, by back-propagation
        through blocks level..L-1 and the readout. Public: rules may call it.
        """
        return torch.func.grad(lambda h: self.tail_losses(p, h, y, level).sum())(hs[level])


def varied(method: Method, **changes) -> Method:
    """The method of the same options, model and phase under other values of some shared fields of
    its config.
    """
    cfg = copy.copy(method.cfg)
    vars(cfg).update(changes)
    return type(method)(cfg, method.model).during(method.phase).freeze()


def check_member_options(method: type[Method]) -> None:
    """Raise RuleError for options that members are to differ in and that a state, which is of
    tensors, cannot hold.
    """
    for name in method.member_options:
        if name not in method.options:
            near = difflib.get_close_matches(name, method.options, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise RuleError(
                f"unknown option among member_options of method {method.name!r}: {name!r}{hint}"
            )
        value = method.options[name]
        if not isinstance(value, (bool, int, float)):
            told = (
                f"option {name!r} of method {method.name!r} is like {value!r}, so that no "
                "tensor of the state can hold it"
            )
            raise RuleError(
                f"{told}; take it out of member_options: runs that differ in it then train apart"
            )
