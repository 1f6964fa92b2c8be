"""What is found of a rule before it trains: each mistake by its name, its place and the way out;
and nothing of a sound rule.
"""

import random
import re
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny

from faeval_core import METHODS, LocalMethod, Method, data, preflight, run
from faeval_core.methods.base import RuleError
from faeval_core.methods.cb import CreditBridge
from faeval_core.methods.dfa import DFA
from faeval_core.runs import RunsFailed
from faeval_core.training import Ensemble

rng = np.random.default_rng(0)


class Sound(LocalMethod):
    """A rule with all that a rule may have: options, feedback, noise, a state that it learns, a
    schedule.
    """

    name = "mine"
    options = {"decay": 0.9, "blocks": 2, "warm": True, "way": "plain"}
    member_options = ("decay", "blocks", "warm")

    def init_state(self, cfg, generator):
        sizes = self.model.sizes
        feedback = {
            f"B{l}": torch.randn(self.model.classes, n, generator=generator)
            for l, n in enumerate(sizes)
        }
        return feedback | {"mean": torch.zeros(self.model.classes), "weight": torch.tensor(0.0)}

    def at_epoch(self, cfg, epoch):
        return {"weight": torch.tensor(1.0 if cfg.options["warm"] else cfg.lr)}

    def noise(self, batch):
        return {"xi": (batch, self.model.classes)}

    def credit(self, p, s, hs, logits, y):
        e = self.model.output_error(logits, y) + s["weight"] * s["mean"] + 0.01 * s["xi"]
        e = e * s["blocks"] if self.cfg.options["way"] == "plain" else e
        return [(e @ s[f"B{l}"]).view_as(h) for l, h in enumerate(hs)]

    def auxiliary(self, p, s, hs, logits, y):
        return 0.0, {
            "mean": torch.lerp(self.model.output_error(logits, y).mean(0), s["mean"], s["decay"])
        }


def error(self, logits, y):
    return self.model.output_error(logits, y)


def rule(credit=None, base=LocalMethod, **parts):
    """A rule of that credit (by default exact), and with other parts of its class."""

    def exact(self, p, s, hs, logits, y):
        return [self.exact_credit(p, hs, y, l) for l in range(len(hs))]

    return type(
        "Mine",
        (base,),
        {"name": "mine", "__module__": __name__, "credit": credit or exact, **parts},
    )


@pytest.fixture
def faults(monkeypatch, home):
    def found(kind, seeds=(1,), **changes):
        monkeypatch.setitem(METHODS, "mine", kind)
        return list(preflight.faults([tiny("mine", seed=s, **changes) for s in seeds]).values())

    return found


def told(faults):
    [error] = {str(e): e for e in faults}.values()
    assert isinstance(error, RuleError), error
    return str(error)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"options": {"way": "other", "warm": False}},
        {"exploit": True, "penalty": 0.1},
        {"model": "convnet"},
        {"model": "vitmini", "model_options": {"patch": 4, "heads": 2}},
        {"embedding": "init", "credit_norm": "sample_rms"},
    ],
)
def test_nothing_is_found_of_a_sound_rule(faults, changes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not faults(Sound, seeds=(1, 2), **changes)


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_found_of_the_rules_that_are_faevals_own(faults, name):
    """Each as a rule of a user's own would be checked; what is zero at the start, or is not read,
    may be told.
    """
    kind = type("Mine", (METHODS[name],), {"name": "mine", "__module__": __name__})
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "error", message=".*(misspelt|did you mean|check the sign|reads no option)"
        )
        assert not faults(kind, seeds=(1, 2))


def test_rules_that_are_faevals_own_are_not_checked(home, monkeypatch):
    monkeypatch.setattr(preflight, "check", lambda *args: 1 / 0)
    assert not preflight.faults([tiny(name) for name in METHODS])


# -- credit that cannot be used


def level(change, at=2):
    """Exact credit with a change of one level."""

    def credit(self, p, s, hs, logits, y):
        a = [self.exact_credit(p, hs, y, l) for l in range(len(hs))]
        a[at] = change(a[at])
        return a

    return credit


