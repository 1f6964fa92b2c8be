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
from dataclasses import dataclass

import torch
import torch.nn.functional as F

IN_STATE = ("penalty", "penalty_h0", "eta")  # fields of a member's config that its state holds
GIVEN_X = ("credit", "common", "auxiliary")  # hooks that may ask for the inputs x by that name
RATES = ("lr", "weight_decay")  # what `rates` may give factors of


def inner(u, v):
    """Sum of elementwise products of two tensors of one shape, in the wider of their types
    (autocast leaves some in bfloat16).
    """
    wider = torch.promote_types(u.dtype, v.dtype)
    return torch.dot(u.reshape(-1).to(wider), v.reshape(-1).to(wider))


def rms(a):
    """RMS of each sample, (batch, 1, …)."""
    return a.square().mean(tuple(range(1, a.ndim)), keepdim=True).sqrt()


def unit(a):
    """Each sample over its RMS, whatever its scale; zero stays zero."""
    return a / rms(a).clamp_min(1e-30)


def flat_norm(h):
    """LayerNorm of states as one long vector each."""
    return F.layer_norm(h.flatten(1), (h[0].numel(),))


class RuleError(ValueError):
    """A rule does what would make its results wrong, or fail later; the text says what, where, and
    the way out.
    """


@dataclass(frozen=True)
class Phase:
    """What one epoch asks of a method for one member. It spares work; no result depends on it.

    hears: whether credit hears the auxiliary net. fits: whether `auxiliary` is called.
    """

    hears: bool = True
    fits: bool = True


EVERYTHING = Phase()


class Shared(dict):
    """Those of the options that all members of an ensemble have in common; reading another raises
    KeyError.
    """

    def __init__(self, options, own):
        super().__init__({k: v for k, v in options.items() if k not in own})
        self.own = frozenset(own)

    def get(self, name, default=None):
        return self[name] if name in self or name in self.own else default

    def __missing__(self, name):
        way_out = (
            f"members may differ in it; read s[{name!r}] or what at_epoch makes of it"
            if name in self.own
            else "declare it"
        )
        raise KeyError(f"option {name!r}: {way_out}")


class SharedConfig:
    """Those fields of a config that all members of an ensemble have in common; reading another
    raises RuleError.

    It stands for the config of an ensemble in its method and model, which serve all members.
    active: those of the penalties that are above zero, in all of them.
    """

    def __init__(self, cfg, own_options=()):
        from ..config import MEMBER_FIELDS  # which itself needs the methods

        shared = {k: v for k, v in vars(cfg).items() if k not in MEMBER_FIELDS}
        active = frozenset(k for k in ("penalty", "penalty_h0") if getattr(cfg, k) > 0)
        vars(self).update(shared | {"options": Shared(cfg.options, own_options), "active": active})

    def __setattr__(self, name, value):
        raise RuleError(f"a config is not changed: {name}={value!r}; give the run another config")

    def __getattr__(self, name):  # of what __init__ has left out
        from ..config import MEMBER_FIELDS

        if name not in MEMBER_FIELDS:
            raise AttributeError(
                f"no field {name!r} that all members of an ensemble have in common"
            )
        way_out = (
            "read it in init_state or at_epoch, from the cfg that they receive, and "
            "return from there what you make of it"
        )
        if name in IN_STATE:
            way_out = f"read s[{name!r}]"
        raise RuleError(
            f"self.cfg.{name}: runs that differ in it train together, with one self.cfg for "
            f"all; {way_out}"
        )


