"""The ensemble engine against an ordinary PyTorch script, and against itself: alone, in company,
batched by vmap.
"""

import math
import shutil
import threading
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from conftest import ROUNDING, SMALL, UNIT32, apart, float64, same, tiny
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx
from victims import HANG

from faeval_core import METHODS, LocalMethod, data
from faeval_core.training import Ensemble, build, initial
from faeval_core.training.execution import (
    EAGER,
    arithmetic,
    by_onednn,
    flushes_denormals,
    onednn_rounds,
    replayed,
    threads,
)

SOLO = [  # what may differ inside one ensemble
    tiny("dfa", seed=1, penalty=1e-2),
    tiny("dfa", seed=2, penalty=1e-3, lr=3e-3),
    tiny("dfa", seed=1, penalty=1e-2, options={"feedback_scale": 3.0}),
    tiny("dfa", seed=3, penalty=1e-1, weight_decay=0.1, labels="random"),
]


# -- an independent script


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
    """Batches of one epoch from the images themselves: pad, crop, flip and normalise one image at a
    time.
    """
    images = pixels.data
    order, dys, dxs, flips = pixels.draws(cfg.seed, epoch, cfg.augment)
    # in torch's default type, as all here
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (images.mean, images.std))
    for i in range(0, len(order) - cfg.batch_size + 1, cfg.batch_size):
        xs = []
        for j in range(i, i + cfg.batch_size):
            image = F.pad(images.train_x[order[j]], (4, 4, 4, 4))[
                :, dys[j] : dys[j] + 8, dxs[j] : dxs[j] + 8
            ]
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


def script(cfg, pixels, start=None):
    """Weights after training by a plain loop: one torch optimiser and one torch scheduler per
    block.

    start: initial (params, state), of the run's own where None.
    """
    torch_net = Net(192, cfg.width, cfg.depth, 4)
    params, state = start or initial(cfg, build(cfg, (3, 8, 8), 4)[0])
    torch_net.load_state_dict(params)
    parts = [torch_net.embed, *torch_net.blocks, torch_net.readout]
    trained = [p for p in parts if not (cfg.method.startswith("frozen") and isinstance(p, Block))]
    trained = [p for p in trained if not (cfg.embedding == "init" and p is torch_net.embed)]
    if cfg.optimizer == "adamw":
        optimisers = [
            torch.optim.AdamW(p.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay)
            for p in trained
        ]
    else:
        wd, mu = cfg.weight_decay, cfg.momentum
        optimisers = [
            torch.optim.SGD(p.parameters(), lr=cfg.lr, weight_decay=wd, momentum=mu)
            for p in trained
        ]
    schedulers = [
        torch.optim.lr_scheduler.CosineAnnealingLR(o, cfg.epochs)
        for o in optimisers
        if cfg.schedule == "cosine"
    ]
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
                    (
                        (f * a[l + 1].detach()).sum(1) + cfg.penalty * f.pow(2).sum(1)
                    ).mean().backward()
                # the credit's own graph leaves a gradient on the readout; it is not used
                if cfg.method == "fa":
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
    assert losses.shape == (10, len(configs)) and losses.dtype == torch.get_default_dtype()
    return [ensemble.member(m)[0] for m in range(len(configs))]


@pytest.mark.numerical
@pytest.mark.parametrize(
    "changes",
    [
        {"method": "bp"},
        {"method": "frozen"},
        {"method": "frozen_dfa"},
        {"method": "dfa"},
        {"method": "fa"},
        {"method": "bp", "penalty": 1e-2},
        {"method": "dfa", "penalty": 1e-2, "embedding": "init"},
        {"method": "fa", "credit_norm": "sample_rms", "schedule": "constant", "augment": False},
        {"method": "bp", "optimizer": "sgd", "lr": 0.05},
        {"method": "dfa", "optimizer": "sgd", "lr": 0.01},
        {"method": "dfa", "optimizer": "sgd", "lr": 0.1, "clip": 0.2},
        {"method": "bp", "optimizer": "sgd", "lr": 0.1, "momentum": 0.0},
    ],
    ids=lambda c: "-".join(map(str, c.values())),
)
@pytest.mark.parametrize("driver", ["loop", "vmap"])
def test_twenty_steps_equal_a_plain_torch_script(pixels64, changes, driver):
    cfg = tiny(**changes)
    found, start = (
        trained([cfg], pixels64, driver=driver)[0],
        initial(cfg, build(cfg, (3, 8, 8), 4)[0])[0],
    )
    wanted = script(cfg, pixels64)
    assert apart(found, wanted) < ROUNDING
    moved = [k for k in wanted if not torch.equal(wanted[k], start[k])]
    assert len(moved) >= 4 and min(apart({k: start[k]}, {k: wanted[k]}) for k in moved) > 1e-3