def nan_of_a_zero_norm(a):
    return torch.cat([a[:3] * 0 / (a[:3] * 0).norm(), a[3:]])


@pytest.mark.parametrize(
    "credit, wanted",
    [
        (
            lambda self, p, s, hs, logits, y: hs[1:],
            ("has 3 levels; it needs one tensor for each of the levels 0..3"),
        ),
        (
            lambda self, p, s, hs, logits, y: {"a": hs},
            "is of type dict; it needs one tensor for each",
        ),
        (lambda self, p, s, hs, logits, y: (h for h in hs), "is of type generator; .* in a list"),
        (lambda self, p, s, hs, logits, y: None, "is of type NoneType"),
        (level(lambda a: a.T), r"has shape \(12, 100\) at level 2, whose state has \(100, 12\)"),
        (level(lambda a: a.mean(0)), r"has shape \(12,\) at level 2"),
        (
            level(lambda a: a.double(), at=0),
            "has dtype torch.float64 at level 0, whose state has torch.float32; "
            ".*dtype.* of logits",
        ),
        (
            level(lambda a: a.to("meta"), at=1),
            "has device meta at level 1, whose state has cpu; .*device of logits",
        ),
        (level(lambda a: a.detach().numpy()), "is of type ndarray at level 2; .*torch.as_tensor"),
        (
            level(nan_of_a_zero_norm),
            "is not finite at level 2, for 3 of 100 samples; .*division by zero",
        ),
        (level(lambda a: a / 0, at=3), "is not finite at level 3, for 100 of 100 samples"),
    ],
)
def test_credit_that_is_no_credit_is_refused_by_level(faults, credit, wanted):
    assert (text := told(faults(rule(credit)))).startswith(
        "credit of method 'mine' in a training step"
    )
    assert re.search(wanted, text), text


def one_hot(self, p, s, hs, logits, y):
    e = torch.softmax(logits, 1) - F.one_hot(y, logits.shape[1]).float()
    return [e @ torch.ones(e.shape[1], h.shape[1]) for h in hs]


def one_hot_widened(self, p, s, hs, logits, y):
    e = F.one_hot(y, logits.shape[1]).float()
    return [e @ torch.ones(e.shape[1], h.shape[1]) for h in hs]


def by_autograd(self, p, s, hs, logits, y):
    found = []
    for l, h in enumerate(hs):
        h = h.detach().requires_grad_()
        found.append(torch.autograd.grad(self.tail_losses(p, h, y, l).sum(), h)[0])
    return found


def by_autograd_enabled(*args):
    with torch.enable_grad():
        return by_autograd(*args)


@pytest.mark.parametrize(
    "credit, wanted",
    [
        (one_hot, ["in float64 and without gradients, fails", "dtype", "to(logits.dtype)"]),
        (
            one_hot_widened,
            [
                "has dtype torch.float32 at level 0, whose state has torch.float64",
                "to(logits.dtype)",
            ],
        ),
        (
            by_autograd,
            [
                "without gradients, fails",
                "self.exact_credit or torch.func.grad",
                "torch.enable_grad()",
            ],
        ),
    ],
)
def test_credit_that_would_fail_at_the_last_diagnosis_is_refused_before_training(
    faults, credit, wanted
):
    text = told(faults(rule(credit)))
    assert all(part in text for part in wanted), text


def test_credit_may_have_a_gradient_attached_and_use_autograd_where_it_says_so(faults):
    def attached(self, p, s, hs, logits, y):
        return [
            a + 0 * p["embed.bias"].requires_grad_().sum()
            for a in by_autograd_enabled(self, p, s, hs, logits, y)
        ]

    assert not faults(rule(by_autograd_enabled)) and not faults(rule(attached))


def test_a_diagnosis_that_fails_is_found_before_training(faults):
    def parts(self, p, s, hs, logits, y):
        return {"other": hs[0] @ hs[1]}

    assert "mine' trains, but its diagnosis fails (RuntimeError" in told(faults(rule(parts=parts)))


# -- what a rule must leave alone


