"""A member's result is what it is alone, whatever its company: drawn members of drawn rules, in
float64.
"""

from dataclasses import replace

import pytest
import torch
from conftest import ROUNDING, apart, drawn, float64, tiny
from hypothesis import given
from hypothesis import strategies as st

from faeval_core import METHODS, LocalMethod, data, register
from faeval_core.methods.base import RuleError
from faeval_core.methods.learned import Learned
from faeval_core.training import Ensemble

EPOCHS, STEPS = 3, 2

pytestmark = pytest.mark.numerical


class Mirror(LocalMethod):
    """Feedback that learns from noise put into each block, by what it changes in the state: there
    is no `aux.` parameter.
    """

    name = "mirror"

    def init_state(self, cfg, generator):
        n = self.model.width
        return {"B": 0.01 * torch.randn(self.model.depth, n, n, generator=generator)}

    def noise(self, batch):
        return {"xi": (self.model.depth, batch, self.model.width)}

    def credit(self, p, s, hs, logits, y):
        a = [self.exact_credit(p, hs, y, len(hs) - 1)]
        for l in reversed(range(len(hs) - 1)):
            a.append(a[-1] + a[-1] @ s["B"][l])
        return a[::-1]

    def auxiliary(self, p, s, hs, logits, y):
        new = []
        for l, xi in enumerate(0.1 * s["xi"]):
            response = self.model.block(p, l, hs[l] + xi, {}) - self.model.block(p, l, hs[l], {})
            new.append(0.95 * s["B"][l] + 5.0 * response.T @ xi / len(xi))
        return 0.0, {"B": torch.stack(new)}


class Scheduled(LocalMethod):
    """A sign by the run's own learning rate and epoch, and member options of every type that there
    is.
    """

    name = "scheduled"
    options = {"turn": 1, "warm": True, "gain": 1.0}
    member_options = ("turn", "warm", "gain")

    def at_epoch(self, cfg, epoch):
        return {"sign": torch.tensor(1.0 if cfg.lr > 5e-3 or epoch < cfg.options["turn"] else -1.0)}

    def credit(self, p, s, hs, logits, y):
        size = s["gain"] * (1 + s["turn"]) * torch.where(s["warm"], 1.0, 0.5)
        return [s["sign"] * size * self.exact_credit(p, hs, y, l) for l in range(len(hs))]


class Gated(Learned):
    """Learned credit of one vector per level, and a count of the steps in which it was fitted."""

    name = "gated"

    def outputs(self):
        return self.model.sizes

    def init_params(self, cfg, generator):
        return {
            f"aux.v{l}": torch.randn(n, generator=generator) for l, n in enumerate(self.model.sizes)
        }

    def init_state(self, cfg, generator):
        return super().init_state(cfg, generator) | {"fitted": torch.tensor(0)}

    def learned(self, p, s, hs, logits, y):
        return [p[f"aux.v{l}"].expand_as(h) for l, h in enumerate(hs)]

    def auxiliary(self, p, s, hs, logits, y):
        targets = self.direct(s, logits, y)
        error = sum((p[f"aux.v{l}"] - a.mean(0)).square().sum() for l, a in enumerate(targets))
        return error, {"fitted": s["fitted"] + 1}


class Hooked(LocalMethod):
    """Credit of the inputs, weights that learn on a second pass, an auxiliary net at a rate of the
    member's own.
    """

    name = "hooked"
    options = {"rate": 1.0}
    member_options = ("rate",)

    def init_params(self, cfg, generator):
        return {"aux.F": torch.randn(self.model.features, self.model.classes, generator=generator)}

    def auxiliary(self, p, s, hs, logits, y, x):
        return (x.flatten(1) @ p["aux.F"] - logits).square().mean(), {}

    def rates(self, cfg, name):
        return {"lr": cfg.options["rate"], "weight_decay": 2.0} if name.startswith("aux.") else {}

    def inputs(self, p, s, x, hs, logits, y):
        x = x + (self.model.output_error(logits, y) @ p["aux.F"].T).view_as(x)
        return x, self.model.states(p, self.model.embed(p, x, {}), stats={})

    def credit(self, p, s, hs, logits, y, x):
        _, others = self.inputs(p, s, x, hs, logits, y)
        return [h - other for h, other in zip(hs, others)]