@pytest.mark.numerical
@pytest.mark.parametrize(
    "changes",
    [{"method": "bp"}, {"method": "fa"}, {"method": "dfa", "optimizer": "sgd", "lr": 0.01}],
)
@pytest.mark.parametrize("driver", ["loop", "vmap"])
def test_float32_is_as_far_from_float64_as_a_plain_torch_script(pixels, changes, driver):
    """From the same initial values; within one digit, as sums are taken in another order."""
    cfg = tiny(**changes)
    ours, plain = trained([cfg], pixels, driver=driver)[0], script(cfg, pixels)
    start = [
        {k: v.double() for k, v in part.items()}
        for part in initial(cfg, build(cfg, (3, 8, 8), 4)[0])
    ]
    with float64():
        twin = script(cfg, pixels, start)
    assert {v.dtype for v in ours.values()} == {torch.float32} and {
        v.dtype for v in twin.values()
    } == {torch.float64}
    assert ROUNDING < apart(ours, twin) < 10 * apart(plain, twin) < 1e4 * UNIT32


def has_std(draws, std):
    """Whether the standard deviation of some draws is `std` within five of its own standard errors
    (fewer, if uniform).
    """
    return abs(draws.std().item() / std - 1) < 5 / (2 * draws.numel()) ** 0.5


def test_initial_weights_are_torchs_defaults():
    """Linear: U(±1/√fan_in); second block Linear N(0, 0.01²), or N(0, 0.5²) without the residual
    add, zero bias.
    """
    for residual, std in ((True, 0.01), (False, 0.5)):
        p = initial(
            tiny(width=64, residual=residual),
            build(tiny(width=64, residual=residual), (3, 8, 8), 4)[0],
        )[0]
        assert has_std(p["blocks.1.fc2.weight"], std) and not p["blocks.1.fc2.bias"].any()
        for name, fan in (("embed", 192), ("blocks.0.fc1", 64), ("readout.head", 64)):
            for part in ("weight", "bias"):
                assert p[f"{name}.{part}"].abs().max() <= fan**-0.5
            assert has_std(p[f"{name}.weight"], (3 * fan) ** -0.5)
    feedback = initial(tiny("dfa", width=64), build(tiny("dfa", width=64), (3, 8, 8), 4)[0])[1][
        "feedback"
    ]
    assert feedback.shape == (4, 4, 64) and has_std(feedback, 4**-0.5)
    feedback = initial(tiny("fa", width=64), build(tiny("fa", width=64), (3, 8, 8), 4)[0])[1][
        "feedback"
    ]
    assert feedback.shape == (3, 64, 64) and has_std(feedback, 64**-0.5)


# -- company


@pytest.mark.numerical
def test_a_member_equals_its_solo_run_in_any_order_and_company(pixels64):
    alone = [trained([c], pixels64)[0] for c in SOLO]
    for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 0]):
        for m, found in zip(order, trained([SOLO[m] for m in order], pixels64)):
            assert apart(found, alone[m]) < ROUNDING
    # each of the differing values has an effect
    assert all(apart(alone[0], other) > 1e-3 for other in alone[1:])


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr("faeval_core.training.gradients.compiled", lambda f: f)


@pytest.mark.numerical
@pytest.mark.parametrize("members", [2, 3, 4])
def test_members_side_by_side_train_as_each_does_alone(pixels64, uncompiled, members):
    """Two of them at a time on a thread each, with every loss in its place."""
    with threads(2):
        ensemble = Ensemble(SOLO[:members], pixels64, fused=True)
        losses = [ensemble.run_epoch() for _ in range(2)]
        assert ensemble.workers == 2 and torch.get_num_threads() == 2
    for m, cfg in enumerate(SOLO[:members]):
        alone = Ensemble([cfg], pixels64, fused=True)
        for epoch in losses:
            same(epoch[:, m], alone.run_epoch()[:, 0])
        assert apart(ensemble.views(m), alone.views(0)) < ROUNDING


