"""Closed forms and invariances of the per-level measurements."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import ROUNDING, UNIT32, full, member, probe, scramble, tiny
from scipy.stats import pearsonr

from faeval_core import METHODS, data, run
from faeval_core.ground.streams import stream
from faeval_core.measure import diagnostics as diag
from faeval_core.training import Ensemble, measurement

pytestmark = pytest.mark.numerical
MODELS = [{}, {"terminal_ln": False}, {"residual": False}]


def linear(name="dfa", depth=3, width=12, classes=4, **changes):
    """A stack whose blocks write nothing and whose head reads h directly: h_l = h_0, g_l = e W /
    128 at every level.
    """
    method, model, p, s = member(
        tiny(name, depth=depth, width=width, terminal_ln=False, **changes), classes=classes
    )
    p = {k: v * 0 if ".fc2." in k else v for k, v in p.items()}
    return method, model, p, s


# -- cosines


def test_cosine_by_hand_at_every_magnitude():
    """cos 45° and its negative, at 1 and at 1e±200, where squares leave float64; undefined for a
    zero vector.
    """
    u, v = torch.tensor([3.0, 0.0]).double(), torch.tensor([2.0, 2.0]).double()
    for a in (1.0, 1e-200, 1e200):
        for b in (1.0, 1e-200):
            assert diag.cosine(a * u, b * v).item() == pytest.approx(0.5**0.5, rel=ROUNDING)
            assert diag.cosine(a * u, -b * v).item() == pytest.approx(-(0.5**0.5), rel=ROUNDING)
    assert (
        diag.cosine(u, 0 * v).isnan()
        and diag.defined_mean(torch.tensor([math.nan, 2.0, 4.0])) == 3.0
    )
    assert diag.defined_mean(torch.tensor([math.nan])) is None


def test_clamped_cosine_by_hand():
    """As published: each norm below 1e-8 counts as 1e-8, so a norm of 1e-10 scales the true cosine
    by 1e-2.
    """
    u, v = torch.tensor([3e-10, 0.0]), torch.tensor([2.0, 2.0])
    # fewer than ten roundings
    assert diag.cosine_clamped(u, v).item() == pytest.approx(0.5**0.5 * 3e-2, rel=10 * UNIT32)


def test_gamma_levels_by_hand(pixels):
    """Feedback W at level k alone makes gamma_k = 1 and gamma_block_{k-1} = 1; elsewhere cos(e B_l,
    e W) by numpy.
    """
    x, y = probe(pixels)
    for k in (0, 1, 3):
        method, model, p, s = linear()
        s["feedback"][k] = 5 * p["readout.head.weight"]
        found = diag.alignment(method, p, s, y, *diag.gradients(method, p, x, y))
        h = x.flatten(1).numpy() @ p["embed.weight"].numpy().T + p["embed.bias"].numpy()
        w, b = p["readout.head.weight"].numpy(), s["feedback"].numpy()
        z = h @ w.T + p["readout.head.bias"].numpy()
        e = np.exp(z) / np.exp(z).sum(1, keepdims=True) - np.eye(4)[y]
        wanted = [
            np.mean([(u @ m) @ (u @ w) / np.linalg.norm(u @ m) / np.linalg.norm(u @ w) for u in e])
            for m in b
        ]
        assert found["gamma"] == pytest.approx(wanted, abs=ROUNDING) and found["gamma"][
            k
        ] == pytest.approx(1, abs=ROUNDING)
        assert found["gamma_block"] == pytest.approx(wanted[1:], abs=ROUNDING)
        assert found["credit_rms"] == pytest.approx(
            [np.sqrt(np.mean((e @ m) ** 2)) for m in b], rel=ROUNDING
        )


def test_gamma_of_the_exact_credit_is_one(pixels, monkeypatch):
    for changes in MODELS:
        method, model, p, s = member(tiny("bp", **changes))
        x, y = probe(pixels)
        credit = method.credit(p, s, *diag.gradients(method, p, x, y)[:2], y)
        for sign in (1, -1):
            signed = [sign * a for a in credit]
            with monkeypatch.context() as patch:
                patch.setattr(type(method), "credit", lambda *a, credit=signed: credit)
                found = diag.alignment(method, p, s, y, *diag.gradients(method, p, x, y))
            assert found["gamma"] == pytest.approx([sign] * 4, abs=ROUNDING)


def test_norms_and_growth_by_hand(pixels):
    """Medians over the batch of norms over features; growth is the largest ratio of neighbouring
    levels.
    """
    x, y = probe(pixels, 255)
    method, model, p, s = linear()
    p["embed.weight"], direction = p["embed.weight"] * 0, p["embed.bias"] / p["embed.bias"].norm()
    p["embed.bias"] = direction * 2.0  # every sample: ‖h_0‖ = 2, then 6, 9, 1
    for l, size in enumerate((4.0, 3.0, -8.0)):
        p[f"blocks.{l}.fc2.bias"] = direction * size
    found = diag.norms(method, p, x, y)
    assert found["h_norm"] == pytest.approx([2, 6, 9, 1], rel=ROUNDING) and found[
        "growth"
    ] == pytest.approx(3, rel=ROUNDING)
    logits = p["readout.head.weight"] @ direction + p["readout.head.bias"]
    g = (torch.softmax(logits, 0) - F.one_hot(y, 4)) @ p["readout.head.weight"] / 128
    assert found["g_norm"] == pytest.approx(
        [np.median(np.linalg.norm(g.numpy(), axis=1))] * 4, rel=ROUNDING
    )
    assert diag.growth([0.0, 1.0]) is None and diag.growth([4.0, 1.0, 2.0]) == 2.0


def test_growth_through_rows_that_differ(pixels):
    """Median of ‖embed(x)‖ by numpy, over an odd number of samples."""
    x, y = probe(pixels, 255)
    method, model, p, s = member(tiny())
    h = x.flatten(1).numpy() @ p["embed.weight"].numpy().T + p["embed.bias"].numpy()
    assert diag.norms(method, p, x, y)["h_norm"][0] == pytest.approx(
        np.median(np.linalg.norm(h, axis=1)), rel=ROUNDING
    )


# -- directions that move the loss


@pytest.mark.parametrize("changes", MODELS)
@pytest.mark.parametrize("target", [None, 1e-9])
def test_rho_of_the_exact_gradient(pixels, changes, target):
    """>= 0.99 at every level, also where blowing up the stream has brought ‖g_L‖ to 1e-9."""
    x, y = probe(pixels)
    method, model, p, s = member(tiny("bp", **changes))
    if target:
        p = model.rescaled(p, 1e4)  # else LayerNorm's eps would show
        p = model.rescaled(p, diag.norms(method, p, x, y)["g_norm"][-1] / target)
        assert diag.norms(method, p, x, y)["g_norm"][-1] == pytest.approx(target, rel=ROUNDING)
    hs, logits, gs = diag.gradients(method, p, x, y)
    found = diag.rho(method, p, hs, [method.credit(p, s, hs, logits, y)], y, stream(0, "rho"))[0]
    assert min(found) >= 0.99
    assert max(diag.rho(method, p, hs, [[-g for g in gs]], y, stream(0, "rho"))[0]) <= -0.99


def test_rho_of_noise(pixels):
    """|ρ| < 0.02: each sample's ρ spreads by √(1/width + 1/31), so the mean over 1024 of them by
    0.0063 at width 128.
    """
    x, y = probe(pixels, 1024)
    method, model, p, s = member(tiny("bp", width=128, depth=1))
    hs, logits, _ = diag.gradients(method, p, x, y)
    noise = torch.randn(
        2, *hs[0].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5)
    )
    assert max(map(abs, diag.rho(method, p, hs, [noise], y, stream(0, "rho"))[0])) < 0.02


def test_rho_is_scipys_pearson(pixels):
    """Per sample over the 32 directions, then the mean over samples; for a credit that is half
    right.
    """
    x, y = probe(pixels, 20)
    method, model, p, s = member(tiny("bp"))
    p = scramble(p)
    hs, logits, gs = diag.gradients(method, p, x, y)
    g = torch.Generator().manual_seed(1)
    credit = [
        128 * v + torch.randn(v.shape, dtype=torch.float64, generator=g) * 128 * v.abs().mean()
        for v in gs
    ]
    found, draws = diag.rho(method, p, hs, [credit], y, stream(0, "rho"))[0], stream(0, "rho")
    for l, h in enumerate(hs):
        v = F.normalize(torch.randn(32, 20, 12, dtype=torch.float64, generator=draws), dim=-1)

        def loss(h, l=l):
            return F.cross_entropy(model.readout(p, model.states(p, h, l)[-1]), y, reduction="none")

        change = torch.stack([loss(h + 1e-3 * u) - loss(h) for u in v])
        told = torch.einsum("dbi,bi->db", v, credit[l])
        wanted = np.mean([pearsonr(told[:, i], change[:, i]).statistic for i in range(20)])
        assert found[l] == pytest.approx(wanted, abs=ROUNDING) and 0.3 < abs(found[l]) < 0.95


def test_nudges_by_hand(pixels):
    """Linear head: the loss after h - η a is log Σ exp(z) - z_y with z = W(h - η a) + b, for raw
    and RMS-1 credit.
    """
    x, y = probe(pixels, 64)
    method, model, p, s = linear()
    hs, logits, gs = diag.gradients(method, p, x, y)
    w, b, h = (t.numpy() for t in (p["readout.head.weight"], p["readout.head.bias"], hs[0]))

    def loss(h):
        z = h @ w.T + b
        return np.mean(np.log(np.exp(z).sum(1)) - z[np.arange(64), y])

    for sign in (1, -1):
        credit = [sign * (l + 1) * 128 * g for l, g in enumerate(gs)]
        normed, raw = diag.nudges(method, p, hs, credit, y)
        for l, a in enumerate(c.numpy() for c in credit):
            unit = a / np.sqrt((a**2).mean(1, keepdims=True))
            assert raw[l] == pytest.approx(loss(h - 0.01 * a) - loss(h), rel=ROUNDING)
            assert normed[l] == pytest.approx(loss(h - 0.01 * unit) - loss(h), rel=ROUNDING)
            # descent lowers the loss, ascent raises it
            assert sign * raw[l] < 0 and sign * normed[l] < 0


# -- stability


def test_stability_of_identical_batches_is_one(pixels):
    x, y = probe(pixels, 128)
    method, model, p, s = member(tiny())
    assert diag.stability(method, p, x.repeat(8, 1, 1, 1), y.repeat(8)) == pytest.approx(
        1, abs=ROUNDING
    )


def test_stability_of_a_simplex(pixels):
    """Zero states, uniform softmax, batch i all of class i, orthonormal head: e_i = 1/C - onehot_i,
    cosines -1/(C-1).
    """
    method, model, p, s = linear(classes=8)
    p = {k: v * 0 if k.startswith("embed.") or k.endswith("head.bias") else v for k, v in p.items()}
    p["readout.head.weight"] = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q[:8]
    x, y = probe(pixels, 1024)
    assert diag.stability(method, p, x, torch.arange(8).repeat_interleave(128)) == pytest.approx(
        -1 / 7, abs=ROUNDING
    )


def test_stability_is_taken_at_the_middle_level(pixels):
    """Depth 3: level 1, the sum of the samples' gradients there, and numpy's mean over the 56
    ordered pairs of batches.
    """
    x, y = probe(pixels, 1024)
    method, model, p, s = member(tiny())
    p = scramble(p)
    means = []
    for i in range(8):
        part = slice(128 * i, 128 * i + 128)
        h = model.states(p, model.embed(p, x[part]))[1].detach().requires_grad_()
        loss = F.cross_entropy(model.readout(p, model.states(p, h, 1)[-1]), y[part])
        means.append(torch.autograd.grad(loss, h)[0].sum(0).numpy())
    unit = np.stack([m / np.linalg.norm(m) for m in means])
    wanted = ((unit @ unit.T).sum() - 8) / 56
    assert diag.stability(method, p, x, y) == pytest.approx(wanted, abs=ROUNDING)


# -- the update itself


def test_update_alignment(pixels):
    """BP's gradient and step have cosine 1 with themselves; the negated -1; untrained parts are
    None.
    """
    x, y = probe(pixels)
    method, model, p, s = member(tiny("bp"))
    leaves = {k: v.clone().requires_grad_() for k, v in p.items()}
    loss = F.cross_entropy(
        model.readout(leaves, model.states(leaves, model.embed(leaves, x))[-1]), y
    )
    exact = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))
    for sign in (1, -1):
        found = diag.update_alignment(
            method, p, s, {k: sign * 3 * g for k, g in exact.items()}, x, y
        )
        assert found["update_cos"] == pytest.approx([1] * 5, abs=ROUNDING)
        assert found["step_cos"] == pytest.approx([sign] * 5, abs=ROUNDING)
    frozen = diag.update_alignment(METHODS["frozen"](tiny("frozen"), model), p, s, {}, x, y)
    assert frozen["update_cos"][1:4] == [None] * 3 and frozen["update_cos"][::4] == pytest.approx(
        [1, 1], abs=ROUNDING
    )
    assert frozen["step_cos"] == [None] * 5
    init = member(tiny("dfa", embedding="init"))
    found = diag.update_alignment(init[0], init[2], init[3], {}, x, y)
    assert found["update_cos"][0] is None and None not in found["update_cos"][1:]
    assert found["update_cos"][4] == pytest.approx(1, abs=ROUNDING)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_step_direction_is_the_optimisers(pixels64, optimizer):
    """After one step without decay, the running step points against the change of the weights."""
    ensemble = Ensemble([tiny("dfa", weight_decay=0.0, optimizer=optimizer, lr=1e-3)], pixels64)
    assert ensemble.optimizer.direction(0) == {}
    before = {k: v[0].clone() for k, v in ensemble.params.items()}
    x, y = pixels64.subset("train", 128)
    ensemble.step(x[None], y[None])
    for k, step in ensemble.optimizer.direction(0).items():
        assert (
            diag.cosine(step.flatten(), (before[k] - ensemble.params[k][0]).flatten()).item()
            > 0.999
        )


# -- undefined


def test_the_copied_gradient_is_the_credit_of_fa_by_the_identity(pixels64):
    method, model, p, s = member(tiny("fa", options={"feedback": "identity"}))
    found = full(method, scramble(p), s, pixels64)
    assert (
        found["gamma_copied"] == pytest.approx(found["gamma"], rel=ROUNDING)
        and 0.1 < found["gamma_copied"][0] < 0.99
    )
    method, model, p, s = member(tiny("bp", model="convnet", model_options={"channels": 2}))
    assert full(method, p, s, pixels64)["gamma_copied"][:-1] == [None] * 3  # levels of other sizes


def test_zero_credit_is_undefined_with_a_reason(pixels):
    method, model, p, s = member(tiny("dfa", options={"feedback_scale": 0.0}), double=False)
    found = full(method, p, s, pixels)
    assert (
        found["gamma"] == [None] * 4
        and found["rho"] == [None] * 4
        and found["gamma_fp64"] == [None] * 4
    )
    assert {"gamma", "gamma_block", "rho"} <= set(found["undefined"]) and all(
        found["undefined"].values()
    )
    assert "twin" not in found["undefined"] and "stability" not in found["undefined"]


def test_zero_gradient_is_undefined_with_a_reason(pixels):
    """A head of zeros: no state moves the loss, so neither its gradient nor ρ has a direction."""
    method, model, p, s = member(tiny("dfa"), double=False)
    p["readout.head.weight"] = p["readout.head.weight"] * 0
    found = full(method, p, s, pixels)
    for k in ("gamma", "twin", "rho"):
        assert found[k] == [None] * 4 and found["undefined"][k]
    assert found["stability"] is None and "zero mean gradient" in found["undefined"]["stability"]


def test_stability_needs_eight_batches(pixels):
    x, y = probe(pixels, 1023)
    method, model, p, s = member(tiny())
    assert diag.stability(method, p, x, y) is None
    p, s = ({k: v.float() for k, v in part.items()} for part in (p, s))
    found = diag.diagnose(
        method, p, s, pixels.subset("test", 128), (x.float(), y), stream(0, "rho")
    )
    assert found["stability"] is None and "fewer than 8" in found["undefined"]["stability"]


def test_nothing_undefined_hides_in_an_ordinary_record(store):
    """A run's diagnostics are finite, one value per level, at the epochs asked for and the last."""
    found = run([tiny("fa", diagnose=(0, 1))], store, progress=False)[0].diagnostics
    assert list(found) == ["0", "1", "2"] and all(d["undefined"] == {} for d in found.values())
    for k in (
        "gamma",
        "gamma_clamped",
        "gamma_fp64",
        "twin",
        "rho",
        "nudge",
        "nudge_raw",
        "h_norm",
        "g_norm",
        "credit_rms",
    ):
        assert len(found["2"][k]) == 4 and all(math.isfinite(v) for v in found["2"][k])
    assert found["0"]["step_cos"] == [None] * 5 and None not in found["1"]["step_cos"]
    # FA's top level is exact
    assert found["2"]["gamma"][-1] == pytest.approx(1, abs=(1e4 * UNIT32) ** 2 / 2)


def test_diagnostics_need_a_batch(blobs):
    few = dataclasses.replace(
        blobs, name="few", test_x=blobs.test_x[:100], test_y=blobs.test_y[:100]
    )
    with pytest.raises(
        ValueError, match="'few' has 100 test images; diagnostics need at least 128"
    ):
        measurement.probe(Ensemble([tiny()], data.Pixels(few)), "test")
