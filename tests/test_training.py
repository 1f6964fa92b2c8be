"""The ensemble engine against an ordinary PyTorch script, and against itself: alone, in company, batched by vmap."""

import math
import shutil
import time

import pytest
import torch
import torch.nn.functional as F
from conftest import tiny
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from faeval_core import METHODS, LocalMethod, data
from faeval_core.execution import EAGER, by_onednn, onednn_rounds, prepare, replayed, threads
from faeval_core.training import Ensemble, build, initial

SOLO = [  # what may differ inside one ensemble
    tiny("dfa", seed=1, penalty=1e-2),
    tiny("dfa", seed=2, penalty=1e-3, lr=3e-3),
    tiny("dfa", seed=1, penalty=1e-2, options={"feedback_scale": 3.0}),
    tiny("dfa", seed=3, penalty=1e-1, weight_decay=0.1, labels="random"),
]


# -- an independent script ----------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.ln, self.fc1, self.fc2 = nn.LayerNorm(d), nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, h):
        return self.fc2(F.gelu(self.fc1(self.ln(h))))


class Net(nn.Module):
    def __init__(self, features, d, depth, classes):
        super().__init__()
        self.embed = nn.Linear(features, d)
        self.blocks = nn.ModuleList(Block(d) for _ in range(depth))
        self.readout = nn.ModuleDict({"ln": nn.LayerNorm(d), "head": nn.Linear(d, classes)})

    def head(self, h):
        return self.readout["head"](self.readout["ln"](h))


def script_batches(cfg, pixels, epoch):
    """Batches of one epoch from the images themselves: pad, crop, flip and normalise one image at a time."""
    images = pixels.data
    order, dys, dxs, flips = pixels.draws(cfg.seed, epoch, cfg.augment)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (images.mean, images.std))
    for i in range(0, len(order) - cfg.batch_size + 1, cfg.batch_size):
        xs = []
        for j in range(i, i + cfg.batch_size):
            image = F.pad(images.train_x[order[j]], (4, 4, 4, 4))[:, dys[j] : dys[j] + 8, dxs[j] : dxs[j] + 8]
            image = torch.flip(image, (2,)) if flips[j] else image
            xs.append((image / 255 - mean) / std)
        yield torch.stack(xs), images.train_y[order[i : i + cfg.batch_size]]


def script_credit(cfg, net, feedback, h, logits, y):
    e = torch.softmax(logits, 1) - F.one_hot(y, logits.shape[1])
    if cfg.method in ("dfa", "frozen_dfa"):
        a = [e @ b for b in feedback]
    else:
        top = h.detach().requires_grad_()
        a = [torch.autograd.grad(F.cross_entropy(net.head(top), y, reduction="sum"), top)[0]]
        for b in reversed(list(feedback)):
            a.insert(0, a[0] @ b)
    if cfg.credit_norm == "sample_rms":
        a = [v / (v.pow(2).mean(1, keepdim=True).sqrt() + 1e-6) for v in a]
    return a


