"""Theorems that the surrogate scalars and credits must satisfy, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import ROUNDING, member, same, scramble, tiny
from torch.func import jacrev

from faeval_core import METHODS, LocalMethod, Method, register
from faeval_core.measure import diagnostics
from faeval_core.methods.base import inner, normalise
from faeval_core.models.resmlp import ResMLP
from faeval_core.training import Ensemble

pytestmark = pytest.mark.numerical
LOCAL = sorted(name for name, m in METHODS.items() if issubclass(m, LocalMethod))
# credit made by one block at a time; the oracle's, by all of them
NOT_BLIND = {"ep", "kp", "signsym", "oracle"}
MODELS = [(True, True), (False, True), (True, False), (False, False)]  # (terminal_ln, residual)


def gradient(method, p, s, x, y):
    """Gradient of the surrogate for every parameter; zeros where the scalar does not reach one."""
    leaves = {k: v.clone().requires_grad_() for k, v in p.items()}
    grads = torch.autograd.grad(
        method.surrogate(leaves, s, x, y)[0], list(leaves.values()), allow_unused=True
    )
    return {k: torch.zeros_like(v) if g is None else g for (k, v), g in zip(leaves.items(), grads)}


def exact_gradient(model, p, x, y):
    """Oracle: autograd of the mean cross-entropy, the forward pass written out here."""
    leaves = {k: v.clone().requires_grad_() for k, v in p.items() if not k.startswith("aux.")}
    h = F.linear(x.flatten(1), leaves["embed.weight"], leaves["embed.bias"])
    for l in range(model.depth):
        f = model.block(leaves, l, h)
        h = h + f if model.residual else f
    loss = F.cross_entropy(model.readout(leaves, h), y)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()))))


def gap(found, wanted):
    """Largest relative difference over the tensors of two dictionaries."""
    return max(
        ((found[k] - v).norm() / v.norm().clamp_min(1e-300)).item() for k, v in wanted.items()
    )


def forward(model, p, x):
    hs = model.states(p, model.embed(p, x))
    return hs, model.readout(p, hs[-1])


class LinearStack(ResMLP):
    """f_l(h) = W_l h: a stack whose Jacobians do not depend on the sample."""

    def block(self, p, l, h, stats=None):
        return F.linear(h, p[f"blocks.{l}.fc2.weight"])


@pytest.mark.parametrize("terminal_ln, residual", MODELS)
def test_bp_gradient_and_credit_are_autograd(batch, terminal_ln, residual):
    method, model, p, s = member(tiny("bp", terminal_ln=terminal_ln, residual=residual))
    p, (x, y) = scramble(p), batch
    assert gap(gradient(method, p, s, x, y), exact_gradient(model, p, x, y)) < ROUNDING
    hs, logits = forward(model, p, x)
    credit = method.credit(p, s, hs, logits, y)
    # oracle: derivative of each sample's own loss by its own state
    for l in range(model.depth + 1):

        def loss(h, label, l=l):
            return F.cross_entropy(model.readout(p, model.states(p, h[None], l)[-1]), label[None])

        wanted = torch.stack([torch.func.grad(loss)(h, label) for h, label in zip(hs[l], y)])
        same(credit[l], wanted)


@pytest.mark.parametrize("terminal_ln, residual", MODELS)
def test_exact_credit_makes_the_local_scalar_bp(batch, terminal_ln, residual):
    """Σ <f_l(sg h_l), δ_{l+1}> + <h_0, δ_0> + readout: its gradient is BP's for every parameter."""
    method, model, p, s = member(tiny("oracle", terminal_ln=terminal_ln, residual=residual))
    p = scramble(p)
    assert gap(gradient(method, p, s, *batch), exact_gradient(model, p, *batch)) < ROUNDING


@pytest.mark.parametrize("terminal_ln, residual", MODELS)
def test_fa_with_true_transposes_is_bp_on_one_sample(batch, terminal_ln, residual):
    """With a batch of one, the Jacobian dh_{l+1}/dh_l is one fixed matrix, and feeding back its
    transpose is BP.
    """
    method, model, p, s = member(tiny("fa", terminal_ln=terminal_ln, residual=residual))
    p, (x, y) = scramble(p), (batch[0][:1], batch[1][:1])
    hs, logits = forward(model, p, x)
    jacobians = [
        jacrev(lambda h, l=l: model.add(h, model.block(p, l, h[None])[0]))(hs[l][0])
        for l in range(model.depth)
    ]
    s["feedback"] = torch.stack(jacobians)  # a_l = a_{l+1} J as a row is J^T a as a column
    exact = METHODS["bp"](method.cfg, model)
    same(method.credit(p, s, hs, logits, y), exact.credit(p, s, hs, logits, y))
    assert gap(gradient(method, p, s, x, y), exact_gradient(model, p, x, y)) < ROUNDING


