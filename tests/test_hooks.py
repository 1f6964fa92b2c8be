"""Hooks that whole families of rules need: inputs, other states to learn on, rates, prediction,
averaged credit; and that they cost nothing where a rule leaves them alone.
"""

import math

import pytest
import torch
from conftest import ROUNDING, ROUNDING32, apart, same, tiny

from faeval_core import METHODS, LocalMethod, preflight
from faeval_core.ground.streams import stream
from faeval_core.measure import diagnostics
from faeval_core.methods.base import RuleError
from faeval_core.training import Ensemble, build, fresh_progress, initial, noise, train
from faeval_core.training.measurement import probe


class Exact(LocalMethod):
    """Exact credit, in place of which the rules below change one thing each."""

    name = "mine"

    def credit(self, p, s, hs, logits, y):
        return [self.exact_credit(p, hs, y, l) for l in range(len(hs))]


class Seeing(Exact):
    """The same credit, at h_0 made anew of the inputs; `common` and `auxiliary` receive them,
    too.
    """

    def init_state(self, cfg, generator):
        return {"mean": torch.zeros(())}

    def credit(self, p, s, hs, logits, y, x):
        assert apart({0: self.model.embed(p, x, {})}, {0: hs[0]}) < ROUNDING32
        return super().credit(p, s, hs, logits, y)

    def common(self, p, s, hs, logits, y, x):
        return {"seen": x.mean()}

    def auxiliary(self, p, s, hs, logits, y, x):
        assert s["seen"] == x.mean()
        return 0.0, {"mean": s["seen"]}


class Same(Exact):
    """It says which states its weights learn on: those of the forward pass."""

    def inputs(self, p, s, x, hs, logits, y):
        return x, hs


class Elsewhere(Exact):
    """Its weights learn on states of a second pass, of inputs a little larger."""

    def inputs(self, p, s, x, hs, logits, y):
        x = 1.5 * x
        return x, self.model.states(p, self.model.embed(p, x, {}), stats={})


class Rated(Exact):
    """A learning rate of its own for its auxiliary, none for the readout, no decay of the blocks'
    biases.
    """

    options = {"factor": 0.1}
    member_options = ("factor",)

    def init_params(self, cfg, generator):
        return {"aux.v": torch.randn(self.model.classes, generator=generator)}

    def auxiliary(self, p, s, hs, logits, y):
        return (logits.mean(0) - p["aux.v"]).square().sum(), {}

    def rates(self, cfg, name):
        if name.startswith("aux."):
            return {"lr": cfg.options["factor"], "weight_decay": 2.0}
        return {"weight_decay": 0.0} if name.endswith("fc1.bias") else {}


class Constant(Exact):
    """It takes everything for class 2."""

    def predict(self, p, s, x):
        return torch.full((len(x),), 2)


class Noisy(Exact):
    """Exact credit of each sample, times a random number of mean 1."""

    draws = 16

    def noise(self, batch):
        return {"xi": (batch, 1)}

    def credit(self, p, s, hs, logits, y):
        return [a * (1 + 3 * s["xi"]) for a in super().credit(p, s, hs, logits, y)]


@pytest.fixture
def mine(monkeypatch):
    def registered(kind):
        monkeypatch.setitem(METHODS, "mine", kind)

    return registered


def result(configs, pixels):
    """(tensors after training, progress) of the members, in float64 where the pixels are."""
    ensemble, progress = Ensemble(configs, pixels), [fresh_progress() for _ in configs]
    for _ in train(ensemble, progress, configs[0].epochs):
        pass
    return [ensemble.export(m) for m in range(len(configs))], progress


def short(**changes):
    return tiny("mine", epochs=1, width=8, depth=2, batch_size=256, **changes)


# -- the inputs


def test_inputs_reach_each_hook_that_names_them_in_training_and_diagnosis(mine, pixels):
    """Wherever credit is asked for, x is what hs are of: the rule itself compares."""
    mine(Seeing)
    assert not preflight.faults([short()])
    [tensors], _ = result([short()], pixels)
    assert tensors["state/mean"] != 0
    mine(Exact)
    [plain], _ = result([short()], pixels)
    wanted = {k: v for k, v in plain.items()}
    assert apart({k: tensors[k] for k in wanted}, wanted) == 0


@pytest.mark.parametrize("name", METHODS)
def test_rules_without_a_hook_are_asked_as_before(name, monkeypatch, pixels):
    """None of faeval's own is given x, rates, draws, or another passage through its blocks."""
    cfg = tiny(name)
    method, _ = build(cfg, (3, 8, 8), 4)
    assert not method.given_x and method.draws == 1
    assert not getattr(method, "learns_elsewhere", False)
    [(names, groups, _)] = Ensemble([cfg], pixels).optimizer.learning
    assert [g.names for g in groups] == ([names] if names else [])
    assert all((g.lr, g.weight_decay) == (1, cfg.weight_decay) for g in groups)


# -- other states to learn on