def script(cfg, pixels):
    """Weights after training by a plain loop: one torch optimiser and one torch scheduler per block."""
    torch_net = Net(192, cfg.width, cfg.depth, 4)
    params, state = initial(cfg, build(cfg, (3, 8, 8), 4)[0])
    torch_net.load_state_dict(params)
    parts = [torch_net.embed, *torch_net.blocks, torch_net.readout]
    trained = [p for p in parts if not (cfg.method.startswith("frozen") and isinstance(p, Block))]
    trained = [p for p in trained if not (cfg.embedding == "init" and p is torch_net.embed)]
    if cfg.optimizer == "adamw":
        optimisers = [torch.optim.AdamW(p.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay) for p in trained]
    else:
        wd, mu = cfg.weight_decay, cfg.momentum
        optimisers = [torch.optim.SGD(p.parameters(), lr=cfg.lr, weight_decay=wd, momentum=mu) for p in trained]
    schedulers = [torch.optim.lr_scheduler.CosineAnnealingLR(o, cfg.epochs) for o in optimisers if cfg.schedule == "cosine"]
    for epoch in range(cfg.epochs):
        for x, y in script_batches(cfg, pixels, epoch):
            torch_net.zero_grad()
            if cfg.method in ("bp", "frozen"):
                h, penalty = torch_net.embed(x.flatten(1)), 0
                for block in torch_net.blocks:
                    f = block(h)
                    h, penalty = h + f, penalty + cfg.penalty * f.pow(2).sum(1).mean()
                (F.cross_entropy(torch_net.head(h), y) + penalty).backward()
            else:
                h0 = torch_net.embed(x.flatten(1))
                fs, h = [], h0.detach()
                for block in torch_net.blocks:
                    fs.append(block(h))
                    h = (h + fs[-1]).detach()
                logits = torch_net.head(h)
                F.cross_entropy(logits, y).backward()
                a = script_credit(cfg, torch_net, state["feedback"], h, logits.detach(), y)
                if cfg.embedding == "rule":
                    (h0 * a[0].detach()).sum(1).mean().backward()
                for l, f in enumerate(fs):
                    ((f * a[l + 1].detach()).sum(1) + cfg.penalty * f.pow(2).sum(1)).mean().backward()
                if cfg.method == "fa":  # the credit's own graph leaves a gradient on the readout; it is not used
                    assert a[-1].requires_grad is False
            for block in torch_net.blocks if cfg.clip else ():
                torch.nn.utils.clip_grad_norm_(block.parameters(), cfg.clip)
            for o in optimisers:
                o.step()
        for s in schedulers:
            s.step()
    return {k: v.detach() for k, v in torch_net.state_dict().items()}


def trained(configs, pixels, **kwargs):
    """Parameters of each member after all its epochs."""
    ensemble = Ensemble(configs, pixels, **kwargs)
    for _ in range(configs[0].epochs):
        losses = ensemble.run_epoch()
    assert losses.shape == (10, len(configs))
    return [ensemble.member(m)[0] for m in range(len(configs))]


def apart(found, wanted):
    """Largest difference of a weight, relative to the largest weight of its tensor."""
    pairs = [(found[k].double(), v.double()) for k, v in wanted.items()]
    return max(((a - b).abs().max() / b.abs().max().clamp_min(1e-3)).item() for a, b in pairs)


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "bp"}, {"method": "frozen"}, {"method": "frozen_dfa"}, {"method": "dfa"}, {"method": "fa"},
        {"method": "bp", "penalty": 1e-2}, {"method": "dfa", "penalty": 1e-2, "embedding": "init"},
        {"method": "fa", "credit_norm": "sample_rms", "schedule": "constant", "augment": False},
        {"method": "bp", "optimizer": "sgd", "lr": 0.05}, {"method": "dfa", "optimizer": "sgd", "lr": 0.01},
        {"method": "dfa", "optimizer": "sgd", "lr": 0.1, "clip": 0.2},
        {"method": "bp", "optimizer": "sgd", "lr": 0.1, "momentum": 0.0},
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)  # fmt: skip
@pytest.mark.parametrize("driver", ["loop", "vmap"])
def test_twenty_steps_equal_a_plain_torch_script(pixels, changes, driver):
    cfg = tiny(**changes)
    found, start = trained([cfg], pixels, driver=driver)[0], initial(cfg, build(cfg, (3, 8, 8), 4)[0])[0]
    wanted = script(cfg, pixels)
    assert apart(found, wanted) < 1e-5
    moved = [k for k in wanted if not torch.equal(wanted[k], start[k])]
    assert len(moved) >= 4 and min(apart({k: start[k]}, {k: wanted[k]}) for k in moved) > 1e-3