@pytest.mark.parametrize(
    "cores, members, workers",
    [(1, 3, 1), (2, 1, 1), (2, 2, 2), (2, 3, 2), (4, 3, 3), (4, 2, 1), (6, 3, 1)],
)
def test_members_share_cores_that_are_fewer_than_two_for_each(
    pixels, uncompiled, cores, members, workers
):
    with threads(cores):
        ensemble = Ensemble(SOLO, pixels, fused=True)
        ensemble.keep(range(members))
        assert ensemble.workers == workers == Ensemble(SOLO[:members], pixels, fused=True).workers
        assert Ensemble(SOLO[:members], pixels).workers == 1


class Watched:
    """The lock under which steps compile, noting whether it was taken when a second thread asked
    for it.
    """

    def __init__(self, lock):
        self.lock, self.asked, self.taken, self.second = lock, 0, None, threading.Event()

    def __enter__(self):
        self.asked += 1
        if self.asked == 2:
            self.taken = getattr(self.lock, "locked", bool)()
            self.second.set()
        self.lock.__enter__()

    def __exit__(self, *error):
        self.lock.__exit__(*error)


def test_members_side_by_side_run_at_once_but_for_the_step_that_compiles(pixels, uncompiled):
    """And none runs ahead of the others: three on two threads would else take as long as four.

    The first of the 30 steps ends once a second thread waits for it. The others go in pairs, none
    of which ends before its second has begun; the last is left over.
    """
    with threads(2):
        ensemble = Ensemble(SOLO[:3], pixels, fused=True)
        real, begun = ensemble.gradient, {id(leaves): 0 for leaves in ensemble.leaves}
        counting, pair, leads, [phase] = (
            threading.Lock(),
            threading.Barrier(2),
            [],
            ensemble.compiling,
        )
        ensemble.compiling[phase] = watched = Watched(ensemble.compiling[phase])

        def gradient(leaves, *args):
            with counting:
                step = sum(begun.values())
                begun[id(leaves)] += 1
                leads.append(max(begun.values()) - min(begun.values()))
            if leads[step] > 2:
                pair.abort()  # else the other thread would wait for one that cannot come
            elif step == 0:
                assert watched.second.wait(HANG)
            elif step < 29:
                pair.wait(HANG)
            return real(leaves, *args)

        ensemble.gradient = gradient
        ensemble.run_epoch()
    assert watched.taken and len(leads) == 30 and max(leads) <= 2


def test_a_member_side_by_side_that_fails_stops_the_others(pixels, uncompiled):
    """The error is the member's own, no other begins another step, and the threads are as they
    were.

    Whatever step another has begun lasts until the failed member's batches are given up.
    """
    with threads(2):
        ensemble, begun, given_up = Ensemble(SOLO, pixels, fused=True), [], threading.Event()
        real, batches, members = (
            ensemble.gradient,
            ensemble.batches,
            {id(p): m for m, p in enumerate(ensemble.leaves)},
        )
        counting = threading.Lock()

        def watched(members):
            try:
                yield from batches(members)
            finally:
                if members.start == 2:
                    given_up.set()

        def gradient(leaves, *args):
            m = members[id(leaves)]
            with counting:
                is_first = not begun  # of either thread: while it compiles, the other may not begin
                begun.append(m)
            if m == 2:
                raise ZeroDivisionError("of the method")
            if not is_first:
                assert given_up.wait(HANG)
            return real(leaves, *args)

        ensemble.gradient, ensemble.batches = gradient, watched
        with pytest.raises(ZeroDivisionError, match="of the method"):
            ensemble.run_epoch()
        assert torch.get_num_threads() == 2 and sorted(begun) == [0, 1, 2]


@pytest.mark.numerical
def test_the_first_steps_of_an_epoch_are_those_of_the_whole(pixels64, uncompiled):
    for cores in (1, 2):
        with threads(cores):
            few, all_of_them = (
                Ensemble(SOLO[:2], pixels64, fused=True).run_epoch(steps) for steps in (3, None)
            )
        same(few, all_of_them[:3])
        assert len(all_of_them) == 10


