"""The cookbook's rules: each against an oracle of its paper's idea, through preflight, training and
company; and what is said of a broken twin of each.
"""

import ast
import importlib
import math
import re
import sys
import warnings
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from conftest import ROUNDING, apart, float64, member, same, tiny
from test_training import Replaying

from faeval_core import METHODS, preflight
from faeval_core.ground.streams import stream
from faeval_core.measure import diagnostics, protocol
from faeval_core.methods.base import takes_x
from faeval_core.methods.fa import Structured
from faeval_core.training import Ensemble, fresh_progress, noise, train

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "cookbook").glob("*.py"))

with patch.dict(METHODS), patch.object(sys, "path", [str(ROOT / "cookbook"), *sys.path]):
    for file in FILES:
        importlib.import_module(file.stem)
    RULES = {file.stem: METHODS[file.stem] for file in FILES}

pytestmark = pytest.mark.skipif(not FILES, reason="a copy of the package and its tests alone")

QUICK = {"predictive_coding": {"steps": 4}}  # options, so that a step is short
RANDOM = ("drtp", "sparse_dfa", "pepita")  # credit comes through a random matrix of either sign
# of every hook one that uses it
HOOKED = ("difference_target", "forward_forward", "pepita", "weight_mirror")
ALIGNED = sorted({*RULES} - {*RANDOM, "direct_kolen_pollack", "forward_forward"})


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for name, kind in RULES.items():
        monkeypatch.setitem(METHODS, name, kind)
    monkeypatch.setattr(RULES["node_perturbation"], "draws", 8)


@pytest.fixture
def twin(monkeypatch):
    """Registers a twin of a rule with other parts, under its name with an r."""

    def made(name, **parts):
        kind = type("Twin", (RULES[name],), {"name": "twin", "__module__": __name__, **parts})
        monkeypatch.setitem(METHODS, "twin", kind)
        return kind

    return made


def changed(name, change):
    """`credit` of a rule with its levels changed."""
    hook = RULES[name].credit

    def credit(self, p, s, hs, logits, y, x):
        given = {"x": x} if takes_x(hook) else {}
        return change(hook(self, p, s, hs, logits, y, **given))

    return credit


def small(name="twin", of=None, **changes):
    changes = {"width": 12, "depth": 2, "epochs": 1, **changes}
    return tiny(name, options=QUICK.get(of or name, {}) | changes.pop("options", {}), **changes)


def as_convnet(cfg):
    return cfg.with_(model="convnet", depth=3, width=9, model_options={"channels": 2})