def test_initial_weights_are_torchs_defaults():
    """Linear: U(±1/√fan_in); second block Linear N(0, 0.01²), or N(0, 0.5²) without the residual add, zero bias."""
    for residual, std in ((True, 0.01), (False, 0.5)):
        p = initial(tiny(width=64, residual=residual), build(tiny(width=64, residual=residual), (3, 8, 8), 4)[0])[0]
        assert p["blocks.1.fc2.weight"].std().item() == pytest.approx(std, rel=0.05) and not p["blocks.1.fc2.bias"].any()
        for name, fan in (("embed", 192), ("blocks.0.fc1", 64), ("readout.head", 64)):
            for part in ("weight", "bias"):
                assert p[f"{name}.{part}"].abs().max() <= fan**-0.5
            assert p[f"{name}.weight"].std().item() == pytest.approx((3 * fan) ** -0.5, rel=0.15)
    feedback = initial(tiny("dfa", width=64), build(tiny("dfa", width=64), (3, 8, 8), 4)[0])[1]["feedback"]
    assert feedback.shape == (4, 4, 64) and feedback.std().item() == pytest.approx(4**-0.5, rel=0.1)
    feedback = initial(tiny("fa", width=64), build(tiny("fa", width=64), (3, 8, 8), 4)[0])[1]["feedback"]
    assert feedback.shape == (3, 64, 64) and feedback.std().item() == pytest.approx(64**-0.5, rel=0.05)


# -- company ------------------------------------------------------------------------------------------------------------


def test_a_member_equals_its_solo_run_in_any_order_and_company(pixels):
    alone = [trained([c], pixels)[0] for c in SOLO]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 0]):
        for m, found in zip(order, trained([SOLO[m] for m in order], pixels)):
            assert all(torch.equal(found[k], v) for k, v in alone[m].items())
    assert all(apart(alone[0], other) > 1e-3 for other in alone[1:])  # each of the differing values has an effect


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr("faeval_core.training.compiled", lambda f: f)


@pytest.mark.parametrize("members", [2, 3, 4])
def test_members_side_by_side_train_as_each_does_alone(pixels, uncompiled, members):
    """To the bit, two of them at a time on a thread each, with every loss in its place."""
    with threads(2):
        ensemble = Ensemble(SOLO[:members], pixels, fused=True)
        losses = [ensemble.run_epoch() for _ in range(2)]
    assert ensemble.workers == 2 and torch.get_num_threads() == 1
    for m, cfg in enumerate(SOLO[:members]):
        alone = Ensemble([cfg], pixels, fused=True)
        assert all(torch.equal(alone.run_epoch()[:, 0], epoch[:, m]) for epoch in losses)
        assert all(torch.equal(v, alone.views(0)[k]) for k, v in ensemble.views(m).items())


@pytest.mark.parametrize("cores, members, workers", [(1, 3, 1), (2, 1, 1), (2, 2, 2), (2, 3, 2), (4, 3, 3), (4, 2, 1), (6, 3, 1)])
def test_members_share_cores_that_are_fewer_than_two_for_each(pixels, uncompiled, cores, members, workers):
    with threads(cores):
        ensemble = Ensemble(SOLO, pixels, fused=True)
        ensemble.keep(range(members))
        assert ensemble.workers == workers == Ensemble(SOLO[:members], pixels, fused=True).workers
        assert Ensemble(SOLO[:members], pixels).workers == 1


def test_members_side_by_side_run_at_once_but_for_the_step_that_compiles(pixels, uncompiled):
    """And none runs ahead of the others: three on two threads would else take as long as four."""
    with threads(2):
        ensemble, inside, most, lead = Ensemble(SOLO[:3], pixels, fused=True), [], [], []
        real, begun = ensemble.gradient, {id(leaves): 0 for leaves in ensemble.leaves}

        def gradient(leaves, *args):
            inside.append(leaves)
            begun[id(leaves)] += 1
            lead.append(max(begun.values()) - min(begun.values()))
            time.sleep(0.01)
            most.append(len(inside))
            inside.pop()
            return real(leaves, *args)

        ensemble.gradient = gradient
        ensemble.run_epoch()
    assert len(most) == 30 and most[0] == 1 and max(most) == 2 and max(lead) < 5