OWN = {rule.name: rule for rule in (Mirror, Scheduled, Gated, Hooked)}
RULES = sorted({*METHODS, *OWN})
OF_NET = {"hidden": 4, "layers": 1}
SHARED = {  # options that make a method small, or another
    "sb": OF_NET,
    "cb": OF_NET | {"K": 2},
    "vec": OF_NET | {"M": 2},
    "ep": {"steps": 3, "beta": 0.5},
    "gated": {},
}
SCHEDULE = {
    "start": st.integers(0, 2),
    "stop": st.sampled_from([0, 3]),
    "wr": st.sampled_from([0.0, 0.5]),
    "decay": st.booleans(),
    "alpha": st.sampled_from([0.0, 0.5, 1.0]),
    "last": st.integers(0, 2),
    "freeze_after": st.integers(-1, 2),
    "refit_every": st.integers(0, 2),
    "feedback_scale": st.sampled_from([0.5, 1.0]),
}
MEMBER_OPTIONS = {
    "dfa": {"feedback_scale": st.sampled_from([0.5, 2.0])},
    "fa": {"feedback_scale": st.sampled_from([0.5, 2.0])},
    "ep": {"step": st.sampled_from([0.2, 0.5])},
    "sb": SCHEDULE,
    "gated": SCHEDULE,
    "cb": SCHEDULE | {"ema": st.sampled_from([0.5, 0.9]), "noise": st.sampled_from([0.1, 0.3])},
    "vec": SCHEDULE | {"fd_step": st.sampled_from([0.01, 0.1])},
    "scheduled": {
        "turn": st.integers(0, 2),
        "warm": st.booleans(),
        "gain": st.sampled_from([0.5, 2.0]),
    },
    "hooked": {"rate": st.sampled_from([0.0, 1.0, 5.0])},
}
FIELDS = {
    "seed": st.integers(1, 4),
    "labels": st.sampled_from(["true", "random"]),
    "lr": st.sampled_from([1e-3, 1e-2]),
    "weight_decay": st.sampled_from([0.0, 0.1]),
    "eta": st.sampled_from([0.1, 1.0]),
    "clip": st.sampled_from([0.0, 0.05]),
    "momentum": st.sampled_from([0.5, 0.9]),
    "penalty_h0": st.sampled_from([1e-3, 1e-1]),
}


@st.composite
def ensembles(draw):
    """Two or three members of one signature."""
    name = draw(st.sampled_from(RULES))
    shared = {
        "width": 6,
        "depth": 2,
        "epochs": EPOCHS,
        "batch_size": 16,
        "optimizer": draw(st.sampled_from(["adamw", "sgd"])),
    }
    options = dict(SHARED.get(name, {}))
    if issubclass(METHODS[name], LocalMethod):
        shared["rule"] = draw(st.sampled_from(["inner", "target"]))
    if issubclass(METHODS[name], Learned):
        options["mix"] = draw(st.sampled_from(["raw", "unit", "dfa"]))
    if name == "vec":
        options["source"] = draw(st.sampled_from(["net", "level", "gaussian", "scaled_dfa"]))
    members = draw(
        st.lists(
            st.tuples(
                st.fixed_dictionaries(FIELDS), st.fixed_dictionaries(MEMBER_OPTIONS.get(name, {}))
            ),
            min_size=2,
            max_size=3,
        )
    )
    return [tiny(name, **shared, **fields, options=options | own) for fields, own in members]


@pytest.fixture
def double(blobs, monkeypatch):
    """A few images in float64, and everything else of it that is made."""
    for name, rule in OWN.items():
        monkeypatch.setitem(METHODS, name, rule)
    few = {"train_x": 32, "train_y": 32, "test_x": 128, "test_y": 128}
    with float64():
        yield data.Pixels(replace(blobs, **{k: getattr(blobs, k)[:n] for k, n in few.items()}))


def trained(configs, pixels, driver):
    """All tensors of each member after all epochs."""
    ensemble = Ensemble(configs, pixels, driver=driver)
    for _ in range(EPOCHS):
        ensemble.run_epoch(STEPS)
    return [ensemble.export(m) for m in range(len(configs))]