def edits(what):
    def credit(self, p, s, hs, logits, y):
        what(self, p, s, hs)
        return [self.exact_credit(p, hs, y, l) for l in range(len(hs))]

    def begin(self, cfg, model):
        LocalMethod.__init__(self, cfg, model)
        self.kept, self.table, self.rng = [torch.zeros(2)], {"runs": np.zeros(3)}, torch.Generator()

    state = {"init_state": lambda self, cfg, generator: {"B": torch.ones(3)}}
    return rule(credit, **state, __init__=begin, seen=[])


@pytest.mark.parametrize(
    "what, place",
    [
        (lambda self, p, s, hs: hs[2].mul_(2), "hs[2]"),
        (lambda self, p, s, hs: hs[1].data.add_(1), "hs[1]"),
        (lambda self, p, s, hs: p["readout.head.bias"].add_(1), "p['readout.head.bias']"),
        (lambda self, p, s, hs: s["B"].mul_(0.9), "s['B']"),
        (lambda self, p, s, hs: s.update(B=2 * s["B"]), "s['B']"),
        (lambda self, p, s, hs: self.kept[0].add_(1), "self['kept'][0]"),
        (lambda self, p, s, hs: self.kept.append(1), "self['kept']"),
        (lambda self, p, s, hs: self.table["runs"].__iadd__(1), "self['table']['runs']"),
        (lambda self, p, s, hs: self.table.update(n=1), "self['table']"),
        (lambda self, p, s, hs: torch.rand(1, generator=self.rng), "self['rng']"),
        (lambda self, p, s, hs: self.seen.append(1), "Mine['seen']"),
    ],
)
def test_what_a_rule_edits_in_place_is_named(faults, what, place):
    text = told(faults(edits(what)))
    assert (
        "credit of method 'mine' edits" in text
        and f"{place} in place" in text
        and "auxiliary returns" in text
    )


def test_an_attribute_set_while_training_is_refused(faults):
    def credit(self, p, s, hs, logits, y):
        self.mean = hs[0].mean()
        return hs

    text = told(faults(rule(credit)))
    assert (
        "'mine' sets self.mean after __init__" in text
        and "init_state" in text
        and "auxiliary" in text
    )


DRAWS = {
    "torch's": lambda: torch.rand(1).item(),
    "numpy's": lambda: np.random.rand(),
    "Python's": lambda: random.random(),
}


@pytest.mark.parametrize("whose", DRAWS)
@pytest.mark.parametrize("where", ["credit", "__init__", "init_state"])
def test_a_draw_from_a_global_generator_is_refused(faults, whose, where):
    draw = DRAWS[whose]

    def begin(self, cfg, model):
        LocalMethod.__init__(self, cfg, model)
        self.c = draw()

    parts = {
        "credit": {"credit": level(lambda a: a * draw())},
        "__init__": {"__init__": begin},
        "init_state": {"init_state": lambda self, cfg, generator: {"c": torch.tensor(draw())}},
    }[where]
    text = told(faults(rule(**parts)))
    assert (
        f"draws from {whose} global generator in " in text and where in text and "`noise`" in text
    )


def test_credit_that_is_another_each_time_is_refused(faults):
    """By a generator that nobody else sees, as by any other state outside of the method."""
    text = told(faults(rule(level(lambda a: a * float(rng.random()), at=1))))
    assert "differs at level 1 when it is called twice" in text


@pytest.mark.parametrize("hook", ["credit", "auxiliary", "at_epoch"])
def test_a_rule_that_changes_what_it_reads_is_refused(faults, hook):
    """It would get another id at each step, even where no result depends on it yet."""
    calls = []
    plain = vars(rule())[hook] if hook == "credit" else getattr(LocalMethod, hook)

    def counted(*args, **named):
        calls.append(len(calls))
        return plain(*args, **named)

    text = told(faults(rule(**{hook: counted})))
    assert "'mine' changes a global" in text and "init_state" in text