def found(cfg):
    """(what preflight refuses of a rule, what it warns of)."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        errors = [str(e) for e in preflight.faults([cfg]).values()]
    return " ".join(errors), " ".join(str(w.message) for w in told)


def trained(cfg, pixels, epochs=None):
    """(ensemble, diagnosis) after so many epochs."""
    ensemble = Ensemble([cfg], pixels)
    for _ in range(epochs or cfg.epochs):
        ensemble.run_epoch()
    return ensemble, ensemble.diagnose(0)


def setting(name, batch=64, scale=0.2, **changes):
    """(method, model, p, s, hs, logits, x, y) of an untrained net in float64, `scale` from its
    init.
    """
    cfg = tiny(name, **{"width": 12, "depth": 3, **changes})
    method, model, p, s = member(cfg, batch=batch)
    generator = stream(0, "setting")
    moves = {k: torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in p.items()}
    p = {k: v + scale * moves[k] for k, v in p.items()}
    x = torch.randn(batch, 3, 8, 8, generator=generator, dtype=torch.float64)
    y = torch.randint(4, (batch,), generator=generator)
    hs, logits, _ = diagnostics.gradients(method, p, x, y)
    return method, model, p, s, hs, logits, x, y


def own_gradient(method, p, s, x, y):
    grads = diagnostics.own_gradient(method, p, s, x, y, list(p))
    return {k: g for k, g in grads.items() if g is not None}


def gradient_of(scalar, p):
    """Gradient of a scalar function of p by all that it reaches."""
    leaves = {k: v.clone().requires_grad_() for k, v in p.items()}
    grads = torch.autograd.grad(scalar(leaves), list(leaves.values()), allow_unused=True)
    return {k: g for k, g in zip(leaves, grads) if g is not None}


# -- the files


def code_lines(text) -> int:
    """Lines of code but for imports, docstrings, comments and blanks."""
    tree, without = ast.parse(text), set()
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if documented and ast.get_docstring(node) is not None:
            without |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            without |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(
        bool(t.strip()) and not t.strip().startswith("#") and i not in without for i, t in lines
    )


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_a_rule_is_short_and_names_its_paper_and_the_page_names_it(file):
    text = file.read_text(encoding="utf-8")
    assert code_lines(text) <= 30
    paper = re.search(r'"(.+?)"[^"]*\b(?:19|20)\d\d\b', ast.get_docstring(ast.parse(text)), re.S)
    page = (ROOT / "docs" / "cookbook.md").read_text(encoding="utf-8")
    assert " ".join(paper[1].split()) in " ".join(page.split())
    assert f"cookbook/{file.name}" in page
    assert RULES[file.stem].name == RULES[file.stem].__module__ == file.stem


# -- each of them


@pytest.mark.parametrize("name", RULES)
def test_preflight_finds_nothing_of_a_rule_on_either_model(name):
    for cfg in (small(name), as_convnet(small(name))):
        errors, told = found(cfg)
        assert not errors and "sign" not in told and "reaches" not in told, (errors, told)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_trains_is_measured_and_hears_what_its_credit_says(name, pixels64):
    ensemble, progress = Ensemble([small(name, epochs=2)], pixels64), [fresh_progress()]
    before = ensemble.export(0)
    for diverged in train(ensemble, progress, 2):
        assert not diverged
    after, [result] = ensemble.export(0), progress
    weights = [k for k in after if k.startswith("param/")]
    assert all(not torch.equal(after[k], before[k]) for k in weights)
    assert all(map(math.isfinite, result["curves"]["train_loss"]))
    final = result["diagnostics"]["2"]
    assert all(g is not None for g in final["gamma"])
    if name != "forward_forward":  # whose blocks learn on two passes
        assert final["credit_cos"] == pytest.approx([1.0, 1.0], abs=ROUNDING)


@pytest.mark.parametrize("driver", ["loop", "vmap"])
@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_the_same_alone_and_in_company(name, driver, pixels64):
    configs = [small(name, seed=s, lr=lr, batch_size=16) for s, lr in ((1, 1e-3), (2, 1e-2))]
    company = Ensemble(configs, pixels64, driver=driver)
    company.run_epoch(2)
    for m, cfg in enumerate(configs):
        alone = Ensemble([cfg], pixels64, driver="loop")
        alone.run_epoch(2)
        assert apart(company.export(m), alone.export(0)) < ROUNDING


@pytest.mark.parametrize("name", HOOKED)
def test_a_rule_keeps_nothing_but_the_work_on_tensors_as_a_recorded_step_does(name, pixels64):
    """The recording, as it is replayed on a GPU, hears noise and rate of each step."""
    configs = [small(name, seed=s, lr=lr, batch_size=128) for s, lr in ((1, 1e-3), (2, 1e-2))]
    eager, replaying = (kind(configs, pixels64, driver="vmap") for kind in (Ensemble, Replaying))
    for ensemble in (eager, replaying):
        ensemble.run_epoch(5)
    assert replaying.recordings == 1
    for m in range(2):
        assert apart(replaying.export(m), eager.export(m)) < ROUNDING


# -- oracles


def test_drtp_hears_the_target_through_its_feedback():
    method, model, p, s, hs, logits, x, y = setting("drtp")
    for a, B in zip(method.credit(p, s, hs, logits, y), s["feedback"]):
        same(a, -B[y])


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_sparse_dfa_has_its_share_of_zeros_and_dfas_credit_through_the_rest(sparsity):
    method, model, p, s, hs, logits, x, y = setting("sparse_dfa", options={"sparsity": sparsity})
    dense = METHODS["dfa"](method.cfg, model).init_state
    with float64():
        cfg = tiny("sparse_dfa", width=12, options={"sparsity": sparsity})
        wanted = dense(cfg, stream(cfg.seed, "state.sparse_dfa"))["feedback"]
    kept = s["feedback"] != 0
    assert kept.sum().item() == round((1 - sparsity) * kept.numel())
    same(s["feedback"][kept], wanted[kept] / (1 - sparsity) ** 0.5)
    e = model.output_error(logits, y)
    same(method.credit(p, s, hs, logits, y), [e @ B for B in s["feedback"]])


def test_node_perturbation_is_the_exact_gradient_on_average():
    """Each level's mean over n draws: as long along the gradient, and at 1/√(1 + d/n) with it."""
    method, model, p, s, hs, logits, x, y = setting("node_perturbation", options={"sigma": 1e-4})
    n, generator = 300, stream(0, "draws")
    with float64():
        states = (s | noise(method, method.cfg, len(y), generator) for _ in range(n))
        draws = [method.credit(p, one, hs, logits, y) for one in states]
    for l, levels in enumerate(zip(*draws)):
        mean, exact = sum(levels) / n, method.exact_credit(p, hs, y, l)
        along = (mean * exact).sum(-1) / exact.square().sum(-1)
        wanted = 1 / math.sqrt(1 + 13 / n)
        assert along.mean().item() == pytest.approx(1, abs=4 * (2 / n / len(y)) ** 0.5)
        assert diagnostics.cosine(mean, exact).mean().item() == pytest.approx(wanted, abs=0.005)


