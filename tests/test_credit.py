"""Oracles of learned, relaxed and structured credit, and of blends and schedules, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import ROUNDING, SMALL, apart, member, same, scramble, tiny
from test_methods import exact_gradient, forward, gap, gradient

from faeval_core import METHODS, RunConfig, data
from faeval_core.ground.streams import stream
from faeval_core.measure.diagnostics import gamma, gradients
from faeval_core.training import Ensemble, build, initial
from faeval_core.training.execution import threads

pytestmark = pytest.mark.numerical


def shallow(method, x, **changes):
    """A scrambled member on some of the images, with its states, logits and exact credit."""
    method, model, p, s = member(tiny(method, **changes))
    p = {
        k: v if k.startswith("aux.") else w
        for (k, v), w in zip(p.items(), scramble(p, scale=0.1).values())
    }
    hs, logits = forward(model, p, x[0])
    exact = METHODS["bp"](method.cfg, model).credit(p, s, hs, logits, x[1])
    return method, model, p, s, [h.detach() for h in hs], logits.detach(), exact


def error(found, wanted):
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(found, wanted))


# -- equilibrium propagation


@pytest.mark.parametrize("symmetric, order", [(False, 1), (True, 2)])
def test_eps_contrast_tends_to_bp_as_beta_vanishes(batch, symmetric, order):
    """At a converged fixed point the credit's relative error falls as β (one-sided) or β²
    (symmetric).
    """
    options = {"steps": 220, "step": 0.5, "symmetric": symmetric}
    method, model, p, s, hs, logits, exact = shallow("ep", batch, options=options, width=8, depth=2)
    errors = []
    for beta in (1e-3, 5e-4):
        s["beta"] = torch.tensor(beta, dtype=torch.float64)
        errors.append(error(method.credit(p, s, hs, logits, batch[1]), exact))
    slope = math.log2(errors[0] / errors[1])
    print(f"EP, order {order}: relative errors {errors}, slope {slope}")
    assert slope == pytest.approx(order, abs=0.1)  # the next order is a thousandth
    s["beta"] = torch.tensor(1e-5, dtype=torch.float64)
    left = max(errors[0] * 0.01**order, ROUNDING)
    assert gap(gradient(method, p, s, *batch), exact_gradient(model, p, *batch)) < 10 * left


def test_ep_hears_one_level_per_relaxation_step(batch):
    """No back-propagation inside: after k steps the nudge has reached the k highest levels and no
    other.
    """
    for steps in (1, 2, 3):
        method, model, p, s, hs, logits, _ = shallow("ep", batch, options={"steps": steps})
        reached = [a.norm() > 1e-9 for a in method.credit(p, s, hs, logits, batch[1])]
        assert reached == [False] * (4 - steps) + [True] * steps


def test_eps_contrast_drowns_in_float32_on_a_large_stream_but_not_in_float64():
    """The same function with a stream 1e3 times as large: its gradient is 1e3 times as small, the
    states' rounding as large.
    """
    x, y = torch.randn(32, 3, 8, 8, generator=stream(0, "x")), torch.arange(32) % 10
    found = {}
    for double in (False, True):
        cfg = RunConfig(
            "ep",
            "digits",
            width=32,
            depth=3,
            augment=False,
            options={"double": double, "steps": 60},
        )
        method, model = build(cfg, (3, 8, 8), 10)
        p, s = initial(cfg, method)
        q = model.rescaled(p, 1e3)
        hs, logits, gs = gradients(method, q, x, y)
        credit = method.credit(q, s, hs, logits, y)
        assert credit[0].dtype == torch.float32
        found[double] = [gamma(method, a, g) for a, g in zip(credit, gs)]
    assert max(found[False]) < 0.5 and min(found[True]) > 0.99


def test_ep_holds_h0_where_told(batch):
    options = {"relax_h0": False}
    method, model, p, s, hs, logits, _ = shallow("ep", batch, options=options, embedding="init")
    found = method.credit(p, s, hs, logits, batch[1])
    assert not found[0].any() and found[1].norm() > 0


# -- structured feedback


@pytest.mark.parametrize("name", ["kp", "signsym"])
def test_structured_feedback_of_the_true_weights_is_bp(batch, name, monkeypatch):
    method, model, p, s, hs, logits, exact = shallow(name, batch)
    weights = {f"{k}.feedback": p[f"{k}.weight"] for k in method.weights(p)}
    assert (
        len(weights) == 2 * model.depth
        and error(method.credit(p, s, hs, logits, batch[1]), exact) > 1e-3
    )
    monkeypatch.setattr(type(method), "feedback", lambda self, p, s: weights)
    assert error(method.credit(p, s, hs, logits, batch[1]), exact) < ROUNDING


def test_structured_credit_travels_through_feedback_alone(batch):
    """With B = 0 the skip connection is all that is left: every level gets δ_L, whatever the
    weights.
    """
    method, model, p, s, hs, logits, exact = shallow("kp", batch)
    p = {k: v * 0 if k.startswith("aux.") else v for k, v in p.items()}
    for a in method.credit(p, s, hs, logits, batch[1]):
        same(a, exact[-1])


def test_sign_symmetric_feedback_has_the_weights_signs_and_scale(batch):
    method, model, p, s, *_ = shallow("signsym", batch)
    for k, b in method.feedback(p, s).items():
        w = p[k.replace("feedback", "weight")]
        assert torch.equal(b.sign(), w.sign()) and b.abs().std() < ROUNDING * b.abs().mean()
        same(b.pow(2).mean(), w.pow(2).mean())


def test_kolen_pollacks_feedback_converges_to_the_weights(pixels64):
    """B gets W's updates, so B - W shrinks by the decay (1 - lr·wd) a step and by nothing else."""
    cfg = tiny("kp", epochs=3, schedule="constant", lr=0.1, weight_decay=2.0)
    ensemble = Ensemble([cfg], pixels64)
    names = ensemble.method.weights(ensemble.member(0)[0])

    def differences():
        return torch.cat(
            [
                (ensemble.params[f"{k}.weight"] - ensemble.params[f"aux.{k}"]).flatten()
                for k in names
            ]
        )

    start = differences()
    for steps in (10, 20, 30):
        ensemble.run_epoch()
        same(differences(), start * 0.8**steps)
    p = ensemble.member(0)[0]
    assert (
        min(
            F.cosine_similarity(p[f"{k}.weight"].flatten(), p[f"aux.{k}"].flatten(), 0)
            for k in names
        )
        > 0.99
    )


