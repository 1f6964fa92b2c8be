"""The diagnostics on modules of other people: the same figures as on faeval's own nets, nothing
changed, and every mistake named.
"""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from conftest import ROUNDING, ROUNDING32, full, member, scramble, tiny
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from faeval_core.measure import judge_levels, judge_measures, protocol
from faeval_core.measure.diagnostics import RESCALE
from faeval_core.measure.judge import CreditError, LevelError, judge

pytestmark = pytest.mark.numerical


def bp(states, output, y):
    return torch.autograd.grad(F.cross_entropy(output, y), states)


def noise(states, output, y):
    return [torch.randn_like(h) for h in states]


class Stream(nn.Module):
    """A pre-norm residual net of three blocks, with dropout and BatchNorm where wanted."""

    def __init__(self, width=8, terminal_ln=True, dropout=0.0):
        super().__init__()
        self.embed = nn.Linear(5, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
            )
            for _ in range(3)
        )
        self.adds = nn.ModuleList(nn.Dropout(dropout) for _ in range(3))
        self.ln = nn.LayerNorm(width) if terminal_ln else nn.Identity()
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        h = self.embed(x)
        for block, add in zip(self.blocks, self.adds):
            h = add(h + block(h))
        return self.head(self.ln(h))


class Overflowing(Stream):
    """A head that grows so fast that a larger stream leaves float32."""

    def forward(self, x):
        return super().forward(x).exp()


LEVELS = ["embed", "adds.0", "adds.1", "adds.2"]
WRITERS = ["embed", "blocks.0.3", "blocks.1.3", "blocks.2.3"]


def samples(n=12, features=5):
    return torch.randn(n, features), torch.randint(0, 4, (n,))


# -- the figures


def residual_net():
    """ResNet of torchvision, one block a stage, its stem for images of 32×32."""
    net = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=4)
    net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    return net, [f"layer{i}" for i in (1, 2, 3, 4)], torch.randn(2, 3, 32, 32)


def transformer():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
    stack = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16), enable_nested_tensor=False)
    net = nn.Sequential(nn.Linear(5, 16), stack, nn.Flatten(), nn.Linear(16 * 6, 4))
    return net, ["0", "1.layers.0", "1.layers.1"], torch.randn(32, 6, 5)


class Recurrent(nn.Module):
    """A classifier of tokens, whose recurrent layer gives a tuple."""

    def __init__(self):
        super().__init__()
        self.embed, self.layer = nn.Embedding(9, 16), nn.LSTM(16, 16, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, tokens):
        states, _ = self.layer(self.embed(tokens))
        return self.head(states.mean(1))


def recurrent():
    return Recurrent(), ["embed", "layer"], torch.randint(0, 9, (32, 6))


@pytest.mark.parametrize("made", [residual_net, transformer, recurrent])
def test_bps_own_credit_is_exact_and_a_random_one_is_not(made, monkeypatch):
    net, levels, x = made()
    net, x = net.double(), x.double() if x.is_floating_point() else x
    y = torch.arange(len(x)) % 4
    found = judge(net, levels, bp, x, y, directions=4).diagnosis
    assert found["gamma"] == pytest.approx([1] * len(levels), abs=ROUNDING)
    assert min(found["rho"]) > 0.99 and max(found["nudge"]) < 0
    # ρ of four directions says nothing
    monkeypatch.setattr(judge_levels.Outputs, "can_resume", False)
    found = judge(net, levels, noise, x, y).diagnosis
    assert max(map(abs, found["gamma"])) < 0.1


def own_net(p):
    """The module of a ResMLP's parameters."""
    width, features = p["embed.weight"].shape
    net = Stream(width)
    net.embed, net.head = nn.Linear(features, width), nn.Linear(width, 4)
    net = net.double()
    names = {"0": "ln", "1": "fc1", "3": "fc2"}
    state = {}
    for name in net.state_dict():
        part, *rest = name.split(".")
        if part == "blocks":
            l, i, tensor = rest
            state[name] = p[f"blocks.{l}.{names[i]}.{tensor}"]
        else:
            state[name] = p[name if part == "embed" else f"readout.{name}"]
    net.load_state_dict(state)
    return nn.Sequential(nn.Flatten(), net)


