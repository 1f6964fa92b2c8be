"""What an audit says of a net: of the credit that was measured, of the update that trained it, and
of its reference.
"""

import html
from dataclasses import replace

import pytest
import torch
from conftest import ROUNDING, ROUNDING32, full, member, probe, scramble, tiny

from faeval_core.measure import diagnostics as diag
from faeval_core.measure import protocol
from faeval_core.methods import METHODS, LocalMethod
from faeval_core.methods.dfa import DFA
from faeval_core.report import tuning
from faeval_core.report.audit import Audit, audit
from faeval_core.runs import RunRecord, Store

MODELS = {
    "resmlp": {},
    "no terminal LN": {"terminal_ln": False},
    "no residual": {"residual": False},
    "vitmini": {"model": "vitmini", "model_options": {"patch": 4, "heads": 2}},
    "convnet": {"model": "convnet"},
}


class Pretender(DFA):
    """Trains by DFA and shows the exact gradient."""

    name = "pretender"

    def surrogate(self, p, s, x, y):
        return DFA(self.cfg, self.model).surrogate(p, s, x, y)

    def credit(self, p, s, hs, logits, y):
        return [self.exact_credit(p, hs, y, l) for l in range(len(hs))]


class Fickle(LocalMethod):
    """Credit drawn anew whenever it is asked for, for each sample."""

    name = "fickle"

    def credit(self, p, s, hs, logits, y):
        return [torch.randn_like(h) for h in hs]


class Uniform(Fickle):
    """The same, once for the whole batch: Γ then is as noisy as one sample's."""

    name = "uniform"

    def credit(self, p, s, hs, logits, y):
        return [torch.randn_like(h[:1]).expand_as(h) for h in hs]


class Leaning(DFA):
    """Its direction hangs on the scale of the stream."""

    name = "leaning"

    def credit(self, p, s, hs, logits, y):
        exact = [self.exact_credit(p, hs, y, l) for l in range(len(hs))]
        weight = [1 / (1 + h.norm(dim=-1, keepdim=True)) for h in hs]
        random = super().credit(p, s, hs, logits, y)
        return [w * a / a.norm() + (1 - w) * b / b.norm() for w, a, b in zip(weight, exact, random)]


def reference(method, p, s, pixels):
    """What (b') reads of a diagnosis of one float32 member, without the rest, which takes its
    time.
    """
    (x, y), p, s = (
        pixels.subset("test", 256),
        *({k: v.float() for k, v in part.items()} for part in (p, s)),
    )
    with torch.no_grad():
        hs, logits, gs = diag.gradients(method, p, x, y)
        _, _, twins = diag.gradients(method, {k: v.double() for k, v in p.items()}, x.double(), y)
        found = diag.alignment(method, p, s, y, hs, logits, gs)
        moved = diag.rescaled(method, p, s, x, y, logits)
    twin = [diag.gamma(method, g, t) for g, t in zip(gs, twins)]
    return found | {
        "twin": twin,
        "g_norm": [diag.median_norm(method, g) for g in gs],
        "rescaled": moved,
    }


def told_apart(rule, **changes):
    """(method, p, s) of an untrained member whose rule is `rule`, a class that is not
    registered.
    """
    method, model, p, s = member(tiny("dfa", **changes), double=False)
    return rule(method.cfg, model), scramble(p), s