@drawn(20)
@given(configs=ensembles(), driver=st.sampled_from(["loop", "vmap"]))
def test_drawn_members_are_the_same_alone_and_in_company(double, configs, driver):
    assert len({c.signature for c in configs}) == 1
    for cfg, found in zip(configs, trained(configs, double, driver)):
        [alone] = trained([cfg], double, "loop")
        assert apart(found, alone) < ROUNDING


@pytest.mark.parametrize("driver", ["loop", "vmap"])
def test_members_with_hooks_of_their_own_are_the_same_alone_and_in_company(double, driver):
    """Other rates, learning rates and decays side by side, and a member of none."""
    common = {"epochs": EPOCHS, "width": 6, "depth": 2, "batch_size": 16}
    own = ((1, 0.0, 0.0), (2, 5.0, 0.1), (3, 1.0, 0.1))
    configs = [
        tiny("hooked", **common, seed=s, weight_decay=wd, options={"rate": rate})
        for s, rate, wd in own
    ]
    for cfg, found in zip(configs, trained(configs, double, driver)):
        [alone] = trained([cfg], double, "loop")
        assert apart(found, alone) < ROUNDING
    still, *others = (e["param/aux.F"] for e in trained(configs, double, driver))
    start = Ensemble(configs, double).params["aux.F"]
    assert torch.equal(still, start[0]) and not torch.equal(others[0], start[1])


@pytest.mark.parametrize("driver", ["loop", "vmap"])
@pytest.mark.parametrize(
    "method, options, others",
    [
        ("sb", {"mix": "unit", "start": 2}, {"start": 0}),
        ("gated", {"mix": "unit", "start": 2}, {"start": 0}),
        ("cb", {"wr": 0.0, "refit_every": 2}, {"refit_every": 0}),
        ("vec", {"freeze_after": 1}, {"freeze_after": -1}),
        ("gated", {"freeze_after": 1}, {"start": 1}),
    ],
)
def test_members_in_different_phases_are_as_they_are_alone(double, driver, method, options, others):
    """One hears its net, or fits it, while the other does not; what is not fitted stands still."""
    cfg = tiny(method, epochs=EPOCHS, width=6, batch_size=16, options=SHARED[method] | options)
    other = cfg.with_(seed=2, options=cfg.options | others)
    [alone] = trained([cfg], double, "loop")
    for order in ([cfg, other], [other, cfg]):
        found = trained(order, double, driver)
        assert (
            apart(found[order.index(cfg)], alone)
            < ROUNDING
            < apart(found[order.index(other)], alone)
        )
    if method == "gated":
        assert alone["state/fitted"].item() == STEPS * (1 if "freeze_after" in options else EPOCHS)


def test_a_rule_without_trained_parameters_learns_by_what_it_changes(double):
    """In each step, alone and in company, with no `aux.` parameter; a rule without `auxiliary` is
    not asked for it.
    """
    [found] = trained([tiny("mirror", epochs=EPOCHS, batch_size=16)], double, "loop")
    start = Ensemble([tiny("mirror", epochs=EPOCHS, batch_size=16)], double)
    assert not torch.equal(found["state/B"], start.state["B"][0]) and start.phase[0].fits
    for name in METHODS:
        method = Ensemble([tiny(name)], double).method
        assert (
            method.phase_of(tiny(name), 0).fits or type(method).auxiliary is LocalMethod.auxiliary
        ), name


def test_member_options_of_every_type_reach_the_state(double):
    ensemble = Ensemble(
        [tiny("scheduled", options={"turn": t, "warm": w}) for t, w in ((1, True), (2, False))],
        double,
    )
    assert (
        ensemble.state["turn"].tolist() == [1, 2] and not ensemble.state["turn"].is_floating_point()
    )
    assert (
        ensemble.state["warm"].tolist() == [True, False]
        and ensemble.state["gain"].dtype == torch.float64
    )


@pytest.mark.parametrize(
    "options, member_options, told",
    [
        ({"way": "a"}, ("way",), "option 'way' .* is like 'a'.*take it out of member_options"),
        ({"gain": 1.0}, ("gian",), "unknown option .* 'gian'; did you mean 'gain'"),
    ],
)
def test_member_options_that_cannot_reach_the_state_are_refused_at_registration(
    options, member_options, told
):
    kind = type(
        "Mine",
        (LocalMethod,),
        {"name": "mine", "options": options, "member_options": member_options},
    )
    with pytest.raises(RuleError, match=told):
        register(kind)
    assert "mine" not in METHODS
