"""Function-preserving rescaling and the float64 twin: what tells the instrument from the network."""

import pytest
import torch
from conftest import full, member, probe, tiny

from faeval_core import diagnostics as diag
from faeval_core.training import Ensemble

MODELS = [{}, {"terminal_ln": False}, {"residual": False}]


def trained(pixels, method="dfa", epochs=2, **changes):
    ensemble = Ensemble([tiny(method, epochs=epochs, **changes)], pixels)
    for _ in range(epochs):
        ensemble.run_epoch()
    return ensemble


def test_rescaling_leaves_the_function_alone(pixels):
    """LN ignores scale but for its eps of 1e-5: with a stream of variance >= 1e4, to 1e-9; without LN, exactly."""
    x, y = probe(pixels)
    for changes in MODELS:
        method, model, p, s = member(tiny("bp", **changes))
        p = model.rescaled(p, 1e4)
        q = model.rescaled(p, 1e3)
        (hs, logits, gs), (big, same, small) = (diag.gradients(method, w, x, y) for w in (p, q))
        torch.testing.assert_close(same, logits, rtol=0, atol=1e-9)
        for l in range(4):
            torch.testing.assert_close(big[l], 1e3 * hs[l], rtol=1e-7, atol=1e-3)
            torch.testing.assert_close(small[l], gs[l] / 1e3, rtol=1e-5, atol=1e-6 * small[l].abs().max().item())


@pytest.mark.parametrize("name", ["bp", "dfa", "fa"])
def test_invariance_under_function_preserving_rescaling(pixels, name):
    """Γ, its float64 twin, twin validity, growth, stability, ρ and ‖g‖·‖h‖ do not move; the clamped Γ and ‖g‖ do."""
    ensemble = trained(pixels, name)
    method, (p, s) = ensemble.method, ensemble.member(0)
    p = method.model.rescaled(p, 100.0)  # well above LN's eps
    far = method.model.rescaled(p, 1e6)
    here, there = full(method, p, s, pixels), full(method, far, s, pixels)
    for k in ("gamma", "gamma_block", "gamma_fp64", "twin", "growth", "stability"):
        assert there[k] == pytest.approx(here[k], abs=1e-4), k
    assert there["sensitivity"] == pytest.approx(here["sensitivity"], rel=1e-3)
    assert there["rho"] == pytest.approx(here["rho"], abs=0.02)
    assert there["g_norm"] == pytest.approx([g / 1e6 for g in here["g_norm"]], rel=1e-2) and there["g_norm"][-1] < 1e-8
    assert here["gamma_clamped"] == pytest.approx(here["gamma"], abs=1e-3)
    if name != "bp":
        level = max(range(4), key=lambda l: abs(here["gamma"][l]))
        assert abs(here["gamma"][level]) > 0.05 and abs(there["gamma_clamped"][level]) < 0.2 * abs(here["gamma"][level])


def test_rescaled_row_says_what_it_did(pixels):
    """The same function with a stream 1e5 times as large: ‖g‖ falls by 1e5; Γ and the logits stay."""
    ensemble = trained(pixels)
    method, (p, s) = ensemble.method, ensemble.member(0)
    found = full(method, method.model.rescaled(p, 1e3), s, pixels)
    moved = found["rescaled"]
    assert moved["factor"] == 1e5 and moved["logit_change"] < 1e-3
    assert moved["g_norm"] == pytest.approx([g / 1e5 for g in found["g_norm"]], rel=1e-2)
    assert moved["gamma"] == pytest.approx(found["gamma"], abs=1e-4)


def test_twin_is_close_to_one_and_float64_is_used(pixels):
    """An ordinary net's float32 gradient is the float64 one to rounding, at any scale of the stream."""
    ensemble = trained(pixels)
    method, (p, s) = ensemble.method, ensemble.member(0)
    for c in (1.0, 1e7):
        twin = full(method, method.model.rescaled(p, c), s, pixels)["twin"]
        assert twin == pytest.approx([1] * 4, abs=1e-6)
    x, y = pixels.subset("test", 128)
    noisy = {k: v + 0.3 * torch.randn_like(v) for k, v in p.items()}
    p64 = {k: v.double() for k, v in p.items()}
    pairs = zip(diag.gradients(method, noisy, x, y)[2], diag.gradients(method, p64, x.double(), y)[2])
    assert max(diag.cosine(a, b).mean() for a, b in pairs) < 0.95  # the comparison is able to see a wrong gradient