def test_weight_mirror_moves_feedback_towards_the_weights():
    """By noise that is white in the batch itself, a step is a step towards W exactly."""
    method, model, p, s, hs, logits, x, y = setting("weight_mirror", batch=12)
    white = 12**0.5 * torch.eye(12, dtype=torch.float64)
    s = s | {k: white for k in s if k.startswith("xi.")}
    _, learnt = method.auxiliary(p, s, hs, logits, y)
    assert learnt.keys() == {f"{k}.feedback" for k in method.weights(p)}
    for k, B in learnt.items():
        W = p[k.replace("feedback", "weight")]
        same(B, s[k] + 0.1 * (W - s[k]))
    mirrored = {k: p[k.replace("feedback", "weight")] for k in learnt}
    exact = [method.exact_credit(p, hs, y, l) for l in range(len(hs))]
    same(method.credit(p, s | mirrored, hs, logits, y), exact)


def test_weight_mirror_learns_the_weights_of_a_net_that_stands_still(pixels64):
    """Without skip connections, where feedback as it begins carries nothing down."""
    cfg = small("weight_mirror", residual=False, lr=0.0, epochs=3)
    ensemble = Ensemble([cfg], pixels64)
    before, (_, after) = ensemble.diagnose(0), trained(cfg, pixels64)
    assert before["gamma"][0] < 0.5 and min(after["gamma"]) > 0.9


def test_pepita_is_minus_the_tangent_of_the_states_and_learns_on_the_second_pass():
    scale = 1e-4
    method, model, p, s, hs, logits, x, y = setting("pepita", options={"feedback_scale": scale})
    shift = (model.output_error(logits, y) @ s["F"]).view_as(x)
    _, tangent = torch.func.jvp(
        lambda x: tuple(model.states(p, model.embed(p, x), stats={})), (x,), (shift,)
    )
    credit = method.credit(p, s, hs, logits, y, x)
    assert apart(dict(enumerate(credit)), {l: -t for l, t in enumerate(tangent)}) < 10 * scale
    method, model, p, s, hs, logits, x, y = setting("pepita", options={"feedback_scale": 1.0})
    credit = method.credit(p, s, hs, logits, y, x)
    x2, others = method.inputs(p, s, x, hs, logits, y)
    same(credit, [h - other for h, other in zip(hs, others)])

    def scalar(q):
        total = (model.embed(q, x2) * credit[0]).sum() / len(x)
        for l in range(model.depth):
            total = total + (model.block(q, l, others[l]) * credit[l + 1]).sum() / len(x)
        return total + model.loss(model.readout(q, others[-1]), y)

    assert apart(own_gradient(method, p, s, x, y), gradient_of(scalar, p)) < ROUNDING