@pytest.mark.parametrize("terminal_ln, residual", MODELS)
def test_fa_with_true_transposes_is_bp_on_linear_blocks(batch, terminal_ln, residual):
    """Linear blocks: J_l = I + W_l (or W_l) for every sample of a batch."""
    cfg = tiny("fa", terminal_ln=terminal_ln, residual=residual)
    model = LinearStack(cfg, (3, 8, 8), 4)
    method, p, (x, y) = METHODS["fa"](cfg, model), scramble(member(cfg)[2]), batch
    eye = torch.eye(cfg.width, dtype=torch.float64) if residual else 0
    feedback = torch.stack([eye + p[f"blocks.{l}.fc2.weight"] for l in range(cfg.depth)])
    s = {"feedback": feedback, "penalty": torch.tensor(0.0), "penalty_h0": torch.tensor(0.0)}
    bp = gradient(METHODS["bp"](cfg, model), p, s, x, y)
    used = {k: v for k, v in bp.items() if v.norm() > 0}
    assert len(used) >= 2 + cfg.depth + 2
    assert gap(gradient(method, p, s, x, y), used) < ROUNDING


def test_dfa_is_fa_with_the_feedback_multiplied_out(batch):
    """Without the terminal LN, δ_L = e_T W, so DFA with B_l = W B^FA_{L-1} ... B^FA_l assigns FA's
    credit at every level.
    """
    for depth in (1, 3):
        fa, model, p, s = member(tiny("fa", terminal_ln=False, depth=depth))
        p, (x, y) = scramble(p), batch
        dfa = METHODS["dfa"](fa.cfg, model)
        products = [p["readout.head.weight"]]
        for l in reversed(range(depth)):
            products.insert(0, products[0] @ s["feedback"][l])
        direct = {**s, "feedback": torch.stack(products)}
        hs, logits = forward(model, p, x)
        same(dfa.credit(p, direct, hs, logits, y), fa.credit(p, s, hs, logits, y))
        assert gap(gradient(dfa, p, direct, x, y), gradient(fa, p, s, x, y)) < ROUNDING


@pytest.mark.parametrize("model", ["resmlp", "vitmini"])
def test_fa_by_the_identity_copies_the_terminal_gradient(batch, model):
    shape = {"model": model, "model_options": {"vitmini": {"patch": 4, "heads": 2}}.get(model, {})}
    method, model, p, s = member(
        tiny("fa", options={"feedback": "identity", "feedback_scale": 2.0}, **shape)
    )
    x, y = batch
    hs, logits = forward(model, p, x)
    *below, top = method.credit(p, s, hs, logits, y)
    same(top, method.exact_credit(p, hs, y, model.depth))
    for steps, a in enumerate(reversed(below), 1):
        same(a, 2.0**steps * top)
    with pytest.raises(ValueError, match="levels of different shapes"):
        member(tiny("fa", model="convnet", options={"feedback": "identity"}))
    with pytest.raises(ValueError, match="must be random or identity, not 'none'"):
        tiny("fa", options={"feedback": "none"})