@pytest.mark.numerical
@pytest.mark.parametrize("method", METHODS)
def test_vmap_agrees_with_the_loop(pixels64, method):
    base = tiny(method, penalty_h0=1e-3, options=SMALL.get(method, {}))
    configs = [base.with_(seed=s, lr=lr) for s, lr in ((1, 1e-3), (2, 2e-3))]
    for a, b in zip(
        trained(configs, pixels64, driver="loop"), trained(configs, pixels64, driver="vmap")
    ):
        assert apart(a, b) < ROUNDING


@pytest.mark.numerical
@pytest.mark.parametrize(
    "method, values",
    [
        (
            "dfa",
            [
                {"rule": "target", "eta": 0.01, "optimizer": "sgd"},
                {"rule": "target", "eta": 1.0, "optimizer": "sgd"},
            ],
        ),
        ("dfa", [{"clip": 0.0}, {"clip": 1e-4}]),
        (
            "cb",
            [
                {"options": {"wr": 0.5, "tgw": 2.0, "noise": 0.3}},
                {"options": {"temperature": 1.0, "ema": 0.5, "alpha": 0.5}},
            ],
        ),
        (
            "vec",
            [
                {"options": {"freeze_after": 0, "last": 1}},
                {"options": {"alpha": 0.3, "tw": 3.0, "fd_step": 0.1}},
            ],
        ),
        ("ep", [{"options": {"beta": 0.1}}, {"options": {"step": 0.2}}]),
    ],
)
def test_members_of_mixed_values_equal_their_solo_runs(pixels64, method, values):
    small = SMALL.get(method, {})
    configs = [
        tiny(method, seed=s, **v | {"options": small | v.get("options", {})})
        for s, v in enumerate(values)
    ]
    together = trained(configs, pixels64)
    for c, found in zip(configs, together):
        assert apart(found, trained([c], pixels64)[0]) < ROUNDING
    default = trained([configs[1].with_(options=small, eta=0.1, clip=0.0)], pixels64)[0]
    assert apart(together[1], default) > 100 * ROUNDING  # the value has an effect


@pytest.mark.compiled
@pytest.mark.skipif(
    not shutil.which("g++") and not shutil.which("clang++"),
    reason="torch.compile needs a C++ compiler",
)
@pytest.mark.parametrize(
    "cores, driver, changes",
    [
        (1, "loop", {"method": "dfa"}),
        (2, "loop", {"method": "dfa"}),
        (1, "vmap", {"method": "dfa"}),
        (2, "loop", {"method": "cb", "options": {"wr": 0.5, "hidden": 16, "layers": 1, "K": 2}}),
    ],
)
def test_a_compiled_gradient_agrees_with_the_uncompiled_one(
    pixels64, cores, driver, changes, recwarn, monkeypatch
):
    """Over 20 steps, for the Credit Bridge across the change from DFA's credit to its own; side by
    side where there are cores.
    """
    configs, compile, made = (
        [tiny(seed=s, depth=1, **changes) for s in (1, 2, 3)],
        torch.compile,
        [],
    )
    monkeypatch.setattr(
        torch, "compile", lambda *args, **kwargs: made.append(args) or compile(*args, **kwargs)
    )
    with threads(cores):
        found = trained(configs, pixels64, driver=driver, fused=True)
    for a, b in zip(found, trained(configs, pixels64)):
        assert apart(a, b) < ROUNDING
    assert made and not [w for w in recwarn if "uncompiled" in str(w.message)]


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize(
    "precision, fused", [("fp32", False), ("fp32", True), ("bf16", False), ("bf16", True)]
)
def test_onednn_takes_what_it_is_to_round_and_in_long_runs_what_it_is_not(
    pixels, monkeypatch, rounds, precision, fused
):
    monkeypatch.setattr("faeval_core.training.execution.onednn_rounds", lambda: rounds)
    monkeypatch.setattr("faeval_core.training.gradients.compiled", lambda f: f)
    ensemble, seen = Ensemble([tiny("dfa", precision=precision)], pixels, fused=fused), []
    surrogate = METHODS["dfa"].surrogate

    def noted(*args):
        seen.append(torch.backends.mkldnn.fp32_precision)
        return surrogate(*args)

    monkeypatch.setattr(METHODS["dfa"], "surrogate", noted)
    ensemble.run_epoch()
    assert (
        {p == "bf16" for p in seen}
        == {ensemble.onednn}
        == {rounds if precision == "bf16" else fused and not rounds}
    )