def test_difference_targets_come_down_by_the_tangent_of_the_inverses():
    """As the step vanishes; the inverse is asked for at the level above."""
    step = 1e-6
    method, model, p, s, hs, logits, x, y = setting("difference_target", options={"step": step})
    credit = method.credit(p, s, hs, logits, y)
    same(credit[-1], method.exact_credit(p, hs, y, model.depth))
    for l in range(model.depth):
        _, wanted = torch.func.jvp(
            lambda h, l=l: method.inverse(p, l, h), (hs[l + 1],), (credit[l + 1],)
        )
        assert apart({0: credit[l]}, {0: wanted}) < 100 * step


def test_difference_target_inverses_learn_to_undo_their_blocks(pixels):
    cfg = small("difference_target", epochs=4, lr=3e-3)
    ensemble, (x, _) = Ensemble([cfg], pixels), pixels.subset("train", 128)

    def missed():
        (p, _), method = ensemble.member(0), ensemble.method
        hs = ensemble.model.states(p, ensemble.model.embed(p, x))
        undone = [method.inverse(p, l, h) for l, h in enumerate(hs[1:])]
        return sum((u - h).square().sum() / h.square().sum() for u, h in zip(undone, hs)).item()

    before = missed()
    for _ in range(4):
        ensemble.run_epoch()
    assert missed() < 0.5 * before


def test_forward_forward_reads_the_class_from_goodness_and_learns_it_level_by_level(pixels):
    method, model, p, s, hs, logits, x, y = setting("forward_forward", batch=16)

    def states(labels):
        images = x.flatten(1).clone()
        images[:, :4] = torch.eye(4, dtype=torch.float64)[labels]
        return model.states(p, model.embed(p, images.view_as(x)))

    by_class = [states(torch.full((16,), c)) for c in range(4)]
    scores = torch.stack([sum(h.square().mean(1) for h in hs[1:]) for hs in by_class], 1)
    assert torch.equal(method.predict(p, s, x), scores.argmax(1))

    wrong = logits.masked_fill(torch.eye(4, dtype=bool)[y], -math.inf).argmax(1)
    passes = [(1, states(y)), (-1, states(wrong))]

    def scalar(q):
        total = model.loss(model.readout(q, hs[-1]), y)
        for sign, levels in passes:
            images = x.flatten(1).clone()
            images[:, :4] = torch.eye(4, dtype=torch.float64)[y if sign > 0 else wrong]
            made = [model.embed(q, images.view_as(x))]
            made += [h + model.block(q, l, h) for l, h in enumerate(levels[:-1])]
            for h in made:
                margin = sign * (h.square().mean(1) - 1)
                total = total + torch.log1p(torch.exp(-margin)).mean()
        return total

    assert apart(own_gradient(method, p, s, x, y), gradient_of(scalar, p)) < ROUNDING


def test_forward_forward_learns(pixels):
    cfg = small("forward_forward", epochs=4, lr=1e-2, augment=False)
    ensemble, _ = trained(cfg, pixels)
    assert ensemble.accuracy(0) > 0.5  # of four classes


@pytest.mark.parametrize("beta", [1e-2, 1e-3])
def test_predictive_coding_is_bp_at_small_nudges(beta):
    """To the first order in β, once states have settled."""
    options = {"beta": beta, "steps": 150, "step": 0.3}
    method, model, p, s, hs, logits, x, y = setting(
        "predictive_coding", depth=2, scale=0.05, options=options
    )
    exact = gradient_of(lambda q: model.loss(model.logits(q, model.embed(q, x)), y), p)
    assert apart(own_gradient(method, p, s, x, y), exact) < 5 * beta


def test_predictive_coding_descends_the_energy_of_the_settled_states():
    method, model, p, s, hs, logits, x, y = setting(
        "predictive_coding", depth=2, options={"beta": 0.5, "steps": 3}
    )
    settled = method.relax(p, s, hs, y, s["beta"])

    def energy(q):
        below = [model.embed(q, x)]
        below += [h + model.block(q, l, h) for l, h in enumerate(settled[:-1])]
        stretched = sum(0.5 * (h - b).square().sum() for h, b in zip(settled, below))
        nudged = s["beta"] * model.losses(model.readout(q, settled[-1]), y).sum()
        return (stretched + nudged) / s["beta"] / len(y)

    assert apart(own_gradient(method, p, s, x, y), gradient_of(energy, p)) < ROUNDING