def test_the_figures_are_those_that_diagnose_takes_on_the_same_net(pixels64):
    method, _, p, s = member(tiny("dfa"))
    p = scramble(p)
    wanted = full(method, p, s, pixels64)

    def dfa(states, output, y):
        return [a.detach() for a in method.credit(p, s, states, output, y)]

    x, y = pixels64.subset("train", 1024)
    found = judge(
        own_net(p),
        [f"1.{name}" for name in LEVELS],
        dfa,
        *pixels64.subset("test", 256),
        stability_batches=zip(x.split(128), y.split(128)),
        writers=[f"1.{name}" for name in WRITERS],
        accuracy=0.5,
        frozen_accuracy=0.3,
    )
    told = found.diagnosis
    for key in ("gamma", "gamma_clamped", "gamma_copied", "rho", "nudge", "nudge_raw", "twin"):
        assert told[key] == pytest.approx(wanted[key], abs=ROUNDING), key
    for key in ("h_norm", "g_norm", "growth", "stability"):
        assert told[key] == pytest.approx(wanted[key], rel=ROUNDING), key
    for key in ("gamma", "g_norm"):
        assert told["rescaled"][key] == pytest.approx(wanted["rescaled"][key], rel=ROUNDING), key
    assert told["rescaled"]["factor"] == RESCALE and told["rescaled"]["repeatable"]
    assert found.fired == protocol.fires(wanted, 0.5, 0.3) and not found.undefined


def test_an_answer_by_hand_where_the_loss_is_not_a_classes():
    """Squared error of a linear net with one hidden level: g = 2 (w·h - y) w / 128."""
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double()
    x, y = torch.randn(6, 3).double(), torch.randn(6, 1).double()
    h = net[0](x).detach()
    wanted = (2 * (net[1](h) - y) * net[1].weight / 128).detach()

    def tilted(states, output, y):
        return [wanted + 0.5 * wanted.norm(dim=1, keepdim=True) * across]

    across = torch.stack([-wanted[:, 1], wanted[:, 0]], 1) / wanted.norm(dim=1, keepdim=True)
    losses = (F.mse_loss, nn.MSELoss(), lambda out, y: (out - y).square()[:, 0])
    for loss in losses:
        found = judge(net, ["0"], tilted, x, y, loss=loss).diagnosis
        assert found["gamma"] == pytest.approx([1 / math.hypot(1, 0.5)], rel=ROUNDING)
        norms = wanted.norm(dim=1)
        assert found["g_norm"] == pytest.approx([norms.median().item()], rel=ROUNDING)
        assert found["h_norm"] == pytest.approx([h.norm(dim=1).median().item()], rel=ROUNDING)
    with pytest.raises(ValueError, match=r"one value for each of 6 samples, not \(\).*reduction"):
        judge(net, ["0"], tilted, x, y, loss=lambda out, y: (out - y).square().mean())


def test_a_state_is_what_a_level_gives_whatever_edits_it_later():
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 4))
    x, y = samples()
    seen = []

    def credit(states, output, y):
        seen.append(states[0].detach().clone())
        return bp(states, output, y)

    found = judge(net, ["0"], credit, x, y).diagnosis
    assert torch.equal(seen[0], net[0](x)) and (seen[0] < 0).any()
    assert found["gamma"] == pytest.approx([1], abs=ROUNDING32) and found["rho"][0] > 0.99


def test_levels_may_be_modules_or_a_function_of_the_input():
    net, (x, y) = Stream(), samples()
    parts = dict(net.named_modules())
    by_name = judge(net, LEVELS, bp, x, y)
    by_module = judge(net, [parts[name] for name in LEVELS], bp, x, y)
    assert by_module.text == by_name.text
    listed = judge(net, net.adds, bp, x, y)
    assert listed.diagnosis["gamma"] == by_name.diagnosis["gamma"][1:]

    def states(x):
        found = []
        hooks = [parts[n].register_forward_hook(lambda *a: found.append(a[2])) for n in LEVELS]
        net(x)
        for hook in hooks:
            hook.remove()
        return found

    found = judge(net, states, bp, x, y)
    for key in ("gamma", "h_norm", "g_norm", "twin"):
        assert found.diagnosis[key] == pytest.approx(by_name.diagnosis[key], rel=ROUNDING32)
    assert found.diagnosis["rho"] == [None] * 4
    assert "from its states the model cannot go on" in found.undefined["rho"]
    assert "`rho` is undefined" in found.text and list(found.to_frame().index) == [
        "h_0",
        "h_1",
        "h_2",
        "h_3",
    ]