@pytest.mark.parametrize("model", ["resmlp", "convnet"])
@pytest.mark.parametrize("embedding", ["rule", "exact", "init"])
def test_weights_that_learn_on_the_states_of_the_forward_pass_learn_as_without_the_hook(
    mine, pixels64, model, embedding
):
    x, y = pixels64.subset("train", 64)
    found = []
    for kind in (Exact, Same):
        mine(kind)
        cfg = tiny("mine", model=model, embedding=embedding, penalty=0.1)
        method, _ = build(cfg, (3, 8, 8), 4)
        p, s = initial(cfg, method)
        names = [k for k in p if not k.endswith(method.model.statistics)]
        found.append(diagnostics.own_gradient(method, p, s, x, y, names))
    plain, other = ({k: v for k, v in g.items() if v is not None} for g in found)
    assert plain.keys() == other.keys() and apart(other, plain) < ROUNDING


def test_weights_learn_on_the_states_that_a_rule_names_by_the_credit_of_the_forward_pass(
    mine, pixels64
):
    mine(Elsewhere)
    x, y = pixels64.subset("train", 64)
    method, model = build(tiny("mine", penalty=0.1), (3, 8, 8), 4)
    p, s = initial(tiny("mine", penalty=0.1), method)
    found = diagnostics.own_gradient(method, p, s, x, y, list(p))
    hs, logits, _ = diagnostics.gradients(method, p, x, y)
    others = model.states(p, model.embed(p, 1.5 * x, {}), stats={})
    leaves = {k: v.clone().requires_grad_() for k, v in p.items()}
    credit = method.credit(p, s, hs, logits, y)
    scalar = (model.embed(leaves, 1.5 * x) * credit[0]).sum() / len(x)
    for l in range(model.depth):
        scalar = scalar + (model.block(leaves, l, others[l]) * credit[l + 1]).sum() / len(x)
        scalar = scalar + 0.1 * model.block(leaves, l, hs[l]).square().sum() / len(x)
    scalar = scalar + model.loss(model.readout(leaves, others[-1]), y)
    wanted = dict(zip(leaves, torch.autograd.grad(scalar, list(leaves.values()))))
    assert apart(found, wanted) < ROUNDING
    made = diagnostics.update_alignment(method, p, s, {}, x, y)["credit_cos"]
    assert made == pytest.approx([1.0] * model.depth, abs=ROUNDING)


@pytest.mark.parametrize(
    "answer, wanted",
    [
        (lambda x, hs: hs, r"must return \(x, \[h_0..h_3\]\)"),
        (lambda x, hs: (x, hs[:-1]), "are 3 states; it needs one for each of the levels 0..3"),
        (lambda x, hs: (x[:, :1], hs), r"has x of \(100, 1, 8, 8\)"),
        (lambda x, hs: (x, [hs[0] / 0, *hs[1:]]), "has h_0 that is not finite"),
        (lambda x, hs: (x, [h.double() for h in hs]), "has h_0 of .* torch.float64, in place of"),
        (lambda x, hs: (x.mul_(2), hs), "inputs of method 'mine' edits x in place"),
        (
            lambda x, hs: (x + torch.randn_like(x), hs),
            "draws from torch's global generator in inputs",
        ),
    ],
)
def test_states_that_no_weight_can_learn_on_are_refused(mine, answer, wanted):
    mine(type("Mine", (Exact,), {"inputs": lambda self, p, s, x, hs, *_: answer(x, hs)}))
    [error] = preflight.faults([tiny("mine")]).values()
    with pytest.raises(RuleError, match=wanted):
        raise error


# -- rates


@pytest.mark.parametrize("driver", ["loop", "vmap"])
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_rates_are_those_of_torchs_parameter_groups(mine, pixels64, optimizer, driver):
    """Beside a member of another rate; steps of torch's own optimiser with a group per rate."""
    mine(Rated)
    recipe = {"optimizer": optimizer, "lr": 0.01, "weight_decay": 0.3, "batch_size": 64}
    configs = [tiny("mine", **recipe, options={"factor": f}, augment=False) for f in (5.0, 0.5)]
    ensemble = Ensemble(configs, pixels64, driver=driver)
    for m, factor in enumerate((5.0, 0.5)):
        p, s = ensemble.member(m)
        leaves = {k: v.clone().requires_grad_() for k, v in p.items()}
        aux = [leaves["aux.v"]]
        undecayed = [v for k, v in leaves.items() if k.endswith("fc1.bias")]
        rest = [v for k, v in leaves.items() if k != "aux.v" and not k.endswith("fc1.bias")]
        kind = torch.optim.AdamW if optimizer == "adamw" else torch.optim.SGD
        plain = {} if optimizer == "adamw" else {"momentum": 0.9}
        groups = [
            {"params": rest, "weight_decay": 0.3},
            {"params": undecayed, "weight_decay": 0.0},
            {"params": aux, "lr": 0.01 * factor, "weight_decay": 0.6},
        ]
        by_torch = kind(groups, lr=0.01, **plain)
        configs[m] = (leaves, by_torch, s)
    batches = [(x.clone(), y.clone()) for x, y in ensemble.batches()][:4]
    ensemble.run_epoch(4)
    for m, (leaves, by_torch, s) in enumerate(configs):
        for x, y in batches:
            scalar, _ = ensemble.method.surrogate(leaves, s, x[m], y[m])
            by_torch.zero_grad()
            scalar.backward()
            by_torch.step()
        found = ensemble.member(m)[0]
        assert apart(found, {k: v.detach() for k, v in leaves.items()}) < ROUNDING