@pytest.mark.parametrize("method", ["bp", "oracle", "kp"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_a_valid_exact_gradient_never_fires_b(pixels, model, method, scale):
    """Kolen-Pollack with feedback equal to the weights is exact, too; at any scale of the
    stream.
    """
    rule, net, p, s = member(tiny(method, **MODELS[model]))
    p = scramble({k: v for k, v in p.items() if not k.startswith("aux.")}, scale=0.3)
    p = {k: v.abs() + 0.5 if k.endswith("var") else v for k, v in p.items()}
    p = net.rescaled(p, scale)
    if method == "kp":
        p |= {f"aux.{k}": w for k, w in rule.weights(p).items()}
    found = reference(rule, p, s, pixels)
    assert found["gamma"] == pytest.approx([1.0] * 4, abs=ROUNDING)
    assert protocol.reference_fault(found) == "", found["rescaled"]


def test_feedback_that_stands_in_for_a_weight_is_scaled_as_the_weight_is(pixels):
    rule, net, p, s = member(tiny("fa", **MODELS["vitmini"]))
    p = scramble(p)
    exact = {f"{k}.feedback": w for k, w in rule.weights(p).items()}
    for state in (exact, s):
        assert protocol.reference_fault(reference(rule, p, state, pixels)) == ""


@pytest.mark.parametrize("rule", [Fickle, Uniform])
@pytest.mark.parametrize("seed", range(3))
def test_random_credit_does_not_fire_b(pixels, rule, seed):
    torch.manual_seed(seed)
    found = reference(*told_apart(rule), pixels)
    assert not found["rescaled"]["repeatable"] and protocol.reference_fault(found) is None
    assert (
        max(abs(a - b) for a, b in zip(found["gamma"], found["rescaled"]["gamma"]))
        > protocol.RESCALE_DRIFT
    )


def test_credit_that_hangs_on_the_scale_of_the_stream_does_fire_b(pixels):
    found = reference(*told_apart(Leaning), pixels)
    assert found["rescaled"]["repeatable"] and protocol.reference_fault(found) == "rescaling"


def test_b_is_undefined_where_the_stream_cannot_be_rescaled(pixels):
    """A student's stream begins at its input: nothing is written larger, so nothing was put to the
    test.
    """
    rule, net, p, s = member(tiny("dfa", model="studentnet", width=192))
    found = reference(rule, scramble(p, scale=0.01), s, pixels)
    assert found["rescaled"]["gamma"] == found["gamma"] and min(found["twin"]) > 0.999
    assert (
        protocol.reference_fault(found) is None
        and protocol.fires({**found, "growth": 1.0, "stability": 0.1})["b'"] is None
    )


UPDATES = [
    ("bp", {}),
    ("dfa", {"penalty": 0.1}),
    ("fa", {"credit_norm": "sample_rms_g"}),
    ("dfa", {"rule": "cosine"}),
    ("sb", {"credit_level": "input"}),
    ("dfa", {"rule": "target", "eta": 0.1}),
    ("oracle", {"embedding": "exact"}),
    ("kp", {}),
    ("ep", {}),
    ("local", {}),
    ("dfa", MODELS["convnet"]),
]


@pytest.mark.parametrize("method, changes", UPDATES)
def test_what_trains_an_honest_rule_is_what_its_credit_makes(pixels, method, changes):
    rule, net, p, s = member(tiny(method, **changes), batch=256)
    found = diag.update_alignment(rule, scramble(p, scale=0.1), s, {}, *probe(pixels))
    assert found["credit_cos"] == pytest.approx([1.0] * 3, abs=ROUNDING)


def trained(pixels, rule, seed):
    method, p, s = told_apart(rule, seed=seed)
    found = full(method, p, s, pixels) | diag.update_alignment(
        method, p, s, {}, *pixels.subset("train", 256)
    )
    curves = {"test_acc": [0.5, 0.5], "growth": [1.0, 1.0], "g_norm": [[1.0] * 4] * 2}
    return RunRecord(tiny("dfa", seed=seed), "complete", curves, {"2": found}, None, {})


def test_an_audit_says_over_how_many_draws_random_credit_is_averaged(pixels):
    """With Γ of a single draw, its mean over the levels where it is defined; of other rules it says
    nothing.
    """
    plain = trained(pixels, DFA, 1)
    drawn = {"draws": 16, "gamma_draw": [0.1, None, 0.3, 0.2]}
    random = replace(plain, diagnostics={"2": plain.final | drawn})
    told = [
        " ".join(Audit(tiny("dfa"), {"dfa": [record], "frozen": [plain]}).lines)
        for record in (random, plain)
    ]
    assert "the mean over 16 draws of its noise; of a single draw Γ is 0.20" in told[0]
    assert "draws" not in told[1]


def test_an_audit_tells_credit_that_was_shown_from_credit_that_trained(pixels):
    """A rule that trains by DFA and returns the exact gradient has Γ = 1; its update is DFA's, and
    the audit says so.
    """
    liar, honest = ([trained(pixels, rule, seed) for seed in (1, 2)] for rule in (Pretender, DFA))
    few = ROUNDING32**2 / 2  # of a cosine whose vectors are ten thousand roundings apart
    assert liar[0].final["gamma"] == pytest.approx([1.0] * 4, abs=few)
    assert liar[0].final["update_cos"] == pytest.approx(
        honest[0].final["update_cos"], abs=ROUNDING32
    )
    assert max(liar[0].final["credit_cos"]) < 0.9 < 0.9999 < min(honest[0].final["credit_cos"])
    found = {
        name: Audit(tiny("dfa"), {"dfa": records, "frozen": honest})
        for name, records in (("liar", liar), ("dfa", honest))
    }
    told = {name: audit.trained for name, audit in found.items()}
    assert "They disagree: in 2 of 2 seeds the update is not what `credit` makes" in told["liar"]
    assert "disagree" not in told["dfa"] and protocol.WITHDRAW["own"] in told["liar"]
    assert told["liar"] in found["liar"].lines and html.escape(told["liar"]) in found["liar"].page()
    row = found["liar"].table.loc[:, ["Γ (what blocks hear)", "update cos (blocks)"]].iloc[0]
    assert row.iloc[0] == "1.000 ± 0.000" and row.iloc[1] != row.iloc[0]


def test_an_audit_of_older_records_still_sets_the_two_beside_each_other(pixels):
    records = [trained(pixels, Pretender, 1)]
    old = {k: v for k, v in records[0].final.items() if k != "credit_cos"}
    found = Audit(tiny("dfa"), {"dfa": [replace(records[0], diagnostics={"2": old})], "frozen": []})
    assert "They differ, as samples weigh otherwise" in found.trained
    bare = {k: v for k, v in old.items() if not k.endswith("_cos")}
    assert (
        "Blocks are not trained"
        in Audit(tiny("dfa"), {"dfa": [replace(records[0], diagnostics={"2": bare})]}).trained
    )
    assert "oracle" in METHODS


def test_a_learning_rate_is_the_best_on_held_out_training_images_of_each(pixels, tmp_path):
    """Chosen by seeds that are not reported, the same for all methods, company included, and the
    test set has no say."""
    found = audit(
        "dfa",
        dataset="blobs",
        lr=[1e-5, 1e-2],
        seeds=(1,),
        tuning_seeds=(5,),
        results=tmp_path,
        epochs=1,
        width=8,
        depth=2,
        augment=False,
    )
    rates = found.rates
    assert set(rates.scores) == set(found.arms) == {"dfa", "bp", "frozen", "frozen_dfa"}
    for arm, scores in rates.scores.items():
        assert list(scores) == [1e-5, 1e-2] and all(len(v) == 1 for v in scores.values())
        assert rates.chosen[arm] == max(scores, key=lambda lr: scores[lr][0])
        assert {r.config.lr for r in found.arms[arm]} == {rates.chosen[arm]}
        assert [r.config.seed for r in found.arms[arm]] == [1]
    kept = [r.config for r in Store(tmp_path).all()]
    assert {(c.dataset, c.seed) for c in kept} == {("blobs", 1), ("blobs+validation", 5)}


@pytest.mark.parametrize("lr", [[], [1e-3, 1e-3], [0.1, "fast"]])
def test_learning_rates_are_numbers_each_of_them_once(lr):
    with pytest.raises(ValueError, match="lr must be"):
        audit("dfa", dataset="digits", seeds=(1,), lr=lr, train=False)


def test_a_seed_does_not_choose_the_rate_at_which_it_is_reported(tmp_path):
    with pytest.raises(ValueError, match=r"seeds \[2\] would choose the learning rate"):
        audit("dfa", seeds=(1, 2), tuning_seeds=(2, 3), lr=[1e-3, 1e-2], results=tmp_path)


@pytest.mark.parametrize(
    "scores, chosen",
    [
        ({1e-3: [0.5, 0.7], 1e-2: [0.9, None]}, 1e-3),
        ({1e-2: [0.6], 1e-3: [0.6]}, 1e-3),
        ({1e-3: [None]}, None),
        ({1e-3: [0.1], 1e-2: [0.2], 1e-1: [0.15]}, 1e-2),
    ],
)
def test_a_rate_is_taken_by_its_mean_and_not_where_a_seed_diverged(scores, chosen):
    assert tuning.best(scores) == chosen
    found = tuning.Tuning(tuple(scores), (7,), {"r": scores}, {"r": chosen})
    at_end = len(scores) > 1 and chosen in (min(scores), max(scores))
    assert any("widen the grid" in note for note in found.notes) is at_end


def test_several_rules_on_several_models_share_their_company(tmp_path):
    """Options and models have an Audit each; what they are set beside trains once per model."""
    found = audit(
        ["dfa", ("fa", {"feedback_scale": 0.5}), "fa"],
        models=["resmlp", "convnet"],
        seeds=(1,),
        results=tmp_path,
        train=False,
        width=16,
    )
    assert [(a.label, a.base.model) for a in found] == [
        (label, model)
        for model in ("resmlp", "convnet")
        for label in ("dfa", "fa (feedback_scale=0.5)", "fa")
    ]
    for a in found:
        assert {"bp", "dfa", "frozen", "frozen_dfa", a.label} == set(a.arms)
    assert found[1].base.options["feedback_scale"] == 0.5
    assert found[3].base.depth == 3 and found[0].base.depth == 4
    with pytest.raises(ValueError, match="'fa' is named twice"):
        audit(["fa", "fa"], seeds=(1,), results=tmp_path, train=False)


def test_a_letter_is_undefined_with_the_level_and_its_reason(pixels):
    """Where a level has another shape than the top, whose gradient is copied."""
    plain = trained(pixels, DFA, 1)
    gone = plain.final | {"gamma_copied": [None, None, None, 1.0], "gamma": [0.1, 0.2, None, 1.0]}
    other = replace(plain, diagnostics={"2": gone | {"undefined": {"gamma": "it is zero"}}})
    told = Audit(tiny("dfa"), {"dfa": [other], "frozen": [plain]}).lines
    assert "(e) is undefined in 1 of 1 seeds: at level 2: it is zero." in told
    assert "Γ is undefined at level 2 in 1 of 1 seeds: it is zero." in told
    gone["gamma"] = plain.final["gamma"]
    told = Audit(tiny("dfa"), {"dfa": [replace(plain, diagnostics={"2": gone})]}).lines
    assert any("(e) is undefined" in line and "another shape" in line for line in told)


def test_a_negative_cosine_at_one_level_asks_for_its_sign(pixels):
    plain = trained(pixels, DFA, 1)
    low = replace(plain, diagnostics={"2": plain.final | {"gamma": [0.9, -0.6, 0.9, 1.0]}})
    told = Audit(tiny("dfa"), {"dfa": [low]}).lines
    assert "Γ is negative at level 1 (-0.60): check the sign of its credit there." in told