def test_a_rule_that_depends_on_its_company_is_refused(faults):
    """By what a module holds, here: that of the run that was made last."""
    seen = []

    def init_state(self, cfg, generator):
        seen.append(cfg.seed)
        return {}

    def credit(self, p, s, hs, logits, y):
        return [seen[-1] * self.exact_credit(p, hs, y, l) for l in range(len(hs))]

    for seeds in ((3,), (3, 4), (4, 3, 5)):
        assert "is another in company than alone (first in " in told(
            faults(rule(credit, init_state=init_state), seeds=seeds)
        )


@pytest.mark.parametrize(
    "name, way_out",
    [
        ("lr", "init_state or at_epoch"),
        ("seed", "init_state or at_epoch"),
        ("labels", "at_epoch"),
        ("clip", "at_epoch"),
        ("weight_decay", "at_epoch"),
        ("momentum", "at_epoch"),
        ("upstream", "at_epoch"),
        ("upstream_epoch", "at_epoch"),
        ("eta", r"s\['eta'\]"),
        ("penalty", r"s\['penalty'\]"),
        ("penalty_h0", r"s\['penalty_h0'\]"),
    ],
)
def test_a_field_that_members_may_differ_in_is_not_read_off_the_config(
    pixels, monkeypatch, name, way_out
):
    """Neither from a method or its model, nor from what __init__ receives."""
    plain, with_default = (
        (lambda self: getattr(self.cfg, name)),
        (lambda self: getattr(self.cfg, name, None)),
    )
    for read in (plain, with_default, lambda self: getattr(self.model.cfg, name)):

        def credit(self, p, s, hs, logits, y, read=read):
            return [read(self) * h for h in hs]

        monkeypatch.setitem(METHODS, "mine", rule(credit))
        with pytest.raises(RuleError, match=rf"self.cfg.{name}: .*{way_out}"):
            Ensemble([tiny("mine")], pixels).run_epoch(1)

    def begin(self, cfg, model):
        LocalMethod.__init__(self, cfg, model)
        self.found = getattr(cfg, name)

    monkeypatch.setitem(METHODS, "mine", rule(__init__=begin))
    with pytest.raises(RuleError, match=f"self.cfg.{name}"):
        Ensemble([tiny("mine")], pixels)


# -- names


@pytest.mark.parametrize(
    "name, hook",
    [
        ("credits", "credit"),
        ("creidt", "credit"),
        ("init_states", "init_state"),
        ("auxillary", "auxiliary"),
        ("at_epochs", "at_epoch"),
        ("surogate", "surrogate"),
        ("option", "options"),
        ("member_option", "member_options"),
    ],
)
def test_a_misspelt_part_is_named(faults, name, hook):
    with pytest.warns(UserWarning, match=f"faeval calls no '{name}'; did you mean '{hook}'"):
        assert not faults(rule(**{name: lambda self: None}))


def test_a_rule_without_credit_is_refused(faults):
    bare = {"name": "mine", "__module__": __name__}
    assert told(faults(type("Mine", (LocalMethod,), bare))) == "method 'mine' has no `credit`"
    kind = type("Mine", (LocalMethod,), bare | {"credits": lambda self: None})
    assert told(faults(kind)) == "method 'mine' has no `credit`; did you mean it by 'credits'?"
    kind = type("Mine", (Method,), bare | {"credit": lambda self, *args: None})
    assert told(faults(kind)) == "method 'mine' has no `surrogate`"


def test_a_change_of_a_state_that_there_is_not_is_refused(faults):
    def auxiliary(self, p, s, hs, logits, y):
        return 0.0, {"maen": torch.zeros(4)}

    kind = rule(
        auxiliary=auxiliary, init_state=lambda self, cfg, generator: {"mean": torch.zeros(4)}
    )
    assert "changes 'maen', which its state does not hold; did you mean 'mean'?" in told(
        faults(kind)
    )
    kind = rule(
        auxiliary=lambda self, *args: (0.0, {"mean": torch.zeros(5)}), init_state=kind.init_state
    )
    assert "changes 'mean' from shape (4,) to (5,)" in told(faults(kind))
    kind = rule(
        auxiliary=lambda self, *args: (0.0, {"mean": torch.full((4,), torch.nan)}),
        init_state=kind.init_state,
    )
    assert "the changed mean is not finite" in told(faults(kind))
    kind = rule(init_state=lambda self, cfg, generator: {"eta": torch.zeros(4)})
    assert "init_state of method 'mine' names ['eta']" in told(faults(kind))