def normalise(a, how: str):
    """One level's credit over its RMS + 1e-6: over all but the batch ('sample_rms') or all
    ('batch_rms'); 'raw' as it is.

    Credit here is on the scale of the per-sample gradient δ, batch times that of g_l, and so is the
    1e-6. 'sample_rms_g' adds 1e-6 on the scale of g_l: where gradients are small, it then leaves
    small credit small.
    """
    if how == "raw":
        return a
    found = a.square().mean().sqrt() if how == "batch_rms" else rms(a)
    return a / (found + 1e-6 * (len(a) if how == "sample_rms_g" else 1))


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
            told = (
                f"method {self.name!r} sets self.{name} after __init__, which all members "
                "of an ensemble would share"
            )
            raise RuleError(
                f"{told}; keep it in the state: begin it in init_state and return its change "
                "from auxiliary"
            )
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

    def varied(self, **changes) -> "Method":
        """The method of the same options, model and phase under other values of some shared fields
        of its config.
        """
        cfg = copy.copy(self.cfg)
        vars(cfg).update(changes)
        return type(self)(cfg, self.model).during(self.phase).freeze()

    @classmethod
    def check(cls, cfg):
        """Raise ValueError for a config that this method cannot train."""

    def init_params(self, cfg, generator) -> dict[str, torch.Tensor]:
        """Auxiliary parameters, named `aux.…`: trained like the model's, by the terms that
        `auxiliary` adds.
        """
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
        state is cut from the graph.
        """
        model, h0 = self.model, self.model.embed(p, x, changed)
        hs, fs = [h0.detach() if local else h0], []
        for l in range(model.depth):
            fs.append(model.block(p, l, hs[-1], changed))
            h = model.add(hs[-1], fs[-1])
            h = h + model.process_noise * s["process"][l] if model.process_noise else h
            hs.append(h.detach() if local else h)
        return h0, fs, hs

    def penalties(self, s, h0, fs):
        """λ‖f_l‖² over the blocks and λ‖h_0‖², batch means, summed or averaged over features."""
        total = 0.0
        for key, tensors in (("penalty", fs), ("penalty_h0", [h0])):
            if key in self.cfg.active:
                mean = self.cfg.penalty_reduction == "mean"
                terms = [
                    inner(t, t) / (t.shape[0] * (t[0].numel() if mean else 1)) for t in tensors
                ]
                total = total + s[key] * sum(terms)
        return total

    def tail_losses(self, p, h, y, start):
        """Loss of each sample, (batch,), with h, (batch, *level shape), at level `start` and the
        net as it is from there on; the gradient of their sum is that of each sample, δ. Public:
        rules may call it.
        """
        return self.model.losses(self.model.logits(p, h, start, {}), y)

    def exact_credit(self, p, hs, y, level):
        """δ_level, (batch, *level shape): the exact per-sample gradient at `level`, by
        back-propagation through blocks level..L-1; at level L, through the readout alone. Public:
        rules may call it.
        """
        return torch.func.grad(lambda h: self.tail_losses(p, h, y, level).sum())(hs[level])


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


class LocalMethod(Method):
    """Trains block l on <f_l(sg(h_l)), sg(a_{l+1})>, the embedding on <h_0, sg(a_0)>, the readout
    on the loss of sg(h_L).

    A rule of your own is a subclass with a `credit`. It may read the parameters p, its state s, the
    detached states hs, and of self.model `levels` (shapes of h_0..h_L without the batch), `sizes`
    (their numbers of elements), `classes`, and `output_error(logits, y)`, softmax less one-hot.
    Fixed tensors come from `init_state`, trained ones from `init_params` and `auxiliary`, random
    numbers from `noise`; an option named in `member_options` is read as s[name]. Public as well are
    `exact_credit`, `tail_losses`, model.block and the other parts of a model (models/base.py), and
    what methods/fa.py calls Structured; docs/cookbook.md shows them at work.
    Whole families need more: a parameter x of `credit`, `common` or `auxiliary` receives the
    inputs; `inputs` names other states for the weights to learn on; `rates` gives parameters a
    learning rate and a weight decay of their own; `predict` reads the class elsewhere than from the
    logits; `draws` lets a diagnosis average credit that is random. What a rule learns
    without a gradient, such as a running mean, begins in `init_state`, and `auxiliary` returns its
    changes. Credit has the sign of the gradient, and the per-sample gradient δ_l is exact; where
    its direction depends on the scale of the stream, (b') fires. Records are found by a rule's
    options and its code, with all that it uses (owncode.py): one that is changed trains anew.
    credit_level='input': block l hears a_l. embedding='shared': the embedding hears a_1, as block 0
    does otherwise.
    """

    def __init__(self, cfg, model):
        super().__init__(cfg, model)
        self.learns_elsewhere = type(self).inputs is not LocalMethod.inputs
        for name, value in (("embedding", "shared"), ("credit_level", "input")):
            if getattr(cfg, name) == value and len(set(model.levels)) > 1:
                raise ValueError(
                    f"model {cfg.model!r} has levels of different shapes, so {name}={value!r} "
                    "cannot train it"
                )

    def phase_of(self, cfg, epoch):
        """`auxiliary` is called wherever a rule has one: it may learn by what it changes in the
        state, without an `aux.`.
        """
        return Phase(fits=type(self).auxiliary is not LocalMethod.auxiliary)

    def surrogate(self, p, s, x, y):
        model, batch, changed = self.model, x.shape[0], {}
        h0, fs, hs = self.forward(p, s, x, changed, local=True)
        logits = model.readout(p, hs[-1])
        loss = model.loss(logits, y)
        fixed = {k: v.detach() for k, v in p.items()}
        opened = fixed | {k: v for k, v in p.items() if k.startswith("aux.")}
        given = hs, logits.detach(), y
        shared = {}
        if self.phase.fits or self.learns_elsewhere:
            shared = self.ask("common", x, opened, s, *given)
        known = s | {k: v.detach() for k, v in shared.items()}
        credit = [level.detach() for level in self.ask("credit", x, fixed, known, *given)]
        found, wanted = ([tuple(t.shape) for t in tensors] for tensors in (credit, hs))
        if found != wanted:
            told = f"credit of method {self.name!r} is of shapes {found}"
            raise RuleError(
                f"{told}; it needs one tensor for every level 0..L, in the shape of its state: "
                f"{wanted}"
            )
        how = self.cfg.credit_norm
        own_h0, own_fs, own_loss = h0, fs, loss
        if self.learns_elsewhere:
            own_h0, own_fs, top = self.elsewhere(p, fixed, known, x, *given)
            own_loss = model.loss(model.readout(p, top), y)
        scalar = (
            own_loss
            + self.push(s, own_fs, [normalise(a, how) for a in self.heard(credit)]) / batch
            + self.penalties(s, h0, fs)
        )
        if self.cfg.embedding == "exact":
            scalar = scalar + inner(own_h0, self.exact_credit(fixed, hs, y, 0).detach()) / batch
        elif self.cfg.embedding != "init":
            heard = credit[1 if self.cfg.embedding == "shared" else 0]
            scalar = (
                scalar
                + inner(own_h0, normalise(heard, how if self.cfg.norm_embedding else "raw")) / batch
            )
        if self.phase.fits:
            auxiliary, moved = self.ask("auxiliary", x, opened, s | shared, *given)
            scalar, changed = scalar + auxiliary, changed | moved
        return scalar, (loss.detach(), changed)

    def inputs(self, p, s, x, hs, logits, y):
        """(x, [h_0..h_L]) that the weights learn on, like those given: the embedding on x, block l
        on h_l, the readout on h_L. By default those of the forward pass.

        A rule whose weights learn on other states, such as those of a second pass, returns these;
        its credit, its penalties and its record stay those of the forward pass. It costs another
        passage through each block.
        """
        return x, hs

    def elsewhere(self, p, fixed, s, x, hs, logits, y):
        """(h_0, f_0..f_{L-1}, state of the readout) where the weights of p learn, as `inputs`
        says.
        """
        x, hs = self.inputs(fixed, s, x, hs, logits, y)
        hs = [h.detach() for h in hs]
        fs = [self.model.block(p, l, h, {}) for l, h in enumerate(hs[:-1])]
        return self.model.embed(p, x.detach(), {}), fs, hs[-1]

    def common(self, p, s, hs, logits, y):
        """Tensors by name that `credit` and `auxiliary` (or `inputs`) of one training step both
        need, and then find in s: made once for both.

        p is that of `auxiliary`; for the others they are detached. Elsewhere, as in a diagnosis,
        `credit` makes them itself.
        """
        return {}

    def auxiliary(self, p, s, hs, logits, y):
        """(scalar that trains the `aux.` parameters of p, changed state), everything else of p
        being detached.

        Called in each training step, after `credit`, and not in a diagnosis. s is changed by what
        it returns alone.
        """
        return 0.0, {}

    def push(self, s, fs, credits):
        """How credit a, (batch, …), moves a block with output f: the update rules of study 6,
        summed over batch and blocks.

        'inner': <f, a>. 'target': ½‖h + f - sg(h + f - η a_norm)‖², whose gradient here is η
        a_norm: one update differs from 'inner' with normalised credit by η alone. 'cosine': cos(f,
        a).
        """
        pairs = list(zip(fs, credits))
        if self.cfg.rule == "inner":
            return sum(inner(f, a) for f, a in pairs)
        if self.cfg.rule == "target":
            return 0.5 * sum(
                (f - (f - s["eta"] * normalise(a, "sample_rms")).detach()).square().sum()
                for f, a in pairs
            )
        return sum(
            F.cosine_similarity(f.flatten(1), unit(a).flatten(1), dim=-1).sum() for f, a in pairs
        )