def test_a_member_side_by_side_that_fails_stops_the_others(pixels, uncompiled):
    """The error is the member's own, before the others' epoch has ended, and the threads are as they were."""
    with threads(2):
        ensemble, begun = Ensemble(SOLO, pixels, fused=True), []

        real = ensemble.gradient

        def gradient(leaves, *args):
            begun.append(leaves)
            time.sleep(0.01)
            if leaves is ensemble.leaves[2]:
                raise ZeroDivisionError("of the method")
            return real(leaves, *args)

        ensemble.gradient = gradient
        with pytest.raises(ZeroDivisionError, match="of the method"):
            ensemble.run_epoch()
        assert torch.get_num_threads() == 2 and 2 < len(begun) < 20  # of 31, were the others to end their epoch


def test_the_first_steps_of_an_epoch_are_those_of_the_whole(pixels, uncompiled):
    for cores in (1, 2):
        with threads(cores):
            few, all_of_them = (Ensemble(SOLO[:2], pixels, fused=True).run_epoch(steps) for steps in (3, None))
        assert torch.equal(few, all_of_them[:3]) and len(all_of_them) == 10


PLAIN_EP = {"ep": {"options": {"beta": 1.0}}}  # at its default of 1/128 the contrast amplifies rounding by as much


@pytest.mark.parametrize("method", METHODS)
def test_vmap_agrees_with_the_loop(pixels, method):
    base = tiny(method, penalty_h0=1e-3, **PLAIN_EP.get(method, {}))
    configs = [base.with_(seed=s, lr=lr) for s, lr in ((1, 1e-3), (2, 2e-3), (3, 1e-3))]
    for a, b in zip(trained(configs, pixels, driver="loop"), trained(configs, pixels, driver="vmap")):
        assert apart(a, b) < (1e-4 if method in ("ep", "sb", "cb", "vec") else 1e-5)  # which amplify rounding


@pytest.mark.parametrize("method, values", [
    ("dfa", [{"rule": "target", "eta": 0.01, "optimizer": "sgd"}, {"rule": "target", "eta": 1.0, "optimizer": "sgd"}]),
    ("dfa", [{"clip": 0.0}, {"clip": 1e-4}]),
    ("cb", [{"options": {"wr": 0.5, "tgw": 2.0, "noise": 0.3}}, {"options": {"temperature": 1.0, "ema": 0.5, "alpha": 0.5}}]),
    ("vec", [{"options": {"freeze_after": 0, "last": 1}}, {"options": {"alpha": 0.3, "tw": 3.0, "fd_step": 0.1}}]),
    ("ep", [{"options": {"beta": 0.1}}, {"options": {"step": 0.2}}]),
])  # fmt: skip
def test_members_of_mixed_values_equal_their_solo_runs(pixels, method, values):
    configs = [tiny(method, seed=s, **v) for s, v in enumerate(values)]
    together = trained(configs, pixels)
    for c, found in zip(configs, together):
        assert all(torch.equal(found[k], v) for k, v in trained([c], pixels)[0].items())
    default = trained([configs[1].with_(options={}, eta=0.1, clip=0.0)], pixels)[0]
    assert apart(together[1], default) > 1e-5  # the value has an effect