def test_options_that_nothing_reads_are_named(faults):
    def credit(self, p, s, hs, logits, y):
        a = self.exact_credit(p, hs, y, 1) * self.cfg.options["read"]
        if self.cfg.options["rare"] > 1:
            a = a * self.cfg.options["then"]
        return [a] * len(hs)

    options = {"read": 1.0, "rare": 0.0, "then": 1.0, "lost": 1.0}
    with pytest.warns(UserWarning, match="'mine' reads no option 'lost', so"):
        assert not faults(rule(credit, options=options))
    with pytest.warns(UserWarning, match="'mine' reads no option 'feedback_scale', so"):
        assert not faults(rule(base=DFA, init_state=lambda self, cfg, generator: {}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not faults(rule(DFA.credit, base=DFA)) and not faults(
            rule(CreditBridge.credit, base=CreditBridge)
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"credit_norm": "sample_rms"},
        {"embedding": "shared"},
        {"rule": "cosine"},
        {"credit_level": "input"},
        {"penalty": 0.1},
        {"penalty_h0": 0.1},
        {"norm_embedding": False},
    ],
)
def test_a_setting_that_a_surrogate_of_the_rules_own_ignores_is_refused(faults, changes):
    def surrogate(self, p, s, x, y):
        loss = self.model.loss(self.model.logits(p, self.model.embed(p, x, {}), 0, {}), y)
        return loss, (loss.detach(), {})

    def passing(self, *args):
        return LocalMethod.surrogate(self, *args)

    [(name, value)] = changes.items()
    text = told(faults(rule(surrogate=surrogate), **changes))
    assert (
        f"the surrogate of method 'mine' ignores {name}={value!r}; leave it at its default" in text
    )
    assert not faults(rule(surrogate=surrogate)) and not faults(rule(surrogate=passing), **changes)


# -- what is told and may be meant


def test_credit_of_the_wrong_sign_is_told(faults):
    with pytest.warns(
        UserWarning,
        match="against BP's gradient at level 2 of the initial net .Γ -1.00.; check the sign",
    ):
        assert not faults(rule(level(lambda a: -a)))


def test_credit_that_is_zero_is_told_where_something_hears_it(faults):
    with pytest.warns(
        UserWarning, match="credit of method 'mine' is zero at level 2 of the initial net"
    ):
        assert not faults(rule(level(torch.zeros_like)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not faults(rule(level(torch.zeros_like, at=0)), embedding="init")


# -- before anything is trained


def test_nothing_is_trained_where_a_rule_has_a_fault(store, monkeypatch):
    """Of the run itself, of others that are asked for, and of the run that it starts from."""
    begun, real = [], Ensemble.run_epoch

    def epoch(self, steps=None):
        begun.extend(self.configs if steps is None else ())
        return real(self, steps)

    monkeypatch.setattr(Ensemble, "run_epoch", epoch)
    monkeypatch.setitem(METHODS, "mine", rule(one_hot))
    for asked in (tiny("mine"), tiny("dfa", upstream=tiny("mine"), upstream_epoch=1)):
        with pytest.raises(RuleError, match="to.logits.dtype"):
            run([tiny("bp"), asked], store, progress=False)
    assert not begun
    monkeypatch.setitem(METHODS, "mine", rule(one_hot, name="mine"))
    with (
        ThreadPoolExecutor(1) as pool,
        pytest.raises(RunsFailed, match="1 runs failed.*to.logits.dtype"),
    ):
        run([tiny("bp"), tiny("mine")], store, progress=False, executor=pool)
    assert [c.method for c in begun] == ["bp"] * 2


def test_a_check_needs_few_images(blobs):
    few = preflight.few(blobs, 100, "cpu")
    assert (
        few.n == 200
        and len(few.test[1]) == 128
        and data.load("blobs").fingerprint == blobs.fingerprint
    )