# -- learned credit


def test_vector_fields_slopes_in_every_direction_are_the_bp_gradient(batch):
    """M = width orthonormal directions and a small step: Σ slope·v is the gradient, to O(ε²)
    central and O(ε) one-sided.
    """
    for one_sided, order in ((False, 2), (True, 1)):
        method, model, p, s, hs, logits, exact = shallow(
            "vec", batch, options={"one_sided": one_sided}
        )
        eye = torch.eye(12, dtype=torch.float64)[:, None].expand(-1, len(batch[1]), -1)
        errors = []
        for step in (1e-2, 1e-3):
            found = method.slopes(p, hs, batch[1], [eye] * len(hs), step)
            errors.append(error([(slope[..., None] * v).sum(0) for v, slope in found], exact))
        print(f"vec, order {order}: relative errors {errors}")
        assert errors[1] < 10 * 1e-3**order and math.log10(errors[0] / errors[1]) == pytest.approx(
            order, abs=0.2
        )


@pytest.mark.parametrize("one_sided", [False, True])
@pytest.mark.parametrize("step", ["relative", "absolute"])
def test_vector_fields_slopes_by_hand(batch, step, one_sided):
    """One displaced state at a time through the blocks above it, over twice (or once) its step."""
    options = {"step": step, "one_sided": one_sided, "M": 3}
    method, _, p, s, hs, *_ = shallow("vec", batch, options=options)
    y = batch[1]
    found = method.slopes(p, hs, y, [s[f"direction.{l}"] for l in range(len(hs))], 0.02)
    for l, (h, (v, slope)) in enumerate(zip(hs, found)):
        eps = 0.02 * (h.norm(dim=1, keepdim=True) if step == "relative" else torch.ones(len(h), 1))
        low, down = (0.0, 1) if one_sided else (1.0, 2)
        for m in range(3):
            change = method.tail_losses(p, h + eps * v[m], y, l) - method.tail_losses(
                p, h - low * eps * v[m], y, l
            )
            same(v[m].norm(dim=1), torch.ones(len(h), dtype=h.dtype))
            same(slope[m], change / (down * eps[:, 0]))