def test_direct_kolen_pollack_draws_feedback_and_readout_together(pixels64):
    """By nothing but decay: their updates are the same, so that what remains between them shrinks
    by 1 - lr λ a step.
    """
    recipe = {"optimizer": "sgd", "momentum": 0.0, "lr": 0.1, "weight_decay": 0.5}
    cfg = small("direct_kolen_pollack", **recipe, terminal_ln=False, schedule="constant")
    ensemble = Ensemble([cfg], pixels64)

    def apart_now():
        p, _ = ensemble.member(0)
        return (p["readout.head.weight"] - p["aux.B2"]).clone()

    before = apart_now()
    ensemble.run_epoch(5)
    same(apart_now(), before * (1 - 0.1 * 0.5) ** 5)


def test_block_local_is_bp_within_a_group():
    """One group of all blocks is BP; groups of one block are local losses at the level above."""
    method, model, p, s, hs, logits, x, y = setting("block_local", options={"group": 3})
    exact = gradient_of(lambda q: model.loss(model.logits(q, model.embed(q, x)), y), p)
    assert apart(own_gradient(method, p, s, x, y), exact) < ROUNDING

    method, model, p, s, hs, logits, x, y = setting("block_local", options={"group": 1})
    heads = {
        f"aux.head{l}.{k}": p[f"aux.head{min(max(l, 1), 2)}.{k}"]
        for l in range(4)
        for k in ("weight", "bias")
    }
    local = METHODS["local"](tiny("local", width=12, depth=3), model)
    found, wanted = (m.credit(p | heads, s, hs, logits, y) for m in (method, local))
    same(found[1:3], wanted[1:3])
    same(found[3], method.exact_credit(p, hs, y, 3))
    p1 = p | heads
    slope = torch.func.grad(lambda h: local.local_losses(p1, [h * 0, h + model.block(p1, 0, h)], y))
    same(found[0], slope(hs[0]))


# -- broken twins


@pytest.mark.parametrize("name", RULES)
def test_a_twin_of_a_level_that_is_not_finite_is_told_by_its_level(name, twin):
    twin(name, credit=changed(name, lambda a: [a[0], a[1] / 0, *a[2:]]))
    errors, _ = found(small(of=name))
    assert "credit of method 'twin' in a training step is not finite at level 1" in errors


@pytest.mark.parametrize("name", RULES)
def test_a_twin_of_shifted_levels_is_told_by_the_shape_of_a_level(name, twin):
    twin(name, credit=changed(name, lambda a: [*a[1:], a[-1]]))
    errors, _ = found(as_convnet(small(of=name)))
    assert re.search(r"has shape \(.*\) at level 0, whose state has", errors)


@pytest.mark.parametrize("name", RULES)
def test_a_twin_of_random_credit_is_told_that_it_draws(name, twin):
    twin(name, credit=changed(name, lambda a: [torch.randn_like(level) for level in a]))
    errors, _ = found(small(of=name))
    assert "draws from torch's global generator in credit" in errors


@pytest.mark.parametrize("name", ALIGNED)
def test_a_twin_of_the_wrong_sign_is_told_before_it_trains(name, twin):
    twin(name, credit=changed(name, lambda a: [-level for level in a]))
    errors, told = found(small(of=name))
    assert not errors and "check the sign: it is that of the gradient" in told


@pytest.mark.parametrize("name", RANDOM)
def test_the_sign_of_random_feedback_is_a_draw_like_any_other(name, twin):
    """So that a twin of the wrong sign is the rule, with the other sign of its matrix."""
    scale = 1e-5
    options = {"feedback_scale": scale} if name == "pepita" else {}
    method, model, p, s, hs, logits, x, y = setting(name, options=options)
    feedback = "F" if name == "pepita" else "feedback"
    credit, other = (
        method.ask("credit", x, p, s | {feedback: sign * s[feedback]}, hs, logits, y)
        for sign in (1, -1)
    )
    assert apart(dict(enumerate(other)), {l: -a for l, a in enumerate(credit)}) < 10 * scale