@pytest.mark.skipif(not shutil.which("g++") and not shutil.which("clang++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("cores, driver, changes", [
    (1, "loop", {"method": "dfa"}), (2, "loop", {"method": "dfa"}), (1, "vmap", {"method": "dfa"}),
    (2, "loop", {"method": "cb", "options": {"wr": 0.5}, "optimizer": "sgd", "lr": 0.01}),  # Adam amplifies its rounding
])  # fmt: skip
def test_a_compiled_gradient_agrees_with_the_uncompiled_one(pixels, cores, driver, changes, recwarn):
    """Over 20 steps, for the Credit Bridge across the change from DFA's credit to its own; side by side where there are cores."""
    configs = [tiny(seed=s, **changes) for s in (1, 2, 3)]
    with threads(cores):
        found = trained(configs, pixels, driver=driver, fused=True)
    for a, b in zip(found, trained(configs, pixels)):
        assert apart(a, b) < 1e-4 and not all(torch.equal(a[k], b[k]) for k in b)
    assert not [w for w in recwarn if "uncompiled" in str(w.message)]


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("precision, fused", [("fp32", False), ("fp32", True), ("bf16", False), ("bf16", True)])
def test_onednn_takes_what_it_is_to_round_and_in_long_runs_what_it_is_not(pixels, monkeypatch, rounds, precision, fused):
    monkeypatch.setattr("faeval_core.execution.onednn_rounds", lambda: rounds)
    monkeypatch.setattr("faeval_core.training.compiled", lambda f: f)
    ensemble, seen = Ensemble([tiny("dfa", precision=precision)], pixels, fused=fused), []
    surrogate = METHODS["dfa"].surrogate

    def noted(*args):
        seen.append(torch.backends.mkldnn.fp32_precision)
        return surrogate(*args)

    monkeypatch.setattr(METHODS["dfa"], "surrogate", noted)
    ensemble.run_epoch()
    assert {p == "bf16" for p in seen} == {ensemble.onednn} == {rounds if precision == "bf16" else fused and not rounds}