def test_the_optimisers_step_that_is_recorded_is_at_the_rates_of_its_leaves(mine, pixels64):
    mine(Rated)
    ensemble = Ensemble([tiny("mine", options={"factor": 5.0})], pixels64)
    ensemble.run_epoch(2)
    step = ensemble.optimizer.direction(0)
    mine(Exact)
    moments = {k: v["aux.v"][0] for k, v in ensemble.optimizer.moments.items()}
    wanted = 5.0 * moments["exp_avg"] / (moments["exp_avg_sq"].sqrt() + 1e-8)
    same(step["aux.v"], wanted)


@pytest.mark.parametrize(
    "rates", [{"lr": -1.0}, {"lr": math.nan}, {"rate": 1.0}, 0.1, {"lr": "fast"}]
)
def test_rates_that_are_none_are_refused(mine, rates):
    mine(type("Mine", (Exact,), {"rates": lambda self, cfg, name: rates}))
    [error] = preflight.faults([tiny("mine")]).values()
    with pytest.raises(RuleError, match="rates of method 'mine' are .* for embed.weight; give"):
        raise error


# -- prediction


def test_accuracy_is_that_of_what_a_rule_predicts(mine, pixels):
    mine(Constant)
    assert not preflight.faults([short()])
    _, [progress] = result([short()], pixels)
    share = (pixels.test[1] == 2).double().mean().item()
    assert progress["curves"]["test_acc"] == [share]


@pytest.mark.parametrize(
    "answer, wanted",
    [
        (lambda x: torch.zeros(len(x), 4), "is of type torch.float32; it needs whole numbers"),
        (lambda x: torch.zeros(len(x), 4, dtype=int), r"has shape \(100, 4\)"),
        (lambda x: torch.full((len(x),), 4), r"names classes outside 0..3"),
        (lambda x: [0] * len(x), "is of type list"),
        (lambda x: torch.randint(4, (len(x),)), "draws from torch's global generator in predict"),
    ],
)
def test_predictions_that_are_no_classes_are_refused(mine, answer, wanted):
    mine(type("Mine", (Exact,), {"predict": lambda self, p, s, x: answer(x)}))
    [error] = preflight.faults([tiny("mine")]).values()
    with pytest.raises(RuleError, match=wanted):
        raise error


# -- averaged credit


def test_random_credit_is_averaged_over_the_draws_that_a_rule_declares(mine, pixels64):
    """By hand: the mean credit over the noise that the record's generator gives."""
    mine(Noisy)
    cfg = short()
    ensemble = Ensemble([cfg], pixels64)
    found = ensemble.diagnose(0)
    method, (p, s), (x, y) = ensemble.method, ensemble.member(0), probe(ensemble, "test")
    hs, logits, gs = diagnostics.gradients(method, p, x, y)
    generator = stream(cfg.seed, "noise.test", 0)
    factors = [1 + 3 * noise(method, cfg, len(y), generator)["xi"] for _ in range(Noisy.draws)]
    exact = Exact.credit(method, p, s, hs, logits, y)
    for key, factor in (("gamma", sum(factors)), ("gamma_draw", factors[0])):
        wanted = [diagnostics.gamma(method, a * factor, g) for a, g in zip(exact, gs)]
        assert found[key] == pytest.approx(wanted, abs=ROUNDING)
    assert found["draws"] == Noisy.draws and found["gamma"][1] > found["gamma_draw"][1]
    assert found["gamma_fp64"] == pytest.approx(found["gamma"], abs=ROUNDING)
    assert found["rescaled"]["gamma"] == pytest.approx(found["gamma"], abs=1e-3)
    mine(Exact)
    assert not {"draws", "gamma_draw"} & Ensemble([cfg], pixels64).diagnose(0).keys()


@pytest.mark.parametrize("draws, wanted", [(0, "number of draws"), (2, "noise.* names nothing")])
def test_draws_of_nothing_are_refused(mine, draws, wanted):
    mine(type("Mine", (Exact,), {"draws": draws}))
    [error] = preflight.faults([tiny("mine")]).values()
    with pytest.raises(RuleError, match=wanted):
        raise error


def test_parameters_that_no_term_reaches_are_told(mine):
    """Feedback that is not learned, by the names of its leaves."""
    mine(type("Mine", (Rated,), {"auxiliary": lambda self, p, s, hs, logits, y: (0.0, {})}))
    with pytest.warns(match="no term of its scalar reaches aux.v: what is not learnt"):
        assert not preflight.faults([tiny("mine")])