def test_a_twin_of_direct_kolen_pollack_of_the_wrong_sign_is_told_by_gamma(pixels, twin):
    """Its feedback learns the other way: nothing is to be seen before it has."""
    twin("direct_kolen_pollack", credit=changed("direct_kolen_pollack", lambda a: [-l for l in a]))
    recipe = {"epochs": 4, "lr": 3e-2, "weight_decay": 1.0, "batch_size": 32}
    gammas = {}
    for name in ("direct_kolen_pollack", "twin"):
        _, final = trained(small(name, **recipe), pixels)
        gammas[name] = sum(final["gamma"]) / len(final["gamma"])
    assert gammas["twin"] < protocol.UPHILL < -protocol.UPHILL < gammas["direct_kolen_pollack"]


def test_a_twin_of_forward_forward_that_learns_the_wrong_way_is_told_by_its_update(pixels, twin):
    """Its update is against what its credit says: Γ is not of what trains it."""

    def local_loss(self, hs):
        return -RULES["forward_forward"].local_loss(self, hs)

    def credit(self, p, s, hs, logits, y, x):
        found = RULES["forward_forward"].credit(self, p, s, hs, logits, y, x)
        return [-level for level in found]

    twin("forward_forward", local_loss=local_loss, credit=credit)
    own = {}
    for name in ("forward_forward", "twin"):
        final = Ensemble([small(name)], pixels).diagnose(0)
        own[name] = protocol.trained_by(final, "output")["own"]
    assert own["twin"] < protocol.OWN_FLOOR and own["twin"] < 0 < own["forward_forward"]


def lead_over_copy(name, pixels):
    """What the verdict says of the mirror or its twin after two epochs."""
    _, final = trained(small(name, epochs=2, lr=3e-2, batch_size=50), pixels)
    return protocol.over_copy(final)


def test_a_transposed_mirror_is_told_by_the_shape_of_a_weight_or_by_the_copy(pixels, twin):
    """On square weights its lead over the copied δ_L is small beside that of the mirror itself."""

    def auxiliary(self, p, s, hs, logits, y):
        _, learnt = RULES["weight_mirror"].auxiliary(self, p, s, hs, logits, y)
        return 0.0, {k: B.flatten(1).T for k, B in learnt.items()}

    twin("weight_mirror", auxiliary=auxiliary)
    errors, _ = found(as_convnet(small()))
    assert re.search(r"changes '.*\.feedback' from shape .* to", errors)
    assert 0 < 3 * lead_over_copy("twin", pixels) < lead_over_copy("weight_mirror", pixels)


@pytest.mark.parametrize("name", ["direct_kolen_pollack", "difference_target", "block_local"])
def test_a_twin_whose_net_is_not_learnt_is_told_by_its_leaves(name, twin):
    twin(name, auxiliary=lambda self, p, s, hs, logits, y: (0.0, {}))
    errors, told = found(small(of=name, options={"group": 1} if name == "block_local" else {}))
    assert not errors and re.search(r"no term of its scalar reaches aux\.", told)


def untaught(self, p, s, hs, logits, y):
    return 0.0, {}


class Transposed(Structured):
    """Errors travel back through the forward weights the wrong way round."""

    name = "transposed"

    def feedback(self, p, s):
        return {f"{k}.feedback": w.T for k, w in self.weights(p).items()}


def test_a_mirror_that_is_not_learnt_is_told_by_the_copy(pixels, twin):
    twin("weight_mirror", auxiliary=untaught)
    assert abs(lead_over_copy("twin", pixels)) < 0.002 < lead_over_copy("weight_mirror", pixels)


@pytest.mark.parametrize(
    "name, fires",
    [
        ("untaught mirror", True),
        ("transposed", True),
        ("untaught inverses", True),
        ("dfa", True),
        ("weight_mirror", False),
        ("kp", False),
        ("oracle", False),
    ],
)
def test_credit_that_is_no_better_than_the_copy_has_a_letter_of_its_own(
    name, fires, pixels, twin, monkeypatch
):
    """Well aligned as it may be, as blocks begin near zero: what was not learned, or learned the
    wrong way, is named, and what was is not."""
    monkeypatch.setitem(METHODS, "transposed", Transposed)
    of = {"untaught mirror": "weight_mirror", "untaught inverses": "difference_target"}
    if name in of:
        twin(of[name], auxiliary=untaught)
    cfg = small("twin" if name in of else name, depth=4, epochs=2, lr=3e-2, batch_size=50)
    _, final = trained(cfg, pixels)
    assert protocol.fires(final)["e"] is fires, protocol.beside_copy(final)