def test_finite_differences_are_told_from_rounding(batch):
    """In float32 a step of 1e-3 on a stream of 1e6 changes nothing; one of a hundredth of the
    stream gives the derivative.
    """
    found = {}
    for step, size in (("relative", 0.01), ("absolute", 1e-3)):
        method, model, p, s, *_ = shallow("vec", batch, options={"step": step, "fd_step": size})
        p = {k: v.float() for k, v in model.rescaled(p, 1e6).items()}
        hs, _, gs = gradients(method, p, batch[0].float(), batch[1])
        found[step] = method.measured(p, s, hs, gs, batch[1], stream(0, "fd"))
    assert (
        found["relative"]["fd_zero"] == [0.0] * len(hs)
        and min(found["relative"]["fd_corr"]) > 0.999
    )
    assert min(found["absolute"]["fd_zero"]) > 0.3
    assert all(c is None or abs(c) < 0.5 for c in found["absolute"]["fd_corr"])


@pytest.mark.parametrize("target", ["fd", "zero"])
def test_a_field_in_units_of_its_own_fits_plain_squared_errors(batch, target):
    """Mean squared errors of <a, v>, and of a_L against δ_L; nothing is divided by the size of what
    is fitted.
    """
    options = {"units": "own", "target": target, "tw": 0.5}
    method, _, p, s, hs, logits, exact = shallow("vec", batch, options=options)
    y, fields = batch[1], method.learned(p, s, hs, logits, batch[1])
    expected = 0.5 * F.mse_loss(fields[-1], exact[-1]) if target == "fd" else 0.0
    for a, (v, slope) in zip(
        fields, method.slopes(p, hs, y, [s[f"direction.{l}"] for l in range(len(hs))], s["fd_step"])
    ):
        expected = expected + F.mse_loss(
            torch.einsum("bd,mbd->mb", a, v), slope if target == "fd" else 0 * slope
        )
    same(method.auxiliary(p, s, hs, logits, y)[0], expected)
    halved = {k: v / 2 if k.startswith("aux.out") else v for k, v in p.items()}
    for a, b in zip(fields, method.learned(halved, s, hs, logits, y)):
        same(b, a / 2)  # what the net writes is the credit


def test_what_credit_and_fit_share_is_made_once_a_step(batch, monkeypatch):
    method, model, p, s = member(tiny("vec", options={"alpha": 0.5, "mix": "unit"}))
    net, made = type(method).net, []
    monkeypatch.setattr(type(method), "net", lambda *a, **k: made.append(1) or net(*a, **k))
    once = gradient(method, p, s, *batch)
    assert len(made) == 1
    monkeypatch.setattr(type(method), "common", lambda *a: {})
    twice = gradient(method, p, s, *batch)
    assert len(made) == 3
    assert gap(twice, {k: v for k, v in once.items() if v.any()}) < ROUNDING


@pytest.mark.parametrize("target", ["fd", "shuffled", "zero"])
def test_vector_fields_loss_vanishes_at_its_own_target(batch, target, monkeypatch):
    """The exact gradient fits the differences and zero the zero target; the other does not, and
    neither fits shuffled ones.
    """
    method, model, p, s, hs, logits, exact = shallow(
        "vec", batch, options={"target": target, "fd_step": 1e-4, "tw": 0.0}
    )
    candidates = {"fd": exact, "zero": [torch.zeros_like(a) for a in exact]}
    losses = {}
    for name, field in candidates.items():
        monkeypatch.setattr(type(method), "learned", lambda *a, field=field: field)
        losses[name] = float(method.auxiliary(p, s, hs, logits, batch[1])[0])
    error = 10 * 1e-4**2  # of a central difference, relative, as measured above
    assert losses.get(target, 0) < 4 * error**2 and all(
        v > 0.1 for k, v in losses.items() if k != target
    )