def test_onednn_is_found_to_round_where_it_does():
    """A product that cannot be exact in 8 bits, against the same one in float64."""
    a, b = (torch.randn(128, 128, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    exact = a.double() @ b.double()
    off = ((by_onednn(torch.mm)(a, b) - exact).norm() / exact.norm()).item()
    assert 1e-4 < off < 1e-2 if onednn_rounds() else off < 1e-6


@pytest.mark.parametrize("method", ["bp", "dfa", "fa", "sb"])
def test_bf16_products_move_the_gradient_by_their_rounding_alone(pixels, method):
    """One part in 256 per factor; weights, their updates and the diagnostics stay float32."""
    grads = []
    for precision in ("fp32", "bf16"):
        ensemble = Ensemble([tiny(method, precision=precision)], pixels)
        x, y = next(ensemble.batches())
        state = {k: v[0] for k, v in ensemble.state.items()}
        grads.append(ensemble.gradient(ensemble.leaves[0], ensemble.fixed[0], state, x[0], y[0])[0])
    full, half = grads
    off = {k: ((half[k] - v).norm() / v.norm()).item() for k, v in full.items() if v.norm() > 1e-6}
    assert 1e-4 < max(off.values()) < 0.1 and all(v.dtype == torch.float32 for v in half.values())


def test_training_goes_on_uncompiled_where_there_is_no_compiler(pixels, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.warns(UserWarning, match="torch.compile failed, so training goes on uncompiled"):
        found = trained([tiny("dfa")], pixels, fused=True)[0]
    assert apart(found, trained([tiny("dfa")], pixels)[0]) < 1e-5


class Eager(Ensemble):
    """Never recorded."""

    def recorded(self, step):
        return step


class Replaying(Ensemble):
    """Recorded as on CUDA, but by tracing, which runs here: of a recorded step, too, only the work on tensors is left."""

    recordings = 0

    def recorded(self, step):
        return replayed(step, self.record)

    def record(self, f, inputs):
        kept = [self.export(m) for m in range(len(self.configs))]
        graph = make_fx(lambda inputs: f(inputs))(inputs)  # which takes the step
        for m, tensors in enumerate(kept):
            self.restore(m, tensors, self.epoch)
        assert not [n for n in graph.graph.nodes if "lift_fresh" in str(n.target)], "a number would come from the host"
        self.recordings += 1
        return graph


@pytest.mark.parametrize("method, recordings, changes", [
    ("bp", 1, {"model": "convnet"}), ("dfa", 1, {"clip": 0.1, "penalty": 1e-2}), ("fa", 1, {"optimizer": "sgd"}),
    ("ep", 1, {}), ("sb", 1, {}),
    ("cb", 2, {"options": {"wr": 0.5}}),  # until then DFA's credit alone is heard
    ("vec", 3, {"options": {"freeze_after": 2, "decay": True}}),  # fitted and heard; heard; neither
])  # fmt: skip
def test_a_recorded_step_hears_all_that_changes_between_steps(pixels, method, recordings, changes):
    """Learning rate, blend, noise, running statistics and optimiser state of a recording are those of each epoch."""
    base = tiny(method, epochs=4, **changes)
    configs = [base, base.with_(seed=5, lr=3e-3)]
    eager, replaying = Ensemble(configs, pixels, driver="vmap"), Replaying(configs, pixels, driver="vmap")
    assert pixels.n // base.batch_size > EAGER
    for _ in range(4):
        assert torch.equal(eager.run_epoch(), replaying.run_epoch())
    assert replaying.recordings == recordings
    for m in range(2):
        assert apart(replaying.export(m), eager.export(m)) < 1e-6
    assert apart(eager.member(0)[0], eager.member(1)[0]) > 1e-3
    replaying.keep([1])  # the others have diverged
    replaying.configs = [c.with_(epochs=5) for c in replaying.configs]
    replaying.run_epoch()
    assert replaying.recordings == recordings + 1


def test_a_rule_that_cannot_be_batched_is_trained_in_turn(pixels, monkeypatch):
    """As a loop over members would have trained it, noise included, although vmap forbids it to look at its numbers."""

    class Looks(LocalMethod):
        name = "looks"

        def noise(self, batch):
            return {"z": (batch, self.model.width)}

        def credit(self, p, s, hs, logits, y):
            top = self.exact_credit(p, hs, y, len(hs) - 1)
            return [top + s["z"] if top.norm() > 0 else top] * len(hs)

    monkeypatch.setitem(METHODS, "looks", Looks)
    configs = [tiny("looks", seed=s) for s in (1, 2)]
    with pytest.warns(UserWarning, match="'looks' cannot be batched, so its members train in turn .vmap: "):
        found = trained(configs, pixels, driver="vmap")
    for mine, other in zip(found, trained(configs, pixels, driver="loop")):
        assert apart(mine, other) == 0


def exact(self, p, hs, y):
    return [self.exact_credit(p, hs, y, l) for l in range(len(hs))]


UNBATCHED = {
    "numpy": lambda self, p, s, hs, logits, y: [a * float(hs[0].detach().numpy().mean() > -9) for a in exact(self, p, hs, y)],
    "tolist": lambda self, p, s, hs, logits, y: [a * len(y.tolist()) for a in exact(self, p, hs, y)],
    "batch_norm": lambda self, p, s, hs, logits, y: [
        F.batch_norm(a, torch.zeros(12), torch.ones(12), training=True) for a in exact(self, p, hs, y)
    ],
    "in_place": lambda self, p, s, hs, logits, y: [torch.zeros(a.shape).add_(a) for a in exact(self, p, hs, y)],
    "branch": lambda self, p, s, hs, logits, y: [a if a.norm() > 0 else 2 * a for a in exact(self, p, hs, y)],
}  # fmt: skip


@pytest.mark.parametrize("kind", UNBATCHED)
def test_every_rule_that_trains_in_turn_trains_on_every_path(pixels, monkeypatch, kind):
    """Batched, or differentiated by torch.func as in long runs, where it can be, and else as it is, with a warning."""
    monkeypatch.setitem(METHODS, "mine", type("Mine", (LocalMethod,), {"name": "mine", "credit": UNBATCHED[kind]}))
    monkeypatch.setattr("faeval_core.training.compiled", lambda f: f)
    configs = [tiny("mine", seed=s, epochs=1) for s in (1, 2)]
    alone = trained(configs, pixels, driver="loop")
    with pytest.warns(UserWarning, match="'mine' cannot be batched, so its members train in turn"):
        found = trained(configs, pixels, driver="vmap")
    fused = trained(configs, pixels, driver="loop", fused=True)
    for m in range(2):
        assert apart(found[m], alone[m]) == 0 and apart(fused[m], alone[m]) < 1e-4


@pytest.mark.parametrize("driver, fused", [("vmap", False), ("loop", True)])
def test_a_fault_that_batches_have_no_part_in_is_told_as_it_is(pixels, monkeypatch, recwarn, driver, fused):
    def fails(self, p, s, hs, logits, y):
        raise ZeroDivisionError("of the rule")

    monkeypatch.setitem(METHODS, "mine", type("Mine", (LocalMethod,), {"name": "mine", "credit": fails}))
    monkeypatch.setattr("faeval_core.training.compiled", lambda f: f)
    with pytest.raises(ZeroDivisionError, match="of the rule"):
        trained([tiny("mine")], pixels, driver=driver, fused=fused)
    assert not recwarn.list


def test_no_product_is_rounded_to_tf32_on_the_word_of_the_environment():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    prepare()
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


def test_training_goes_on_eagerly_where_no_step_can_be_recorded():
    def fails(f, inputs):
        raise RuntimeError("operation not permitted when stream is capturing")

    step = replayed(lambda inputs: inputs["x"] + 1, fails)
    with pytest.warns(UserWarning, match="no CUDA graph of the step, so training goes on eagerly .operation not permitted"):
        assert [step({"x": torch.tensor(float(i))}).item() for i in range(EAGER + 3)] == list(range(1, EAGER + 4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_cuda_graph_agrees_with_eager_steps(blobs, method, recwarn):
    options = {"cb": {"options": {"wr": 0.0}}, **PLAIN_EP}.get(method, {})  # of one phase, or `together` is set anew
    configs, images = [tiny(method, seed=s, **options) for s in (1, 2)], data.Pixels(blobs, "cuda")
    eager, replaying = Eager(configs, images), Ensemble(configs, images)
    for _ in range(2):
        eager.run_epoch()
        replaying.run_epoch()
    assert not [w for w in recwarn if "eagerly" in str(w.message)]
    for m in range(2):
        # were kernels chosen differently, rounding alone would move the noisy ones by 1e-3
        assert apart(replaying.export(m), eager.export(m)) < (1e-2 if method in ("cb", "vec") else 1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("cb", "vec")])  # whose noise comes from the device
def test_cuda_agrees_with_cpu(blobs, pixels, method):
    cfg = tiny(method, **PLAIN_EP.get(method, {}))
    cuda = trained([cfg], data.Pixels(blobs, "cuda"))[0]
    # the fused AdamW takes its bias correction in float32 there, which alone sets weights apart by up to 4e-5
    assert apart({k: v.cpu() for k, v in cuda.items()}, trained([cfg], pixels)[0]) < 2e-4


def test_only_values_may_differ_in_one_ensemble():
    """Equal signatures may train together: values, but not shapes, recipes or which terms are active."""
    base = tiny("dfa", penalty=1e-2)
    for c in [*SOLO, base.with_(momentum=0.5), base.with_(penalty=1.0)]:
        assert c.signature == base.signature
    for change in ({"width": 16}, {"depth": 2}, {"epochs": 3}, {"penalty": 0.0}, {"penalty_h0": 1.0}, {"momentum": 0.0}):
        assert base.with_(**change).signature != base.signature
    assert base.with_(method="fa").signature != base.signature and base.with_(embedding="init").signature != base.signature


def test_cosine_schedule_per_epoch(pixels):
    """η_t = η/2 (1 + cos(π t/T)) for epoch t = 0..T-1: full at first, never zero."""
    ensemble = Ensemble([tiny(epochs=4, lr=0.1)], pixels)
    seen = []
    for _ in range(4):
        ensemble.run_epoch()
        seen.append(ensemble.lr.item())
    assert seen == pytest.approx([0.05 * (1 + math.cos(math.pi * t / 4)) for t in range(4)])