@pytest.mark.parametrize("credit_norm", ["raw", "sample_rms", "batch_rms"])
def test_local_gradient_of_one_block_by_hand(batch, credit_norm):
    """d/dθ of mean_i <f_l(h_i), a_{l+1,i}>, the chain rule written out through Linear, GELU, Linear
    and LayerNorm.
    """
    method, model, p, s = member(tiny("dfa", credit_norm=credit_norm))
    p, (x, y), l = scramble(p), batch, 1
    found = gradient(method, p, s, x, y)
    hs, logits = forward(model, p, x)
    h, n = hs[l], len(y)
    a = (torch.softmax(logits, -1) - F.one_hot(y, 4)) @ s["feedback"][l + 1]
    if credit_norm == "sample_rms":
        a = a / (a.pow(2).mean(1, keepdim=True).sqrt() + 1e-6)
    if credit_norm == "batch_rms":
        a = a / (a.pow(2).mean().sqrt() + 1e-6)
    b = {k.removeprefix(f"blocks.{l}."): v for k, v in p.items() if k.startswith(f"blocks.{l}.")}
    xhat = (h - h.mean(1, keepdim=True)) / (h.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    z = xhat * b["ln.weight"] + b["ln.bias"]
    u = z @ b["fc1.weight"].T + b["fc1.bias"]
    cdf = 0.5 * (1 + torch.erf(u / math.sqrt(2)))
    du = (a @ b["fc2.weight"]) * (cdf + u * torch.exp(-u * u / 2) / math.sqrt(2 * math.pi))
    dz = du @ b["fc1.weight"]
    wanted = {
        "fc2.weight": a.T @ (u * cdf) / n,
        "fc2.bias": a.sum(0) / n,
        "fc1.weight": du.T @ z / n,
        "fc1.bias": du.sum(0) / n,
        "ln.weight": (dz * xhat).sum(0) / n,
        "ln.bias": dz.sum(0) / n,
    }
    assert gap({k: found[f"blocks.{l}.{k}"] for k in wanted}, wanted) < ROUNDING


def test_embedding_and_readout_gradients_by_hand(batch):
    """Embedding: mean_i a_{0,i} x_i^T. Head: mean_i e_i z_i^T with z = LN(h_L)."""
    method, model, p, s = member(tiny("dfa"))
    p, (x, y) = scramble(p), batch
    found = gradient(method, p, s, x, y)
    hs, logits = forward(model, p, x)
    e, n = torch.softmax(logits, -1) - F.one_hot(y, 4), len(y)
    z = F.layer_norm(hs[-1], (12,), p["readout.ln.weight"], p["readout.ln.bias"])
    a0 = e @ s["feedback"][0]
    wanted = {
        "embed.weight": a0.T @ x.flatten(1) / n,
        "embed.bias": a0.mean(0),
        "readout.head.weight": e.T @ z / n,
        "readout.head.bias": e.mean(0),
    }
    assert gap({k: found[k] for k in wanted}, wanted) < ROUNDING
    same(model.output_error(logits, y), e)


def test_normalise_axes():
    """Each sample has RMS 1 over features; or each level has RMS 1 over batch and features; 1e-6 is
    added to the RMS.
    """
    a = torch.randn(5, 7, 2, dtype=torch.float64) * torch.arange(1, 6, dtype=torch.float64).view(
        5, 1, 1
    )
    assert normalise(a, "raw") is a
    of_samples, of_batch = a.pow(2).mean((1, 2)).sqrt(), a.pow(2).mean().sqrt()
    same(normalise(a, "sample_rms").pow(2).mean((1, 2)).sqrt(), of_samples / (of_samples + 1e-6))
    same(normalise(a, "batch_rms").pow(2).mean().sqrt(), of_batch / (of_batch + 1e-6))
    constant = torch.full((2, 3), 1e-6, dtype=torch.float64)
    same(normalise(constant, "sample_rms"), torch.full((2, 3), 0.5).double())
    g = constant / 2  # the same two samples, as gradients of their mean loss
    same(normalise(constant, "sample_rms_g"), g / (g.pow(2).mean().sqrt() + 1e-6))
    assert torch.equal(normalise(torch.zeros(2, 3), "batch_rms"), torch.zeros(2, 3))


@pytest.mark.parametrize("name", ["bp", "dfa", "fa"])
@pytest.mark.parametrize("reduction, cells", [("sum", 1), ("mean", 12)])
def test_penalties_by_hand(batch, name, reduction, cells):
    """Scalar with penalties minus scalar without = λ Σ_l mean_i ‖f_l‖² + λ_0 mean_i ‖h_0‖², each
    over width for 'mean'.
    """
    plain, model, p, s = member(tiny(name, seed=3))
    method, _, _, state = member(
        tiny(name, seed=3, penalty=0.03, penalty_h0=0.2, penalty_reduction=reduction)
    )
    p, (x, y) = scramble(p), batch
    hs, _ = forward(model, p, x)
    blocks = sum((b - a).pow(2).sum(1).mean() for a, b in zip(hs, hs[1:]))
    extra = method.surrogate(p, state, x, y)[0] - plain.surrogate(p, s, x, y)[0]
    wanted = (0.03 * blocks + 0.2 * hs[0].pow(2).sum(1).mean()) / cells
    same(extra, wanted)
    grown, base = gradient(method, p, state, x, y), gradient(plain, p, s, x, y)
    bias = (grown["embed.bias"] - base["embed.bias"]) - 0.4 * hs[0].mean(0) / cells
    local = bias.norm() / hs[0].mean(0).norm()
    # only BP's block penalty reaches the embedding
    assert local < ROUNDING if name != "bp" else local > 1e-3


@pytest.mark.parametrize("name", LOCAL)
def test_exact_embedding_is_bps_gradient(batch, name):
    method, model, p, s = member(tiny(name, embedding="exact"))
    p, (x, y) = scramble(p), batch
    found, wanted = gradient(method, p, s, x, y), exact_gradient(model, p, x, y)
    assert gap(found, {k: v for k, v in wanted.items() if k.startswith("embed.")}) < ROUNDING
    rule = gradient(METHODS[name](tiny(name), model), p, s, x, y)
    assert gap(found, {k: v for k, v in rule.items() if not k.startswith("embed.")}) == 0


def test_the_embeddings_credit_is_normalised_unless_told_otherwise(batch):
    (x, y), found = batch, {}
    for how, norm in (("raw", True), ("sample_rms", True), ("sample_rms", False)):
        method, model, p, s = member(tiny("dfa", credit_norm=how, norm_embedding=norm))
        found[how, norm] = gradient(method, scramble(p), s, x, y)
    mixed = found["sample_rms", False]
    for key, value in mixed.items():
        same = found["raw" if key.startswith("embed.") else "sample_rms", True]
        assert torch.equal(value, same[key]), key


def test_a_shared_embedding_hears_block_zeros_credit(batch):
    """d/dW of mean_i <W x_i, a_{1,i}>; the rest of the net does not notice."""
    method, model, p, s = member(tiny("fa", embedding="shared"))
    p, (x, y) = scramble(p), batch
    found, rule = (
        gradient(method, p, s, x, y),
        gradient(METHODS["fa"](tiny("fa"), model), p, s, x, y),
    )
    a = method.credit(p, s, *forward(model, p, x), y)
    same(found["embed.weight"], a[1].T @ x.flatten(1) / len(y))
    assert gap(found, {k: v for k, v in rule.items() if not k.startswith("embed.")}) == 0


@pytest.mark.parametrize("level, shift", [("output", 1), ("input", 0)])
def test_a_block_hears_the_credit_of_its_outputs_or_its_inputs_level(batch, level, shift):
    """d/db of mean_i <W z_i + b, a_i> is the mean of a_i; `gamma_block` is of that credit too."""
    method, model, p, s = member(tiny("dfa", credit_level=level))
    p, (x, y) = scramble(p), batch
    found, (hs, logits) = gradient(method, p, s, x, y), forward(model, p, x)
    a, gs = method.credit(p, s, hs, logits, y), [torch.randn_like(h) for h in hs]
    for l in range(model.depth):
        same(found[f"blocks.{l}.fc2.bias"], a[l + shift].mean(0))
        wanted = diagnostics.gamma(method, a[l + shift], gs[l])
        assert diagnostics.alignment(method, p, s, y, hs, logits, gs)["gamma_block"][l] == wanted


@pytest.mark.parametrize("change", [{"embedding": "shared"}, {"credit_level": "input"}])
def test_credit_of_another_levels_shape_is_refused(change):
    with pytest.raises(ValueError, match="levels of different shapes"):
        member(tiny("dfa", model="convnet", **change))


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[1:],
        lambda a: [*a, a[0]],
        lambda a: [h.T for h in a],
        lambda a: [h[:1] for h in a],
    ],
)
def test_credit_of_wrong_number_or_shape_is_refused_at_the_first_step(batch, change, monkeypatch):
    method, _, p, s = member(tiny("dfa"))
    credit = METHODS["dfa"].credit
    monkeypatch.setattr(METHODS["dfa"], "credit", lambda *args: change(credit(*args)))
    with pytest.raises(
        ValueError, match="credit of method 'dfa' is of shapes .* needs one tensor for every level"
    ):
        method.surrogate(p, s, *batch)