def test_a_compiled_net_is_judged_as_it_is_before():
    net, (x, y) = Stream(), samples()
    wanted = judge(net, LEVELS, bp, x, y)
    compiled = torch.compile(net, backend="eager")
    levels = [f"_orig_mod.{name}" for name in LEVELS]
    for mode in (True, False):  # from here on the compiled code is reused, which hears no new hook
        compiled.train(mode)
        compiled(x)
    found = judge(compiled, levels, bp, x, y)
    assert found.diagnosis["rho"] == wanted.diagnosis["rho"]
    assert found.diagnosis["gamma"] == wanted.diagnosis["gamma"]


def test_a_net_that_nothing_trains_has_levels_too():
    net, (x, y) = Stream().requires_grad_(False), samples()
    assert judge(net, LEVELS, bp, x, y).diagnosis["gamma"] == pytest.approx([1] * 4, abs=ROUNDING32)


def test_rho_and_nudges_by_parts_are_those_of_the_whole(monkeypatch):
    net, (x, y) = Stream(), samples()
    whole = judge(net, LEVELS, bp, x, y).diagnosis
    monkeypatch.setattr(judge_measures, "NUMBERS_AT_ONCE", 32 * 8 * 5)
    parts = judge(net, LEVELS, bp, x, y).diagnosis
    assert parts["nudge"] == pytest.approx(whole["nudge"], rel=ROUNDING)
    assert parts["nudge_raw"] == pytest.approx(whole["nudge_raw"], rel=ROUNDING)
    assert min(parts["rho"]) > 0.99


# -- what cannot be measured


def test_growth_is_undefined_between_levels_of_other_shapes_unless_it_fires_elsewhere():
    net, (x, y) = nn.Sequential(*(nn.Linear(a, b) for a, b in ((5, 8), (8, 8), (8, 4)))), samples()
    found = judge(net, ["0", "1", "2"], bp, x, y)
    assert found.fired["a"] is None and "1 and 2 are of different shapes" in found.undefined["a"]
    assert found.to_frame()["growth_to_next"].isna().tolist() == [False, True, True]
    assert "levels 0, 1 are of other shapes than 2" in found.undefined["gamma_copied"]
    with torch.no_grad():
        net[1].weight.mul_(1e4)
    assert judge(net, ["0", "1", "2"], bp, x, y).fired["a"] is True
    alone = judge(net, ["1"], bp, x, y)
    assert "one level alone" in alone.undefined["a"]


def test_every_letter_that_is_not_decided_says_why():
    x, y = samples()
    found = judge(Stream(), LEVELS, bp, x, y)
    letters = {"a": False, "b": False, "b'": None, "c": None, "d": None, "e": False}
    assert found.fired == letters
    assert found.verdict.text() == "none of (a), (b) fires; undefined: (c), (d)"
    reasons = {"b'": "name them in writers", "c": "x has 12 samples, fewer than 8", "d": "accuracy"}
    assert set(found.undefined) == set(reasons)
    for letter, why in reasons.items():
        assert why in found.undefined[letter] and f"({letter}) is undefined" in found.text
    batches = [samples(128) for _ in range(8)]
    for given, why in ((batches[:7], "has 7 batches"), ([samples(64)] * 8, "a batch of 64")):
        found = judge(Stream(), LEVELS, bp, x, y, stability_batches=given)
        assert why in found.undefined["c"]
    assert judge(Stream(), LEVELS, bp, x, y, stability_batches=batches).fired["c"] is not None