@pytest.mark.numerical
@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_onednn_is_found_to_round_where_it_does(default):
    """Its product is by far the nearest to that in float64 of the operands rounded to 8 bits, or
    else of them as they are.
    """
    onednn_rounds.cache_clear()
    a, b = (torch.randn(128, 128, generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    with float64() if default == torch.float64 else nullcontext():
        onednn_rounds()  # finds the same, and keeps it
    found, exact, rounded = (
        by_onednn(torch.mm)(a, b),
        a.double() @ b.double(),
        a.bfloat16().double() @ b.bfloat16().double(),
    )
    to_exact, to_rounded = (found - exact).norm(), (found - rounded).norm()
    assert to_rounded < 0.01 * to_exact if onednn_rounds() else to_exact < 0.01 * to_rounded


@pytest.mark.numerical
@pytest.mark.parametrize("method", ["bp", "dfa", "fa", "sb"])
def test_bf16_products_move_the_gradient_by_their_rounding_alone(pixels, method):
    """Float32 has 16 bits more, so that it is so much nearer to float64; autocast leaves bfloat16
    between products, too.

    Weights, their updates and the diagnostics stay float32.
    """
    grads = []
    for precision in ("fp32", "bf16"):
        ensemble = Ensemble([tiny(method, precision=precision)], pixels)
        x, y = next(ensemble.batches())
        state = {k: v[0] for k, v in ensemble.state.items()}
        grads.append(ensemble.gradient(ensemble.leaves[0], ensemble.fixed[0], state, x[0], y[0])[0])
    values = (
        {k: v.double() for k, v in part.items()}
        for part in (ensemble.leaves[0], ensemble.fixed[0], state)
    )
    with float64():
        exact, _ = Ensemble([tiny(method)], pixels).gradient(*values, x[0].double(), y[0])
    full, half = (
        max(((found[k] - v).norm() / v.norm()).item() for k, v in exact.items()) for found in grads
    )
    assert 2**8 * full < half < 2**18 * full and all(
        v.dtype == torch.float32 for v in grads[1].values()
    )


def test_training_goes_on_uncompiled_where_there_is_no_compiler(pixels64, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.warns(UserWarning, match="torch.compile failed, so training goes on uncompiled"):
        found = trained([tiny("dfa", depth=1)], pixels64, fused=True)[0]
    assert apart(found, trained([tiny("dfa", depth=1)], pixels64)[0]) < ROUNDING


class Eager(Ensemble):
    """Never recorded."""

    def recorded(self, step):
        return step


class Replaying(Ensemble):
    """Recorded as on CUDA, but by tracing, which runs here: of a recorded step, too, only the work
    on tensors is left.
    """

    recordings = 0

    def recorded(self, step):
        return replayed(step, self.record)

    def record(self, f, inputs):
        kept = [self.export(m) for m in range(len(self.configs))]
        graph = make_fx(lambda inputs: f(inputs))(inputs)  # which takes the step
        for m, tensors in enumerate(kept):
            self.restore(m, tensors, self.epoch)
        assert not [n for n in graph.graph.nodes if "lift_fresh" in str(n.target)], (
            "a number would come from the host"
        )
        self.recordings += 1
        return graph


@pytest.mark.parametrize(
    "method, recordings, changes",
    [
        ("bp", 1, {"model": "convnet", "depth": 3, "model_options": {"channels": 2}}),
        ("dfa", 1, {"clip": 0.1, "penalty": 1e-2}),
        ("fa", 1, {"optimizer": "sgd"}),
        ("ep", 1, {"options": SMALL["ep"]}),
        ("sb", 1, {"options": SMALL["sb"]}),
        ("cb", 2, {"options": SMALL["cb"] | {"wr": 0.5}}),  # until then DFA's credit alone is heard
        # fitted, heard, neither
        ("vec", 3, {"epochs": 3, "options": SMALL["vec"] | {"freeze_after": 1, "decay": True}}),
    ],
)
def test_a_recorded_step_hears_all_that_changes_between_steps(
    pixels64, method, recordings, changes
):
    """Learning rate, blend, noise, running statistics and optimiser state of a recording are those
    of each epoch.
    """
    base = tiny(method, **{"depth": 2, "batch_size": 256} | changes)
    configs = [base, base.with_(seed=5, lr=3e-3)]
    eager, replaying = (
        Ensemble(configs, pixels64, driver="vmap"),
        Replaying(configs, pixels64, driver="vmap"),
    )
    assert pixels64.n // base.batch_size > EAGER
    for _ in range(base.epochs):
        same(replaying.run_epoch(), eager.run_epoch())
    assert replaying.recordings == recordings
    for m in range(2):
        assert apart(replaying.export(m), eager.export(m)) < ROUNDING
    assert apart(eager.member(0)[0], eager.member(1)[0]) > 1e-3
    replaying.keep([1])  # the others have diverged
    replaying.configs = [c.with_(epochs=c.epochs + 1) for c in replaying.configs]
    replaying.run_epoch()
    assert replaying.recordings == recordings + 1


def test_a_rule_that_cannot_be_batched_is_trained_in_turn(pixels64, monkeypatch):
    """As a loop over members would have trained it, noise included, although vmap forbids it to
    look at its numbers.
    """

    class Looks(LocalMethod):
        name = "looks"

        def noise(self, batch):
            return {"z": (batch, self.model.width)}

        def credit(self, p, s, hs, logits, y):
            top = self.exact_credit(p, hs, y, len(hs) - 1)
            return [top + s["z"] if top.norm() > 0 else top] * len(hs)

    monkeypatch.setitem(METHODS, "looks", Looks)
    configs = [tiny("looks", seed=s) for s in (1, 2)]
    with pytest.warns(
        UserWarning, match="'looks' cannot be batched, so its members train in turn .vmap: "
    ):
        found = trained(configs, pixels64, driver="vmap")
    for mine, other in zip(found, trained(configs, pixels64, driver="loop")):
        assert apart(mine, other) < ROUNDING


def exact(self, p, hs, y):
    return [self.exact_credit(p, hs, y, l) for l in range(len(hs))]


UNBATCHED = {
    "numpy": lambda self, p, s, hs, logits, y: [
        a * float(hs[0].detach().numpy().mean() > -9) for a in exact(self, p, hs, y)
    ],
    "tolist": lambda self, p, s, hs, logits, y: [
        a * len(y.tolist()) for a in exact(self, p, hs, y)
    ],
    "batch_norm": lambda self, p, s, hs, logits, y: [
        # with a, as a bias that hears a mean of zero would move by rounding alone
        a + F.batch_norm(a, torch.zeros(12), torch.ones(12), training=True)
        for a in exact(self, p, hs, y)
    ],
    "in_place": lambda self, p, s, hs, logits, y: [
        torch.zeros(a.shape).add_(a) for a in exact(self, p, hs, y)
    ],
    "branch": lambda self, p, s, hs, logits, y: [
        a if a.norm() > 0 else 2 * a for a in exact(self, p, hs, y)
    ],
}


@pytest.mark.parametrize("kind", UNBATCHED)
def test_every_rule_that_trains_in_turn_trains_on_every_path(pixels64, monkeypatch, kind):
    """Batched, or differentiated by torch.func as in long runs, where it can be, and else as it is,
    with a warning.
    """
    monkeypatch.setitem(
        METHODS, "mine", type("Mine", (LocalMethod,), {"name": "mine", "credit": UNBATCHED[kind]})
    )
    monkeypatch.setattr("faeval_core.training.gradients.compiled", lambda f: f)
    configs = [tiny("mine", seed=s, epochs=1) for s in (1, 2)]
    alone = trained(configs, pixels64, driver="loop")
    with pytest.warns(UserWarning, match="'mine' cannot be batched, so its members train in turn"):
        found = trained(configs, pixels64, driver="vmap")
    fused = trained(configs, pixels64, driver="loop", fused=True)
    for m in range(2):
        assert apart(found[m], alone[m]) < ROUNDING and apart(fused[m], alone[m]) < ROUNDING


@pytest.mark.parametrize("driver, fused", [("vmap", False), ("loop", True)])
def test_a_fault_that_batches_have_no_part_in_is_told_as_it_is(
    pixels, monkeypatch, recwarn, driver, fused
):
    def fails(self, p, s, hs, logits, y):
        raise ZeroDivisionError("of the rule")

    monkeypatch.setitem(
        METHODS, "mine", type("Mine", (LocalMethod,), {"name": "mine", "credit": fails})
    )
    monkeypatch.setattr("faeval_core.training.gradients.compiled", lambda f: f)
    with pytest.raises(ZeroDivisionError, match="of the rule"):
        trained([tiny("mine")], pixels, driver=driver, fused=fused)
    assert not recwarn.list


def test_no_product_is_rounded_to_tf32_on_the_word_of_the_environment():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = True
    try:
        with arithmetic():
            assert not matmul.allow_tf32 and not cudnn.allow_tf32
        assert matmul.allow_tf32 and cudnn.allow_tf32
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@pytest.mark.parametrize("flushes", [False, True])
def test_training_leaves_the_process_as_it_was(pixels, flushes):
    """A library of somebody else's process: all that a run sets is set again after it."""
    settings = torch.backends.cuda.matmul, torch.backends.cudnn

    def now():
        return [(s.allow_tf32, getattr(s, "deterministic", None)) for s in settings]

    torch.set_flush_denormal(flushes)
    try:
        before = now()
        ensemble = Ensemble([tiny()], pixels)
        ensemble.run_epoch(2)
        ensemble.diagnose(0)
        assert now() == before and flushes_denormals() == flushes
        with arithmetic():
            assert flushes_denormals()
    finally:
        torch.set_flush_denormal(False)


def test_training_goes_on_eagerly_where_no_step_can_be_recorded():
    def fails(f, inputs):
        raise RuntimeError("operation not permitted when stream is capturing")

    step = replayed(lambda inputs: inputs["x"] + 1, fails)
    with pytest.warns(
        UserWarning,
        match="no CUDA graph of the step, so training goes on eagerly .operation not permitted",
    ):
        assert [step({"x": torch.tensor(float(i))}).item() for i in range(EAGER + 3)] == list(
            range(1, EAGER + 4)
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_cuda_graph_agrees_with_eager_steps(pixels64, method, recwarn):
    # of one phase, or `together` is set anew
    options = {"cb": {"options": {"wr": 0.0}}}.get(method, {})
    configs, images = (
        [tiny(method, seed=s, **options) for s in (1, 2)],
        data.Pixels(pixels64.data, "cuda"),
    )
    eager, replaying = Eager(configs, images), Ensemble(configs, images)
    for _ in range(2):
        eager.run_epoch()
        replaying.run_epoch()
    assert not [w for w in recwarn if "eagerly" in str(w.message)]
    for m in range(2):
        assert apart(replaying.export(m), eager.export(m)) < ROUNDING


# with a rate that float32 holds, as that is how the fused optimisers read it there
CUDA_RECIPES = [
    ({"optimizer": "sgd"}, ROUNDING),
    # which may take 1 - 0.999^step, 0.001 at first, in float32
    ({"optimizer": "adamw"}, UNIT32 / (1 - 0.999)),
]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
# whose noise comes from the device
@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("cb", "vec")])
@pytest.mark.parametrize("changes, bound", CUDA_RECIPES, ids=["sgd", "adamw"])
def test_cuda_agrees_with_cpu(pixels64, method, changes, bound):
    cfg = tiny(method, lr=2**-10, schedule="constant", **changes)
    cuda = trained([cfg], data.Pixels(pixels64.data, "cuda"))[0]
    assert apart({k: v.cpu() for k, v in cuda.items()}, trained([cfg], pixels64)[0]) < bound


def test_only_values_may_differ_in_one_ensemble():
    """Equal signatures may train together: values, but not shapes, recipes or which terms are
    active.
    """
    base = tiny("dfa", penalty=1e-2)
    for c in [*SOLO, base.with_(momentum=0.5), base.with_(penalty=1.0)]:
        assert c.signature == base.signature
    for change in (
        {"width": 16},
        {"depth": 2},
        {"epochs": 3},
        {"penalty": 0.0},
        {"penalty_h0": 1.0},
        {"momentum": 0.0},
    ):
        assert base.with_(**change).signature != base.signature
    assert (
        base.with_(method="fa").signature != base.signature
        and base.with_(embedding="init").signature != base.signature
    )


def test_cosine_schedule_per_epoch(pixels):
    """η_t = η/2 (1 + cos(π t/T)) for epoch t = 0..T-1: full at first, never zero."""
    ensemble = Ensemble([tiny(epochs=4, lr=0.1)], pixels)
    seen = []
    for _ in range(4):
        ensemble.run_epoch()
        seen.append(ensemble.optimizer.lr.item())
    assert seen == pytest.approx(
        [0.05 * (1 + math.cos(math.pi * t / 4)) for t in range(4)], rel=ROUNDING
    )