def test_an_option_that_members_may_differ_in_is_not_read_off_the_config():
    method = member(tiny("dfa"))[0]
    for name, told in (("feedback_scale", "read s"), ("feedback", "declare it")):
        with pytest.raises(KeyError, match=told):
            method.cfg.options[name]
    # its zero decides what is computed, for all members alike
    assert member(tiny("cb"))[0].cfg.options["tgw"] == 1.0


def test_a_rule_that_draws_from_the_global_generator_is_told(pixels, recwarn, monkeypatch):
    ensemble = Ensemble([tiny("dfa")], pixels)
    ensemble.run_epoch()
    assert not [w for w in recwarn if "global generator" in str(w.message)]
    credit = METHODS["dfa"].credit
    monkeypatch.setattr(
        METHODS["dfa"], "credit", lambda *args: [a + torch.randn_like(a) for a in credit(*args)]
    )
    with pytest.warns(UserWarning, match="'dfa' draws from torch's global generator"):
        ensemble.run_epoch()


@pytest.mark.parametrize("name, embedding", [(m, "init") for m in METHODS] + [("frozen", "rule")])
def test_untrained_parameters_do_not_move(pixels, name, embedding):
    """Weight decay included: what is left at init stays bit for bit, and everything else moves."""
    cfg = tiny(name, embedding=embedding, epochs=1, penalty_h0=0.1)
    ensemble = Ensemble([cfg], pixels)
    before = {k: v.clone() for k, v in ensemble.params.items()}
    ensemble.run_epoch()
    fixed = {"embed."} if embedding == "init" else set()
    fixed |= {"blocks."} if name.startswith("frozen") else set()
    for k, v in ensemble.params.items():
        assert torch.equal(v, before[k]) == k.startswith(tuple(fixed)), k


