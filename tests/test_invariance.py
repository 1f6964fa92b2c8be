"""Function-preserving rescaling and the float64 twin: what tells the instrument from the
network.
"""

import math

import pytest
from conftest import ROUNDING, UNIT32, UNIT64, full, member, probe, same, scramble, tiny

from faeval_core.measure import diagnostics as diag
from faeval_core.training import Ensemble

pytestmark = pytest.mark.numerical
MODELS = [{}, {"terminal_ln": False}, {"residual": False}]


def trained(pixels, method="dfa", epochs=2, **changes):
    ensemble = Ensemble([tiny(method, epochs=epochs, **changes)], pixels)
    for _ in range(epochs):
        ensemble.run_epoch()
    return ensemble


def test_rescaling_leaves_the_function_alone(pixels):
    """LN ignores scale but for its eps of 1e-5, which a stream of variance 1e6 and more does not
    feel.
    """
    x, y = probe(pixels)
    for changes in MODELS:
        method, model, p, s = member(tiny("bp", **changes))
        p = model.rescaled(p, 1e4)
        q = model.rescaled(p, 1e3)
        (hs, logits, gs), (big, others, small) = (diag.gradients(method, w, x, y) for w in (p, q))
        assert min(h.var(1).min() for h in hs) > 1e6
        same(others, logits)
        same(big, [1e3 * h for h in hs])
        same(small, [g / 1e3 for g in gs])


@pytest.mark.parametrize("name", ["bp", "dfa", "fa"])
def test_invariance_under_function_preserving_rescaling(pixels64, name):
    """Γ, growth, stability, ρ and ‖g‖·‖h‖ do not move; the clamped Γ and ‖g‖ do."""
    ensemble = trained(pixels64, name)
    method, (p, s) = ensemble.method, ensemble.member(0)
    p = method.model.rescaled(p, 1e4)  # well above LN's eps
    far = method.model.rescaled(p, 1e6)
    here, there = full(method, p, s, pixels64), full(method, far, s, pixels64)
    for k in ("gamma", "gamma_block", "gamma_fp64", "twin", "growth", "stability", "sensitivity"):
        assert there[k] == pytest.approx(here[k], rel=ROUNDING), k
    assert (
        there["g_norm"] == pytest.approx([g / 1e6 for g in here["g_norm"]], rel=ROUNDING)
        and there["g_norm"][-1] < 1e-8
    )
    # of a loss, which is about log 4
    change = diag.EPS_RHO * diag.BATCH * min(there["g_norm"]) / method.model.width**0.5
    assert there["rho"] == pytest.approx(here["rho"], abs=UNIT64 * math.log(4) / change)
    if name != "bp":
        level = max(range(4), key=lambda l: abs(here["gamma"][l]))
        assert abs(here["gamma"][level]) > 0.05 and abs(there["gamma_clamped"][level]) < 0.2 * abs(
            here["gamma"][level]
        )


@pytest.mark.parametrize("name", ["bp", "dfa", "fa"])
def test_in_float32_gamma_is_as_far_from_float64_as_the_gradient_from_its_twin(pixels, name):
    """By the angle between the two gradients, and as much again for the credit; at any scale of the
    stream.
    """
    ensemble = trained(pixels, name)
    method, (p, s) = ensemble.method, ensemble.member(0)
    for scale in (1.0, 100.0, 1e8):
        found = full(method, method.model.rescaled(p, scale), s, pixels)
        angles = [math.sqrt(2 * max(1 - twin, UNIT64)) for twin in found["twin"]]
        for gamma, exact, angle in zip(found["gamma"], found["gamma_fp64"], angles):
            assert abs(gamma - exact) <= 2 * angle
    unclamped = full(method, method.model.rescaled(p, 100.0), s, pixels)
    # a sum of 12 products in float32
    assert unclamped["gamma_clamped"] == pytest.approx(unclamped["gamma"], abs=10 * UNIT32)


def test_rescaled_row_says_what_it_did(pixels64):
    """The same function with a stream 1e5 times as large: ‖g‖ falls by 1e5; Γ and the logits
    stay.
    """
    ensemble = trained(pixels64)
    method, (p, s) = ensemble.method, ensemble.member(0)
    found = full(method, method.model.rescaled(p, 1e4), s, pixels64)
    moved = found["rescaled"]
    assert moved["factor"] == 1e5 and moved["logit_change"] < ROUNDING
    assert moved["g_norm"] == pytest.approx([g / 1e5 for g in found["g_norm"]], rel=ROUNDING)
    assert moved["gamma"] == pytest.approx(found["gamma"], rel=ROUNDING)


def test_twin_is_close_to_one_and_float64_is_used(pixels):
    """An ordinary net's float32 gradient is the float64 one to rounding, at any scale of the
    stream.

    A relative error of δ shows in a cosine as δ²/2: this allows ten thousand float32 roundings.
    """
    ensemble = trained(pixels)
    method, (p, s) = ensemble.method, ensemble.member(0)
    for c in (1.0, 1e7):
        twin = full(method, method.model.rescaled(p, c), s, pixels)["twin"]
        assert twin == pytest.approx([1] * 4, abs=(1e4 * UNIT32) ** 2 / 2)
    x, y = pixels.subset("test", 128)
    noisy = scramble(p)
    p64 = {k: v.double() for k, v in p.items()}
    pairs = zip(
        diag.gradients(method, noisy, x, y)[2], diag.gradients(method, p64, x.double(), y)[2]
    )
    # the comparison is able to see a wrong gradient
    assert max(diag.cosine(a, b).mean() for a, b in pairs) < 0.95