@pytest.mark.parametrize(
    "net, writers, why",
    [
        (Stream(), WRITERS, None),
        (Stream(), WRITERS[:-1], "changes the loss by .* without every writer"),
        (Stream(terminal_ln=False), WRITERS, "changes the loss by .* last normalisation"),
        (Overflowing(terminal_ln=False), WRITERS, "changes the loss by (nan|inf) %"),
    ],
)
def test_the_stream_is_rescaled_where_that_changes_no_function(net, writers, why):
    x, y = samples()
    found = judge(net, LEVELS, bp, x, y, writers=writers)
    if why is None:
        assert found.fired["b'"] is False and "b'" not in found.undefined
    else:
        assert found.fired["b'"] is None
        assert re.search(why, found.undefined["b'"])


def test_credit_that_hangs_on_the_scale_fires_and_a_drawn_one_does_not():
    x, y = samples()

    def mixed(states, output, y):  # its direction turns with the size of the stream
        return [g + 1e-3 * h.detach() for g, h in zip(bp(states, output, y), states)]

    fired = judge(Stream(), LEVELS, mixed, x, y, writers=WRITERS)
    assert fired.fired["b'"] is True and protocol.WITHDRAW["rescaling"] in fired.text
    drawn = judge(Stream(), LEVELS, noise, x, y, writers=WRITERS)
    assert drawn.fired["b'"] is None and "drawn anew" in drawn.undefined["b'"]


class InFloat32(nn.Module):
    """Makes a float32 tensor of its own, so that it does not run in float64."""

    def forward(self, x):
        return x @ torch.eye(x.shape[1], dtype=torch.float32)


def test_what_does_not_run_in_float64_is_undefined_and_the_rest_is_not():
    net, (x, y) = nn.Sequential(nn.Linear(5, 6), InFloat32(), nn.Linear(6, 4)), samples()
    found = judge(net, ["0"], bp, x, y)
    assert found.diagnosis["gamma"] == pytest.approx([1], abs=ROUNDING32)
    assert found.diagnosis["rho"] == [None] and found.fired["b'"] is None
    for what in ("rho", "b'"):
        assert "does not run in float64" in found.undefined[what]
    assert net[0].weight.dtype == torch.float32 and "—" in found.text


def test_a_dead_gradient_and_a_shared_one_are_told():
    net, (x, y) = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4)), samples()
    with torch.no_grad():
        net[0].bias.fill_(-1e3)  # no unit is ever active
    found = judge(net, ["0", "1"], noise, x, y)
    assert found.diagnosis["gamma"][0] is None and found.diagnosis["rho"][0] is None
    assert "zero for every sample at 0" in found.undefined["gamma"]
    assert "the gradient is zero" in found.undefined["b'"]
    turned = judge(Stream(), LEVELS, lambda *a: [-g for g in bp(*a)], x, y)
    assert "Γ is negative at embed, adds.0, adds.1, adds.2: check the sign" in turned.text


# -- the model is left as it was


def untidy():
    """A net with mixed modes, frozen and shared weights, gradients and a hook of its owner's."""
    net = nn.Sequential(
        nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 6), nn.Linear(6, 4)
    )
    net[3].bias = net[0].bias  # shared
    net[0].requires_grad_(False)
    net(torch.randn(9, 5)).sum().backward()
    net[3].weight.grad = None
    net.train()
    net[1].eval()
    net[3].register_forward_hook(lambda module, args, output: output * 2)
    net.register_buffer("table", torch.tensor([1.0, math.nan]))
    return net