@pytest.mark.parametrize("name", LOCAL)
def test_each_block_hears_only_its_own_credit(batch, name, monkeypatch):
    """With credit at level k alone, block k-1 (the embedding for k=0) is all that moves besides the
    readout.
    """
    method, model, p, s = member(tiny(name))
    p, (x, y) = scramble(p), batch
    for k in range(model.depth + 1):
        credit = [
            torch.zeros(len(y), model.width, dtype=torch.float64) for _ in range(model.depth + 1)
        ]
        credit[k] = torch.randn(credit[k].shape, dtype=torch.float64)
        monkeypatch.setattr(type(method), "credit", lambda *a, credit=credit: credit)
        own = "embed." if k == 0 else f"blocks.{k - 1}."
        for key, g in gradient(method, p, s, x, y).items():
            assert key.startswith(("readout.", "aux.")) or (g.abs().max() > 0) == key.startswith(
                own
            ), (k, key)


@pytest.mark.parametrize("name", [*(n for n in LOCAL if n not in NOT_BLIND), "bp"])
def test_no_hidden_back_propagation(batch, name, monkeypatch):
    """Cutting the graph at every block's input changes nothing of a local method's gradient, and
    most of BP's.
    """
    method, model, p, s = member(
        tiny(name, penalty=0.0 if name == "frozen_dfa" else 0.1, penalty_h0=0.1)
    )
    p, (x, y) = scramble(p), batch
    whole = gradient(method, p, s, x, y)
    monkeypatch.setattr(
        model, "block", lambda p, l, h, stats=None: ResMLP.block(model, p, l, h.detach())
    )
    cut = gradient(method, p, s, x, y)
    if name == "bp":
        assert gap(cut, whole) > 0.1
    else:
        assert all(torch.equal(cut[k], whole[k]) for k in whole)


@pytest.mark.parametrize("name", [n for n in LOCAL if n not in NOT_BLIND])
def test_credit_reads_no_block(batch, name):
    """Given the states and logits, credit is the same with NaN in every block, and has no path to
    their parameters.
    """
    method, model, p, s = member(tiny(name))
    p, (x, y) = scramble(p), batch
    hs, logits = forward(model, p, x)
    leaves = {k: v.clone().requires_grad_() for k, v in p.items()}
    credit = torch.stack(method.credit(leaves, s, hs, logits, y))
    if credit.requires_grad:
        blocks = [v for k, v in leaves.items() if k.startswith(("blocks.", "embed."))]
        assert all(g is None for g in torch.autograd.grad(credit.sum(), blocks, allow_unused=True))
    poisoned = {k: v * math.nan if k.startswith(("blocks.", "embed.")) else v for k, v in p.items()}
    assert torch.equal(torch.stack(method.credit(poisoned, s, hs, logits, y)), credit.detach())


def test_rules_of_a_users_own_can_be_registered():
    class Nearest(LocalMethod):
        """A rule of a user's own."""

        name = "test_rule"

        def credit(self, p, s, hs, logits, y):
            return torch.zeros(len(hs), *hs[0].shape)

    try:
        assert register(Nearest) is Nearest and tiny("test_rule").method == "test_rule"
        with pytest.raises(ValueError, match="'dfa' belongs to faeval"):
            register(type("Mine", (Method,), {"name": "dfa"}))
        with pytest.raises(TypeError, match="subclass of Method"):
            register(object)
    finally:
        METHODS.pop("test_rule", None)


def test_inner_is_the_sum_of_products():
    u, v = torch.arange(6.0).view(2, 3), torch.ones(2, 3) * 2
    assert inner(u, v).item() == 30
