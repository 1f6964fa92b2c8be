"""Every model against PyTorch's own modules, and every method on every model."""

import pytest
import torch
import torch.nn.functional as F
from conftest import ROUNDING, SMALL, UNIT64, float64, member, probe, same, scramble, tiny
from test_methods import LOCAL, NOT_BLIND, gap, gradient

from faeval_core import METHODS, RunConfig, data
from faeval_core.measure import loss_changes
from faeval_core.measure.diagnostics import alignment, gradients
from faeval_core.models import MODELS
from faeval_core.training import Ensemble, build, initial

pytestmark = pytest.mark.numerical
KINDS = {
    "resmlp": {},
    "studentnet": {
        "model_options": {"alpha": 0.5},
        "dataset": "teacher-a0.5-L3-small",
        "width": 128,
        "augment": False,
    },
    "vitmini": {"model_options": {"patch": 4, "heads": 2}, "depth": 2},
    "convnet": {"model_options": {"channels": 4}},
    "toylq": {"dataset": "gaussian64", "width": 64, "augment": False},
}


def kind(name, method="bp", **changes):
    return tiny(method, model=name, **{**KINDS[name], **changes})


@pytest.fixture(scope="module")
def images(pixels):
    return {
        name: data.Pixels(data.load(values["dataset"])) if "dataset" in values else pixels
        for name, values in KINDS.items()
    }


@pytest.fixture
def images64(images):
    """As `pixels64`."""
    with float64():
        yield {name: data.Pixels(found.data) for name, found in images.items()}