def state(net):
    """All that judge might change: values, identity of tensors, modes, gradients, hooks."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    values = {
        k: (id(t), t.data_ptr(), t.dtype, t.numpy(force=True).tobytes()) for k, t in tensors.items()
    }
    grads = {
        k: (id(p.grad), p.grad is None or p.grad.numpy().tobytes(), p.requires_grad)
        for k, p in net.named_parameters()
    }
    modules = [(m.training, len(m._forward_hooks), sorted(vars(m))) for m in net.modules()]
    return values, grads, modules


def backward(states, output, y):
    F.cross_entropy(output, y).backward(retain_graph=True)
    return bp(states, output, y)


def fails(states, output, y):
    raise KeyError("in the credit")


def trains(net):
    def credit(states, output, y):
        with torch.no_grad():
            net[3].weight += 1e-6
            net.train()
            net[4].weight = nn.Parameter(torch.zeros(4, 6))
        return noise(states, output, y)

    return credit


@pytest.mark.parametrize(
    "credit, error",
    [
        (lambda net: bp, None),
        (lambda net: backward, None),
        (lambda net: fails, KeyError),
        (lambda net: lambda *a: [None], CreditError),
        (trains, CreditError),
    ],
)
@pytest.mark.parametrize("double", [False, True])
def test_nothing_of_the_model_is_changed_whatever_happens(credit, error, double):
    net, (x, y) = untidy(), samples()
    if double:
        net, x = net.double(), x.double()
    before, drawn, given = state(net), torch.get_rng_state(), x.clone()
    if error is None:
        judge(net, ["1", "3"], credit(net), x, y, writers=["1"])
    else:
        with pytest.raises(error):
            judge(net, ["1", "3"], credit(net), x, y)
    assert state(net) == before and torch.equal(x, given) and not x.requires_grad
    assert error is CreditError or torch.equal(torch.get_rng_state(), drawn)
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_credit_that_trains_is_named_with_the_weight():
    net, (x, y) = untidy(), samples()
    with pytest.raises(CreditError, match="changes 3.weight of the model; a credit reads"):
        judge(net, ["1", "3"], trains(net), x, y)


def test_batch_norm_and_dropout_are_judged_in_evaluation_mode():
    net, (x, y) = untidy().train(), samples()
    twin = copy.deepcopy(net).eval()
    found, wanted = (judge(n, ["1", "3"], bp, x, y) for n in (net, twin))
    assert found.text == wanted.text and min(found.diagnosis["rho"]) > 0.99
    assert "evaluation mode: BatchNorm takes its running statistics, dropout is off." in found.text
    assert judge(Stream(), LEVELS, bp, x, y).notes == ["Judged in evaluation mode: dropout is off."]


# -- mistakes


def at(level, change):
    """A credit like BP's but at one level."""

    def credit(states, output, y):
        found = list(bp(states, output, y))
        found[level] = change(found[level])
        return found

    return credit


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a[:, :3], r"'adds.1' has shape \(12, 3\), and its state \(12, 8\); it needs"),
        (lambda a: a.sum(0), r"'adds.1' has shape \(8,\)"),
        (lambda a: a.double(), "'adds.1' has dtype torch.float64, and its state torch.float32"),
        (lambda a: a.half(), "'adds.1' has dtype torch.float16.*a.to"),
        (lambda a: a.to("meta"), "'adds.1' has device meta, and its state cpu; make it like"),
        (lambda a: a.requires_grad_(), r"'adds.1' has a gradient attached; return a.detach\(\)"),
        (lambda a: a / 0 * 0, "'adds.1' is not finite for 12 of 12 samples; look for a division"),
        (
            lambda a: a.index_fill(0, torch.tensor(3), math.inf),
            "'adds.1' is not finite for 1 of 12",
        ),
        (lambda a: a * 0, "'adds.1' is zero for every sample; it has no direction"),
        (lambda a: None, "'adds.1' is of type NoneType; .*leave a level that has none out"),
        (lambda a: a.numpy(), "'adds.1' is of type ndarray"),
    ],
)
def test_credit_that_cannot_be_compared_is_named_with_its_level(change, message):
    with pytest.raises(CreditError, match=f"the credit at level {message}"):
        judge(Stream(), LEVELS, at(2, change), *samples())


def test_credit_that_edits_a_state_is_named():
    def edits(states, output, y):
        found = bp(states, output, y)
        states[1].mul_(2)
        return found

    with pytest.raises(CreditError, match="edits the state at level 'adds.0'; make a new tensor"):
        judge(Stream(), LEVELS, edits, *samples())