def toy(name, **options):
    cfg = RunConfig(
        name,
        dataset="gaussian64",
        model="toylq",
        width=64,
        depth=3,
        augment=False,
        epochs=2,
        options=options,
    )
    method, model, p, s = member(cfg, (1, 1, 64), 10)
    x, y = data.load("gaussian64").train_x[:32].double(), data.load("gaussian64").train_y[:32]
    hs, logits = forward(model, p, x)
    weights = [torch.eye(64, dtype=torch.float64) + p[f"blocks.{l}.fc2.weight"] for l in range(3)]
    costate = [logits @ p["readout.head.weight"]]
    for a in reversed(weights):
        costate.insert(0, costate[0] @ a)
    return method, model, p, s, hs, logits, y, costate


def test_toy_lq_costate_is_closed_form():
    method, model, p, s, hs, logits, y, costate = toy("bp")
    assert error(method.credit(p, s, hs, logits, y), costate) < ROUNDING
    gradients = gradient(method, p, {**s, "process": s["process"] * 0}, hs[0], y)
    same(gradients["blocks.1.fc2.bias"], costate[2].mean(0))


def test_credit_bridge_with_the_exact_value_is_the_exact_costate(monkeypatch):
    """V = the quadratic cost to go: credit is the costate, and bridge, terminal value and gradient
    matching all vanish.
    """
    method, model, p, s, hs, logits, y, costate = toy("cb")

    def value(p, hs, code, levels=None):
        levels = range(len(hs)) if levels is None else levels
        out = []
        for h, l in zip(hs, levels):
            out.append(
                model.losses(
                    model.readout(p0, model.states(p0, h, l)[-1]), y.repeat(len(h) // len(y))
                )
            )
        return torch.stack(out)

    p0 = p
    monkeypatch.setattr(type(method), "values", staticmethod(value))
    assert error(method.learned(p, s, hs, logits, y), costate) < ROUNDING
    s["noise"] = torch.tensor(0.0, dtype=torch.float64)
    assert float(method.auxiliary(p, s, hs, logits, y)[0]) < 1e-20
    s["noise"] = torch.tensor(0.1, dtype=torch.float64)
    assert float(method.auxiliary(p, s, hs, logits, y)[0]) > 1e-4


def test_soft_minimum_by_hand(batch, monkeypatch):
    """-λ log mean_k exp(-V_k / λ): between the minimum and the mean of the copies' values, and
    equal values pass unchanged.
    """
    method, model, p, s, hs, logits, _ = shallow(
        "cb", batch, options={"tgw": 0.0, "K": 2, "temperature": 0.5}
    )
    copies = iter(
        [torch.tensor([[1.0] * 32 + [3.0] * 32] * 3).double(), torch.zeros(4, 32).double()]
    )
    monkeypatch.setattr(type(method), "values", lambda *a: next(copies))
    target = -0.5 * math.log((math.exp(-1 / 0.5) + math.exp(-3 / 0.5)) / 2)
    terminal = F.cross_entropy(logits, batch[1], reduction="none").pow(2).mean()
    found, moved = method.auxiliary(p, s, hs, logits, batch[1])
    assert 1 < target < 2 and float(found) == pytest.approx(
        target**2 + terminal.item(), rel=ROUNDING
    )


def test_credit_bridge_average_follows(batch):
    method, model, p, s, hs, logits, _ = shallow("cb", batch)
    moved = {k: v + 1 for k, v in p.items() if k.startswith("aux.")}
    _, changed = method.auxiliary({**p, **moved}, s, hs, logits, batch[1])
    for k in moved:
        same(changed[f"ema.{k}"], s[f"ema.{k}"] + 0.005 * (moved[k] - s[f"ema.{k}"]))


@pytest.mark.parametrize("skip", [True, False])
def test_state_bridge_on_a_linear_system_is_exact(monkeypatch, skip):
    """G = the linear flow to the end, with the skip or without: credit is the costate, and the
    net's own loss vanishes.
    """
    method, model, p, s, hs, logits, y, costate = toy("sb", skip=skip)
    unit = hs[-1].square().mean().sqrt()

    def flow(p0, hs, code):
        return [(model.states(p, h, l)[-1] - skip * h) / unit for l, h in enumerate(hs)]

    monkeypatch.setattr(type(method), "net", staticmethod(flow))
    assert error(method.learned(p, s, hs, logits, y), costate) < ROUNDING
    assert float(method.auxiliary(p, s, hs, logits, y)[0]) < 1e-20


def test_local_losses_by_hand(batch):
    method, model, p, s, hs, logits, _ = shallow("local", batch)
    for l, a in enumerate(method.credit(p, s, hs, logits, batch[1])):
        h = hs[l].clone().requires_grad_()
        told = F.linear(F.layer_norm(h, (12,)), p[f"aux.head{l}.weight"], p[f"aux.head{l}.bias"])
        same(a, torch.autograd.grad(F.cross_entropy(told, batch[1], reduction="sum"), h)[0])


@pytest.mark.parametrize(
    "code, size", [("eT", 4), ("deltaL", 12), ("eT_hL", 36), ("deltaL_hL", 44)]
)
def test_conditioning_codes(batch, code, size):
    method, model, p, s, hs, logits, exact = shallow("sb", batch, options={"code": code})
    found = method.code(p, s, hs, logits, batch[1])
    assert found.shape == (32, size)
    head = model.output_error(logits, batch[1]) if code.startswith("eT") else exact[-1]
    same(found[:, : head.shape[1]], head)


# -- the three update rules


def test_target_shift_is_the_inner_product_with_normalised_credit(batch):
    """½‖h + f - sg(h + f - η a_norm)‖² has the gradient η a_norm: DFA's rules differ by η and the
    normalisation alone.
    """
    target, model, p, s = member(tiny("dfa", rule="target", eta=0.3))
    inner = METHODS["dfa"](tiny("dfa", credit_norm="sample_rms"), model)
    p = scramble(p)
    a, b = gradient(target, p, s, *batch), gradient(inner, p, s, *batch)
    blocks = [k for k in p if k.startswith("blocks.")]
    assert gap({k: a[k] for k in blocks}, {k: 0.3 * b[k] for k in blocks}) < ROUNDING


def test_cosine_rule_does_not_change_the_outputs_length(batch):
    """The gradient of cos(f, a) by f is orthogonal to f, and turns it away from a."""
    method, model, p, s = member(tiny("dfa", rule="cosine"))
    f, a = torch.randn(2, 5, 12, dtype=torch.float64)
    f.requires_grad_()
    (g,) = torch.autograd.grad(method.push(s, [f], [a]), f)
    assert ((g * f).sum(1).abs() < ROUNDING * g.norm(dim=1) * f.norm(dim=1)).all()
    assert ((g * a).sum(1) > 0).all()


# -- blends and schedules


def weights(cfg, pixels, epochs=None):
    ensemble = Ensemble([cfg], pixels)
    for _ in range(epochs or cfg.epochs):
        ensemble.run_epoch()
    return ensemble.member(0)[0]


@pytest.mark.parametrize(
    "name, options",
    [
        ("vec", {"alpha": 0.0}),
        ("sb", {"alpha": 0.0}),
        ("cb", {"wr": 1.0}),
        ("vec", {"start": 2}),
        ("vec", {"source": "gaussian", "alpha": 0.0}),
    ],
)
def test_a_blend_that_never_leaves_dfa_is_dfa(pixels64, name, options):
    found, dfa = (
        weights(tiny(name, options=SMALL[name] | options), pixels64),
        weights(tiny("dfa"), pixels64),
    )
    assert apart(found, dfa) < ROUNDING


def test_a_schedule_that_stops_at_the_end_is_its_first_method(pixels64):
    plain, found, other = (
        weights(tiny("vec", options=SMALL["vec"] | o), pixels64)
        for o in ({}, {"stop": 2}, {"stop": 1})
    )
    assert apart(found, plain) < ROUNDING < apart(other, plain)


def blend(depth=3, epochs=10, **options):
    cfg = tiny("vec", depth=depth, epochs=epochs, options=options)
    method = build(cfg, (3, 8, 8), 4)[0]
    return [[round(w, 6) for w in method.at_epoch(cfg, e)["blend"].tolist()] for e in range(epochs)]


def test_blend_weights_over_epochs_and_levels():
    assert [w[0] for w in blend(wr=0.2)] == [0, 0] + [1] * 8
    assert [w[0] for w in blend(start=3, stop=6, alpha=0.5)] == [0] * 3 + [0.5] * 3 + [0] * 4
    assert [w[0] for w in blend(epochs=5, decay=True)] == [1, 0.75, 0.5, 0.25, 0]
    assert (
        blend(last=1)[0] == [0, 0, 0, 1]
        and blend(last=2)[0] == [0, 0, 1, 1]
        and blend()[0] == [1] * 4
    )


def test_credit_is_the_blend_of_its_parts(batch):
    for mix in ("raw", "unit", "dfa"):
        method, model, p, s, hs, logits, _ = shallow(
            "vec", batch, options={"mix": mix, "alpha": 0.25}
        )
        args = p, s, hs, logits, batch[1]
        parts, found = method.parts(*args), method.credit(*args)
        for a, aux, dfa in zip(found, parts["aux"], parts["dfa"]):
            size = {
                "raw": (1, 1),
                "unit": (rms(aux) + 1e-6, rms(dfa) + 1e-6),
                "dfa": (rms(aux) / rms(dfa), 1),
            }[mix]
            same(a, 0.25 * aux / size[0] + 0.75 * dfa / size[1])


def rms(a):
    return a.pow(2).mean(1, keepdim=True).sqrt()


def test_a_fitted_batch_does_not_end_an_auxiliary_net(batch):
    """Where the exact gradient has underflowed to zero, the terms that compare with it stay
    finite.
    """
    for name in ("cb", "vec", "sb"):
        method, model, p, s, hs, logits, _ = shallow(name, batch, terminal_ln=False)
        p = {k: v * 0 if k.startswith("readout.") else v for k, v in p.items()}
        p["readout.head.bias"] = torch.tensor([1e5, 0.0, 0.0, 0.0], dtype=torch.float64)
        y = batch[1] * 0
        assert math.isfinite(method.auxiliary(p, s, hs, model.readout(p, hs[-1]), y)[0])


def test_of_the_conditioning_codes_delta_alone_shrinks_as_the_stream_grows(batch):
    # features that go with 1 / scale
    for code, shrinks in (("eT", 0), ("eT_hL", 0), ("deltaL", 12), ("deltaL_hL", 12)):
        method, model, p, s = member(tiny("sb", options={"code": code}))
        p = model.rescaled(scramble(p), 1e4)  # else LayerNorm's eps would show
        codes = []
        for q in (p, model.rescaled(p, 1e6)):
            hs, logits = forward(model, q, batch[0])
            codes.append(method.code(q, s, hs, logits, batch[1]))
        codes[1][:, :shrinks] *= 1e6
        for there, here in zip(*(c.tensor_split([shrinks], 1) for c in codes[::-1])):
            if here.numel():
                same(there, here)


def test_controls_of_the_blend(batch):
    method, model, p, s, hs, logits, _ = shallow(
        "vec", batch, options={"source": "scaled_dfa", "alpha": 0.5}
    )
    args = p, s, hs, logits, batch[1]
    plain = METHODS["vec"](tiny("vec", options={"alpha": 0.5}), model)
    for a, dfa, blended in zip(
        method.credit(*args), method.direct(s, logits, batch[1]), plain.credit(*args)
    ):
        same(F.normalize(a, dim=1), F.normalize(dfa, dim=1))
        same(a.norm(dim=1), blended.norm(dim=1))
    for inputs, alike in (("time", False), ("constant", True)):
        method, model, p, s, *_ = shallow("vec", batch, options={"inputs": inputs})
        found = torch.stack(method.learned(p, s, hs, logits, batch[1]))
        small = ROUNDING * found.abs().max()
        assert (found - found[:, :1]).abs().max() < small  # every sample gets the same
        assert bool((found - found[:1]).abs().max() < small) == alike


@pytest.mark.parametrize(
    "options, learns",
    [({"freeze_after": 0}, []), ({"freeze_after": 1}, [0]), ({"refit_every": 2}, [0, 2])],
)
def test_an_auxiliary_net_learns_when_it_may(pixels, options, learns):
    cfg = tiny("vec", epochs=3, options=options)
    ensemble, moved = Ensemble([cfg], pixels), []
    for epoch in range(3):
        before = ensemble.params["aux.mid0.weight"].clone()
        ensemble.run_epoch()
        moved += [] if torch.equal(before, ensemble.params["aux.mid0.weight"]) else [epoch]
    assert moved == learns


def test_estimators_leave_the_net_as_it_is(pixels):
    cfg = tiny("sb", train_net=False)
    start = initial(cfg, build(cfg, (3, 8, 8), 4)[0])[0]
    found = weights(cfg, pixels)
    for k, v in found.items():
        assert torch.equal(v, start[k]) != k.startswith("aux.")


def test_a_run_continues_the_feedback_and_the_net_of_its_upstream(store):
    """A vector field that starts from a DFA run has DFA's feedback, and one that starts from a
    fitted field its net.
    """
    from faeval_core import run

    first = tiny("dfa")
    fit = tiny("vec", upstream=first, upstream_epoch=2, train_net=False)
    on = tiny("vec", upstream=fit, upstream_epoch=2, options={"freeze_after": 0, "alpha": 0.5})
    run([on], store, progress=False)
    a, b, c = (store.load_tensors(store.snapshot_path(x, 2))[0] for x in (first, fit, on))
    assert torch.equal(a["embed.weight"], b["embed.weight"]) and not torch.equal(
        b["embed.weight"], c["embed.weight"]
    )
    assert torch.equal(b["aux.mid0.weight"], c["aux.mid0.weight"])
    states = [initial(x, build(x, (3, 8, 8), 4)[0])[1]["feedback"] for x in (first, tiny("vec"))]
    assert torch.equal(*states)


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("cb", {"wr": 1.5}, "wr .* must lie in \\[0, 1\\], not 1.5"),
        ("vec", {"M": 0}, "M .* at least 1, not 0"),
        ("sb", {"code": "eL"}, "eT, deltaL, eT_hL, deltaL_hL, not 'eL'"),
        ("vec", {"target": "exact"}, "one of fd, shuffled"),
        ("cb", {"temperature": 0.0}, "temperature above 0"),
        ("cb", {"stop": 2, "start": 3}, "stop after start"),
        ("sb", {"last": 9}, "last of at most"),
        ("dfa", {"feedback_scale": math.nan}, "finite"),
        ("ep", {"beta": 0.0}, "beta and step above 0"),
        ("ep", {"relax_h0": False}, "embedding to 'init' or 'exact'"),
        ("vec", {"alpha": -0.1}, "alpha"),
        ("sb", {"hidden": 0}, "hidden"),
    ],
)
def test_bad_options_are_refused_before_training(name, options, message):
    with pytest.raises(ValueError, match=message):
        tiny(name, options=options)


@pytest.mark.parametrize("cores", [1, 2])
def test_noise_of_a_step_depends_on_seed_and_epoch_alone(pixels, monkeypatch, cores):
    """Also where members train side by side."""
    monkeypatch.setattr("faeval_core.training.gradients.compiled", lambda f: f)

    def drawn(seeds):
        ensemble = Ensemble(
            [tiny("cb", seed=s, options=SMALL["cb"]) for s in seeds], pixels, fused=True
        )
        real, seen = ensemble.gradient, {id(leaves): [] for leaves in ensemble.leaves}
        ensemble.gradient = lambda p, fixed, s, *xy: (
            seen[id(p)].append(s["bridge.1"]) or real(p, fixed, s, *xy)
        )
        ensemble.run_epoch(4)
        assert ensemble.workers == min(cores, len(seeds))
        assert ensemble.generators[-1].initial_seed() == stream(1, "noise", 0).initial_seed()
        return [torch.stack(steps) for steps in seen.values()]

    with threads(cores):
        [alone], [*others, last] = drawn([1]), drawn([7, 8, 1])
    assert torch.equal(alone, last) and not any((alone == other).any() for other in others)
    assert len({step.sum().item() for step in alone}) == len(alone)