def test_vit_blocks_are_torchs_encoder_layers(batch):
    """h + f(h) = nn.TransformerEncoderLayer with norm_first, GELU and no dropout; patches = a
    strided convolution.
    """
    method, model, p, s = member(kind("vitmini"))
    p, x = scramble(p), batch[0]
    h = model.embed(p, x)
    conv = F.conv2d(
        x, p["embed.patches.weight"].view(12, 3, 4, 4), p["embed.patches.bias"], stride=4
    )
    same(h[:, 1:], conv.flatten(2).transpose(1, 2) + p["embed.position"][1:])
    same(h[:, 0], (p["embed.cls"] + p["embed.position"][:1]).expand(32, -1))
    layer = torch.nn.TransformerEncoderLayer(
        12, 2, 24, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    layer.double()
    names = {
        "ln1": "norm1",
        "ln2": "norm2",
        "qkv": "self_attn.in_proj_",
        "proj": "self_attn.out_proj",
        "fc1": "linear1",
        "fc2": "linear2",
    }
    state = {}
    for ours, theirs in names.items():
        for part in ("weight", "bias"):
            state[f"{theirs}{part}" if theirs.endswith("_") else f"{theirs}.{part}"] = p[
                f"blocks.1.{ours}.{part}"
            ]
    layer.load_state_dict(state)
    same(model.add(h, model.block(p, 1, h)), layer(h))


def torch_convnet(p):
    def stage(name, c_in, c_out):
        conv, bn = (
            torch.nn.Conv2d(c_in, c_out, 3, padding=1, bias=False).double(),
            torch.nn.BatchNorm2d(c_out).double(),
        )
        conv.load_state_dict({"weight": p[f"{name}.conv.weight"]})
        running = {"running_mean": p[f"{name}.bn.mean"], "running_var": p[f"{name}.bn.var"]}
        bn.load_state_dict(
            {"weight": p[f"{name}.bn.weight"], "bias": p[f"{name}.bn.bias"], **running},
            strict=False,
        )
        return [conv, bn, torch.nn.ReLU(), torch.nn.MaxPool2d(2)]

    fc, head = torch.nn.Linear(16, 12).double(), torch.nn.Linear(12, 4).double()
    for layer, name in ((fc, "blocks.2.fc"), (head, "readout.head")):
        layer.load_state_dict({k: p[f"{name}.{k}"] for k in ("weight", "bias")})
    stages = stage("embed", 3, 4) + stage("blocks.0", 4, 8) + stage("blocks.1", 8, 16)
    return torch.nn.Sequential(*stages, torch.nn.Flatten(), fc, torch.nn.ReLU(), head)


def test_convnet_is_torchs_sequential_in_training_and_evaluation(batch):
    """Outputs, gradients and the running statistics after a training pass, with torch's own
    BatchNorm2d.
    """
    method, model, p, s = member(kind("convnet"))
    p, (x, y) = (
        {k: v.abs() + 0.1 if k.endswith("var") else v for k, v in scramble(p).items()},
        batch,
    )
    net = torch_convnet(p)
    logits = model.readout(p, model.states(p, model.embed(p, x))[-1])
    same(logits, net.eval()(x))
    leaves = {k: v.clone().requires_grad_() for k, v in p.items()}
    scalar, (loss, changed) = method.surrogate(leaves, s, x, y)
    wanted = F.cross_entropy(net.train()(x), y)
    wanted.backward()
    same(loss, wanted.detach())
    scalar.backward()
    same(leaves["embed.conv.weight"].grad, net[0].weight.grad)
    same(leaves["blocks.1.bn.weight"].grad, net[9].weight.grad)
    for name, layer in (("embed", net[1]), ("blocks.0", net[5]), ("blocks.1", net[9])):
        same(changed[f"{name}.bn.mean"], layer.running_mean)
        same(changed[f"{name}.bn.var"], layer.running_var)


def test_running_statistics_follow_training_and_are_not_optimised(pixels):
    ensemble = Ensemble([kind("convnet", seed=s, epochs=4, augment=False) for s in (1, 2)], pixels)
    assert not any(k.endswith((".mean", ".var")) for k in ensemble.trained)
    for _ in range(4):
        ensemble.run_epoch()
    for m in (0, 1):
        p, _ = ensemble.member(m)
        assert p["blocks.0.bn.mean"].abs().max() > 0 and ensemble.accuracy(m) > 0.4
    assert not torch.equal(ensemble.params["embed.bn.mean"][0], ensemble.params["embed.bn.mean"][1])


def test_estimators_see_a_net_that_stays_as_it_is(pixels):
    """train_net=False holds running statistics too."""
    ensemble = Ensemble([kind("convnet", "sb", train_net=False)], pixels)
    start = {k: v.clone() for k, v in ensemble.params.items()}
    ensemble.run_epoch()
    assert all(torch.equal(ensemble.params[k], v) != k.startswith("aux.") for k, v in start.items())


def test_studentnets_activation_and_head(batch):
    """φ_α(z) = (1-α) z + α tanh z; no terminal LN."""
    method, model, p, s = member(kind("studentnet"), (1, 1, 128))
    z = torch.linspace(-3, 3, 7, dtype=torch.float64)
    same(model.activation(z), 0.5 * z + 0.5 * torch.tanh(z))
    assert "readout.ln.weight" not in p and torch.equal(
        model.embed(p, torch.ones(2, 1, 1, 128)), torch.ones(2, 128)
    )
    linear = build(kind("studentnet", model_options={"alpha": 0.0}), (1, 1, 128), 4)[1]
    assert torch.equal(linear.activation(z), z)


@pytest.mark.parametrize("name", ["resmlp", "vitmini", "convnet"])
def test_rescaling_preserves_the_function(batch, name):
    method, model, p, s = member(kind(name))
    p = {k: v.abs() + 0.5 if k.endswith("var") else v for k, v in scramble(p, scale=0.1).items()}
    p = model.rescaled(p, 1e4)  # else the eps of the norms would show
    q = model.rescaled(p, 1e3)
    plain, scaled = (model.states(r, model.embed(r, batch[0])) for r in (p, q))
    same(model.readout(q, scaled[-1]), model.readout(p, plain[-1]))
    for a, b in zip(plain, scaled):
        same(b, a * 1e3)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_every_model(images64, method, name):
    """Member equals solo, everything trained moves, and vmap moves it as the loop does."""
    plain = kind(name, method, optimizer="sgd", weight_decay=0.0, options=SMALL.get(method, {}))
    configs = [plain.with_(seed=s, lr=lr) for s, lr in ((1, 0.02), (2, 0.01))]
    x, y = zip(*(images64[name].subset("train", 64) for _ in configs))
    steps = {}
    for key, chosen, driver in (
        ("both", configs, "loop"),
        ("solo", configs[1:], "loop"),
        ("vmap", configs, "vmap"),
    ):
        ensemble = Ensemble(chosen, images64[name], driver=driver)
        for _ in range(2):
            ensemble.step(torch.stack(x[: len(chosen)]), torch.stack(y[: len(chosen)]))
        steps[key] = ensemble
    p, start = steps["both"].member(1)[0], initial(configs[1], steps["both"].method)[0]
    for k, v in p.items():
        moved, alone, vmapped = (
            w - start[k] for w in (v, steps["solo"].member(0)[0][k], steps["vmap"].member(1)[0][k])
        )
        for other in (alone, vmapped):
            assert (moved - other).norm() <= ROUNDING * moved.norm() + 4 * UNIT64 * v.norm(), k
        assert (
            v.isfinite().all()
            and moved.any()
            or (method.startswith("frozen") and k.startswith("blocks."))
        ), k


@pytest.mark.parametrize("name", ["resmlp", "vitmini", "convnet"])
@pytest.mark.parametrize("method", ["bp", "dfa", "sb", "ep"])
def test_autocast_trains_every_model(pixels, monkeypatch, name, method):
    """As on CUDA and on CPUs that round nothing in oneDNN. Weights and running statistics stay
    float32.

    The first loss feels the rounding of at most twelve products in a row, by 2^-9 each of both
    operands.
    """
    monkeypatch.setattr("faeval_core.training.execution.onednn_rounds", lambda: False)
    losses = []
    for precision in ("fp32", "bf16"):
        ensemble = Ensemble(
            [kind(name, method, precision=precision, options=SMALL.get(method, {}))], pixels
        )
        losses.append(ensemble.run_epoch(3))
        assert {v.dtype for v in ensemble.params.values()} == {torch.float32}
    assert 0 < (losses[1] - losses[0])[0].abs() < 12 * 2**-8 and losses[1].isfinite().all()


@pytest.mark.parametrize("name", ["vitmini", "convnet"])
@pytest.mark.parametrize("method", [*(n for n in LOCAL if n not in NOT_BLIND | {"fa"}), "bp"])
def test_no_hidden_back_propagation_through_tokens_and_feature_maps(
    batch, method, name, monkeypatch
):
    """As on vectors: cutting every block's input changes nothing for a local method. FA is
    structured here, block by block.
    """
    rule, model, p, s = member(kind(name, method))
    p, (x, y) = (
        {k: v.abs() + 0.5 if k.endswith("var") else v for k, v in scramble(p).items()},
        batch,
    )
    whole, block = gradient(rule, p, s, x, y), model.block
    monkeypatch.setattr(model, "block", lambda p, l, h, stats=None: block(p, l, h.detach(), stats))
    cut = gradient(rule, p, s, x, y)
    if method == "bp":
        assert (
            gap(cut, {k: v for k, v in whole.items() if k.startswith("embed.") and v.any()}) > 0.1
        )
    else:
        assert all(torch.equal(cut[k], v) for k, v in whole.items())


@pytest.mark.parametrize("name", ["vitmini", "convnet", "toylq"])
def test_diagnostics_on_other_models(images, name, monkeypatch):
    monkeypatch.setattr(loss_changes, "DIRECTIONS", 8)
    monkeypatch.setattr(MODELS[name], "probe", 128)
    cfg = kind(name, "dfa")
    found = Ensemble([cfg], images[name]).diagnose(0)
    levels = MODELS[name](cfg, images[name].data.image_shape, 4).depth + 1
    assert (
        len(found["gamma"]) == levels and None not in found["gamma"] + found["rho"] + found["twin"]
    )
    for other in ("bp", "oracle"):
        exact = Ensemble([kind(name, other)], images[name]).diagnose(0)
        coupled = name == "convnet"  # one sample's state moves the statistics of all
        assert (
            min(exact["gamma"]) > 1 - 1e-9
            and min(exact["rho"]) > (0.95 if coupled else 0.99)
            and min(exact["g_norm"]) > 0
        )
        noisy = 1e-3 if name == "toylq" else 1e-6  # training has process noise
        assert min(c for c in exact["update_cos"] if c is not None) > 1 - noisy
    for other in ("cb", "sb", "ep", "fa"):
        assert None not in Ensemble([kind(name, other)], images[name]).diagnose(0)["gamma"]
    # whose neighbouring levels differ in size
    assert (None in found["gamma_block"]) == (name == "convnet")


def test_gamma_on_tokens_leaves_out_those_without_gradient(images):
    """At the top only the cls token has a gradient: Γ_L is the cosine there, whatever the credit of
    the others.
    """
    method, model, p, s = member(kind("vitmini", "dfa"))
    p, (x, y) = scramble(p), probe(images["vitmini"])
    found = alignment(method, p, s, y, *gradients(method, p, x, y))
    hs = model.states(p, model.embed(p, x))
    top = hs[-1].detach().requires_grad_()
    (g,) = torch.autograd.grad(model.losses(model.readout(p, top), y).sum(), top)
    assert not g[:, 1:].any()
    credit = method.direct(s, model.readout(p, hs[-1]).detach(), y)[-1]
    wanted = F.cosine_similarity(credit[:, 0], g[:, 0]).mean().item()
    assert found["gamma"][-1] == pytest.approx(wanted, abs=ROUNDING)


def test_fa_on_feature_maps_with_the_true_weights_is_bp(batch):
    for name in ("convnet", "vitmini"):
        method, model, p, s = member(kind(name, "fa"))
        p, (x, y) = (
            {
                k: v.abs() + 0.5 if k.endswith("var") else v
                for k, v in scramble(p, scale=0.1).items()
            },
            batch,
        )
        s |= {f"{k}.feedback": p[f"{k}.weight"] for k in method.weights(p)}
        wanted = gradient(METHODS["bp"](method.cfg, model), p, s, x, y)
        # a batch's statistics depend on every sample: credit goes back through them as well
        if name == "convnet":
            wanted = {k: v for k, v in wanted.items() if v.norm() > 1e-12}
        found = gradient(method, p, s, x, y)
        assert gap(found, {k: v for k, v in wanted.items() if v.norm() > 0}) < ROUNDING, name


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": "vitmini", "terminal_ln": False}, "no control terminal_ln=False"),
        ({"model": "convnet", "depth": 4}, "depth 3"),
        ({"model": "vitmini", "model_options": {"heads": 5}}, "heads that divide width"),
        (
            {"model": "resmlp", "model_options": {"alpha": 1.0}},
            ("unknown option of model 'resmlp' 'alpha'"),
        ),
        ({"model": "vit"}, "did you mean 'vitmini'"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny("bp", **changes)


def test_a_model_that_does_not_fit_the_images_is_refused(pixels):
    for changes, message in (
        (
            {"model": "vitmini", "model_options": {"patch": 3, "heads": 2}},
            "patch 3 does not divide",
        ),
        ({"model": "toylq"}, "inputs' 192 features"),
    ):
        with pytest.raises(ValueError, match=message):
            Ensemble([tiny("bp", **changes)], pixels)


def test_synthetic_datasets():
    """Labels come from the named teacher, every class occurs, and pixels that are none cannot be
    cropped.
    """
    found = data.load("teacher-a1.0-L4")
    counts = torch.bincount(found.train_y, minlength=10)
    assert (
        found.image_shape == (1, 1, 128)
        and counts.min() > 200
        and abs(found.train_x.std().item() - 1) < 0.01
    )
    assert torch.equal(
        data.Pixels(found).subset("train", 8)[0].sort(0)[0][0] * 0, torch.zeros(1, 1, 128)
    )
    assert (
        found.fingerprint
        == data.load("teacher-a1.0-L4").fingerprint
        != data.load("teacher-a0.5-L4").fingerprint
    )
    small = data.load("teacher-a1.0-L4-small")
    assert len(small.train_y) == 1280 and torch.equal(small.test_y, found.test_y[:256])
    from faeval_core import run

    with pytest.raises(ValueError, match="set augment=False"):
        run(
            [RunConfig("bp", dataset="teacher-a1.0-L4", model="studentnet", width=128, epochs=1)],
            progress=False,
        )