def test_credit_needs_a_tensor_for_every_level():
    for credit, message in (
        (lambda *a: bp(*a)[:3], "has 3 levels; it needs one tensor for each of the 4 levels, em"),
        (lambda *a: bp(*a)[0], "is of type Tensor.*in a list"),
    ):
        with pytest.raises(CreditError, match=message):
            judge(Stream(), LEVELS, credit, *samples())
    net, levels, x = residual_net()

    def copied(states, output, y):  # δ_L at every level
        return [bp(states, output, y)[-1]] * len(states)

    shapes = r"'layer1' has shape \(2, 512, 2, 2\), and its state \(2, 64, 16, 16\)"
    with pytest.raises(CreditError, match=shapes):
        judge(net, levels, copied, x, torch.tensor([0, 1]))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act = nn.Linear(5, 5), nn.Tanh()
        self.last, self.idle, self.side = nn.Linear(5, 4), nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x):
        h = self.act(self.act(self.first(x)))
        self.side(h)
        return self.last(h)


@pytest.mark.parametrize(
    "levels, message",
    [
        (nn.Linear(2, 2), "levels must be a list of submodules or of their names, not a Linear"),
        ("first", "levels must be a list of submodules or of their names, not 'first'"),
        ([], "levels is empty"),
        (["frist"], "levels names 'frist', which is no submodule; did you mean 'first'"),
        (["zzz"], r"'zzz', which is no submodule; dict\(model.named_modules\(\)\) has them"),
        ([nn.Linear(2, 2)], "holds a Linear that is no part of the model"),
        (["first", "first"], "names 'first' twice"),
        (["first", "act"], "level 'act' runs 2 times in a pass, not once"),
        (["idle"], "level 'idle' runs 0 times"),
        (["last", "first"], "run in the order first, last; name them from the input up"),
        (["side"], "the loss does not depend on level 'side'"),
        (lambda x: [x], "the function in levels calls the model 0 times"),
    ],
)
def test_levels_that_are_none_are_named(levels, message):
    with pytest.raises(LevelError, match=message):
        judge(Twice(), levels, bp, *samples())


def test_states_of_a_function_hang_on_one_pass():
    net, (x, y) = Stream(), samples()
    for function, message in (
        (lambda x: [net(x).detach()], "h_0 of the function in levels is not on the graph"),
        (lambda x: [] * len(net(x)), "returns no state"),
        (lambda x: [net(x) + net(x)], "calls the model 2 times"),
        (lambda x: [net(x).T], r"'h_0' has shape \(4, 12\); its first axis must be the batch, 12"),
    ):
        with pytest.raises(LevelError, match=message):
            judge(net, function, bp, x, y)
    with pytest.raises(LevelError, match="writers names 'idle', which does not run"):
        judge(Twice(), ["first"], bp, x, y, writers=["idle"])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": lambda x: x}, "judge measures a torch.nn.Module"),
        ({"x": [1.0]}, "x must be a tensor, not list; wrap a model of several inputs"),
        ({"y": torch.zeros(3)}, "x has 12 samples and y 3"),
        ({"accuracy": 61.3}, r"accuracy must lie in 0..1, not be 61.3; 61.3 % is 0.613"),
        ({"directions": 1}, "directions must be 3 or more, not 1"),
        ({"frozen_accuracy": -0.1}, "frozen_accuracy must lie in 0..1"),
    ],
)
def test_other_arguments_that_cannot_be_are_named(changes, message):
    x, y = samples()
    given = {"model": Stream(), "levels": LEVELS, "credit": bp, "x": x, "y": y} | changes
    with pytest.raises(ValueError, match=message):
        judge(**given)


def test_a_model_that_no_gradient_goes_through_is_named():
    class Cut(Stream):
        def forward(self, x):
            with torch.no_grad():
                return super().forward(x)

    with pytest.raises(LevelError, match="no gradient reaches the loss.*torch.no_grad"):
        judge(Cut(), LEVELS, bp, *samples())


def test_a_model_that_has_diverged_is_not_judged():
    net, (x, y) = Stream(), samples()
    with torch.no_grad():
        net.head.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="gradient at level 'embed' is not finite"):
        judge(net, LEVELS, bp, x, y)
