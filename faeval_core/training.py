"""The one training loop: an ensemble of runs of one signature, one surrogate scalar per member, one
optimiser.
"""

import math
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from queue import Empty, PriorityQueue
from typing import NamedTuple

import torch
from torch.func import grad, vmap

from . import diagnostics
from .config import RunConfig, check_known, stream
from .data import Pixels
from .execution import (
    by_onednn,
    compiled,
    first_line,
    first_that_works,
    prepare,
    replayed,
    takes_onednn,
    threads,
)
from .exploit import exploit
from .methods import METHODS
from .methods.base import EVERYTHING, IN_STATE, RATES, Phase, RuleError, unit
from .models import MODELS

EVAL_CHUNK, EPS_ADAM = 2000, 1e-8
# what an optimiser keeps, in torch.optim's names
MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


def build(cfg: RunConfig, image_shape, classes: int):
    """(method, model) of a config for images of a shape and a number of classes; they serve all
    members of its ensemble.
    """
    kind = METHODS[cfg.method]
    shared = kind.shared(cfg)
    method = kind(shared, MODELS[cfg.model](shared, image_shape, classes)).freeze()
    return method, method.model


def initial(cfg: RunConfig, method, upstream=None):
    """Initial (params, state) of one member. `upstream`: weights of the run it starts from, in
    place of the init.
    """
    params = method.model.init(stream(cfg.seed, "init")) | method.init_params(
        cfg, stream(cfg.seed, f"aux.{cfg.method}")
    )
    if upstream is not None:  # an auxiliary net that it lacks starts afresh
        wrong = [k for k, v in params.items() if k not in upstream or upstream[k].shape != v.shape]
        if any(not k.startswith("aux.") for k in wrong):
            raise ValueError(
                f"upstream run {cfg.upstream.id} has no matching weights for {wrong[:3]}"
            )
        afresh = wrong or cfg.upstream.method != cfg.method
        params = {
            k: v if afresh and k.startswith("aux.") else upstream[k].clone()
            for k, v in params.items()
        }
    state = method.init_state(cfg, stream(cfg.seed, f"state.{method.stream or cfg.method}"))
    if taken := sorted(state.keys() & {*IN_STATE, *method.member_options}):
        raise RuleError(
            f"init_state of method {cfg.method!r} names {taken}, which the state holds "
            "already; choose other names"
        )
    state |= method.init_copies(params) | method.at_epoch(cfg, 0)
    state |= {k: torch.tensor(getattr(cfg, k)) for k in IN_STATE}
    state |= {k: torch.tensor(cfg.options[k]) for k in method.member_options}
    return params, state


def noise(method, cfg, batch: int, generator) -> dict[str, torch.Tensor]:
    """The standard normal tensors of one step of one member, on the generator's device."""
    shapes = method.noise(batch)
    if method.model.process_noise:
        shapes = {**shapes, "process": (method.model.depth, batch, method.model.width)}
    return {
        k: torch.randn(shape, generator=generator, device=generator.device)
        for k, shape in shapes.items()
    }


class Group(NamedTuple):
    """Members whose methods are in one phase: `at` finds them in stacked tensors, `together` is
    their batched step.
    """

    phase: Phase
    members: list[int]
    at: slice | torch.Tensor
    together: Callable


class Rated(NamedTuple):
    """Of one member, leaves that learn at one rate, with what the optimiser keeps of each.

    lr: factor of the member's learning rate; weight_decay: as it is.
    """

    names: list[str]
    leaves: list[torch.Tensor]
    moments: list[list[torch.Tensor]]
    steps: list[torch.Tensor]
    lr: float
    weight_decay: float


class Draws:
    """The noise of a step of one member, over and over: at each passage the same draws, none of
    which is kept.
    """

    def __init__(self, method, cfg, batch: int, begin: Callable[[], torch.Generator]):
        self.method, self.cfg, self.batch, self.begin = method, cfg, batch, begin

    def __len__(self):
        return self.method.draws

    def __iter__(self):
        generator = self.begin()
        for _ in range(len(self)):
            yield noise(self.method, self.cfg, self.batch, generator)


class Ensemble:
    """Members of one signature in training. Stacked tensors have a leading member axis; leaves are
    views of them. They are of torch's default type, as `pixels` must be: float32, or float64 for a
    twin that rounding does not blur.

    driver: 'loop' takes the members one after another (fastest measured on CPU, and bit-equal to a
    solo run), 'vmap' batches them (for GPUs, where the step becomes a CUDA graph); None chooses by
    device. fused: torch.compile the gradient, which takes half a minute once and a quarter to two
    thirds off every step after it, take its products from the library that is faster for large
    ones, and train the members of a loop side by side, on a thread each, unless there are two
    threads or more for each.
    """

    def __init__(self, configs, pixels: Pixels, upstreams=None, driver=None, fused=False):
        self.configs, self.pixels, self.device = list(configs), pixels, pixels.device
        self.driver, self.fused = (
            driver or ("vmap" if self.device.type == "cuda" else "loop"),
            fused,
        )
        data = pixels.data
        self.method, self.model = build(self.configs[0], data.image_shape, len(data.classes))
        self.onednn = takes_onednn(self.configs[0].precision, self.device, fused)
        self.gradients, self.methods = {}, {}  # by phase
        if fused:
            # else ensembles that came before would count against the limit of recompilations
            torch.compiler.reset()
        upstreams = upstreams or [None] * len(self.configs)
        members = [initial(c, self.method, u) for c, u in zip(self.configs, upstreams)]
        self.params, self.state = (self._stack([m[i] for m in members]) for i in (0, 1))
        self.labels = torch.stack([self._labels(c) for c in self.configs]).to(self.device)
        self.trained = [k for k in self.params if self.method.trains(k)]
        kept = MOMENTS[self.configs[0].optimizer]
        self.moments = {
            name: {k: torch.zeros_like(self.params[k]) for k in self.trained} for name in kept
        }
        steps = torch.zeros(
            len(members), len(self.trained), dtype=torch.float32, device=self.device
        )
        # updates that each leaf has had, in the type that the fused optimisers count them in
        self.steps = steps
        # what the fused optimisers read there
        exact = torch.float32 if self.device.type == "cuda" else torch.float64
        self.lr = torch.zeros(len(members), dtype=exact, device=self.device)
        self.epoch = 0
        self._bind()
        self._begin_epoch()
        prepare()

    def _stack(self, dicts):
        return {k: torch.stack([d[k] for d in dicts]).to(self.device) for k in dicts[0]}

    def _labels(self, cfg):
        y = self.pixels.data.train_y
        if cfg.labels == "true":
            return y
        return torch.randint(
            0, len(self.pixels.data.classes), (len(y),), generator=stream(cfg.seed, "labels")
        )

    def _bind(self):
        """Leaves of each member, and what of it is not trained, from the stacked tensors."""
        members = range(len(self.configs))
        self.leaves = [{k: self.params[k][m] for k in self.trained} for m in members]
        self.fixed = [
            {k: v[m] for k, v in self.params.items() if k not in self.trained} for m in members
        ]
        self.steps_of = None
        side_by_side = self.fused and self.driver == "loop" and self.device.type == "cpu"
        cores = torch.get_num_threads() if side_by_side else 1
        # no more teams of threads than one
        self.workers = min(len(members), cores) if cores < 2 * len(members) else 1

    def member(self, m):
        """(params, state) of member m as views, detached."""
        return {k: v[m] for k, v in self.params.items()}, {k: v[m] for k, v in self.state.items()}

    # -- one step

    def gradient(self, trained, fixed, state, x, y, phase=EVERYTHING):
        """(gradients of trained, (loss, changed tensors)), of one member or, by vmap, of all
        members that are in a phase.
        """
        if phase not in self.gradients:
            self.gradients[phase] = self._gradient(self.during(phase))
        return self.gradients[phase](trained, fixed, state, x, y)

    def _gradient(self, method):
        cast = self.configs[0].precision == "bf16" and not self.onednn

        def scalar(trained, fixed, state, x, y):
            with torch.autocast(x.device.type, torch.bfloat16, enabled=cast, cache_enabled=False):
                return method.surrogate({**fixed, **trained}, state, x, y)

        # on the CPU a tenth faster than grad, unless compiled
        def by_autograd(trained, fixed, state, x, y):
            leaves = {k: v.detach().requires_grad_() for k, v in trained.items()}
            value, found = scalar(leaves, fixed, state, x, y)
            grads = (
                torch.autograd.grad(value, list(leaves.values()), materialize_grads=True)
                if value.requires_grad
                else ()
            )
            return dict(zip(leaves, grads)), found

        found = by_autograd
        if self.driver == "vmap" or self.fused:
            found = grad(scalar, has_aux=True)
            found = vmap(found) if self.driver == "vmap" else found
            found = torch.no_grad()(compiled(found) if self.fused else found)
        if self.driver == "loop" and self.fused:
            told = (
                f"method {method.name!r} cannot be differentiated by torch.func, so "
                "training goes on uncompiled"
            )
            found = first_that_works(found, by_autograd, told)
        return by_onednn(found) if self.onednn else found

    def step(self, x, y):
        """One update of every member from x (member, batch, C, H, W) and y (member, batch); the CE
        losses (member,).
        """
        drawn = [self.noise(m, x.shape[1]) for m in range(len(self.configs))]
        if len(self.groups) == 1:
            return self.step_of(self.groups[0], x, y, drawn)
        losses = {}
        for group in self.groups:
            losses |= zip(group.members, self.step_of(group, x, y, drawn))
        return torch.stack([losses[m] for m in range(len(self.configs))])

    def step_of(self, group, x, y, drawn):
        """One update of the members of a group, from batches and noise of all members; their
        losses.
        """
        if self.driver == "vmap":
            try:
                noise = self._stack([drawn[m] for m in group.members])
                return group.together({"x": x[group.at], "y": y[group.at]} | noise)
            except torch.OutOfMemoryError:
                raise
            except Exception as e:
                # raised while the gradient is taken, before anything has changed
                reason = e
            self.driver, self.gradients = "loop", {}
            # which fails where batches are not the reason
            losses = self.in_turn(group, x, y, drawn)
            told = (
                f"method {self.configs[0].method!r} cannot be batched, so its members train in turn"
            )
            warnings.warn(f"{told} ({first_line(reason)})", stacklevel=3)
            return losses
        return self.in_turn(group, x, y, drawn)

    def in_turn(self, group, x, y, drawn):
        """The same, one member after another."""
        return torch.stack([self.advance(m, x[m], y[m], drawn[m]) for m in group.members])

    def noise(self, m, batch):
        """Noise of member m for its next step."""
        return noise(self.during(self.phase[m]), self.configs[m], batch, self.generators[m])

    def during(self, phase):
        """The method in a phase."""
        if phase not in self.methods:
            self.methods[phase] = self.method.during(phase)
        return self.methods[phase]

    def advance(self, m, x, y, noise):
        """One update of member m alone, from x (batch, C, H, W), y (batch,) and the step's noise;
        its CE loss.
        """
        phase = self.phase[m]
        with self.compiling[phase]:
            state = {k: v[m] for k, v in self.state.items()} | noise
            grads, (loss, changed) = self.gradient(
                self.leaves[m], self.fixed[m], state, x, y, phase
            )
            self.compiling[phase] = nullcontext()
        self.descend(m, grads)  # at once, while this member's tensors are in cache
        self.take(changed, m)
        return loss

    def update(self, inputs, phase, members, at):
        """One step of a group, batched. Changes tensors in place alone, as a CUDA graph of it can
        do no other.
        """
        params, state = ({k: v[at] for k, v in part.items()} for part in (self.params, self.state))
        trained = {k: params.pop(k) for k in self.trained}
        grads, (losses, changed) = self.gradient(
            trained, params, state | inputs, inputs["x"], inputs["y"], phase
        )
        for i, m in enumerate(members):
            self.descend(m, {k: g[i] for k, g in grads.items()})
        self.take(changed, at)
        return losses

    def take(self, changed, at):
        """Changed tensors of one member or a group into the state, or into the parameters (running
        statistics).
        """
        for k, v in changed.items():
            if k in self.state:
                self.state[k][at] = v
            elif self.configs[0].train_net:
                self.params[k][at] = v

    @torch.no_grad()
    def descend(self, m, grads):
        """One update of the leaves of member m that learn in this epoch, clipped block by block
        where its config says so.

        By the kernels of torch.optim's fused optimisers, without the bookkeeping around them, a
        quarter of the time.
        """
        cfg, (names, groups, moving, lr) = self.configs[m], self.learning[m]
        if not names:
            return
        if cfg.clip > 0:
            for l in range(self.model.depth):
                block = [k for k in names if k.startswith(f"blocks.{l}.")]
                norm = torch.nn.utils.get_total_norm([grads[k] for k in block])
                grads |= {k: grads[k] * (cfg.clip / (norm + 1e-6)).clamp(max=1) for k in block}
        self.steps[m] += moving
        for group in groups:
            rate = lr if group.lr == 1 else lr * group.lr
            self._optimise(cfg, group, [grads[k] for k in group.names], rate)

    def _optimise(self, cfg, group, grads, rate):
        plain = {"lr": rate, "weight_decay": group.weight_decay, "maximize": False}
        if cfg.optimizer == "adamw":
            torch._fused_adamw_(
                group.leaves,
                grads,
                *group.moments,
                [],
                group.steps,
                beta1=0.9,
                beta2=0.999,
                eps=EPS_ADAM,
                amsgrad=False,
                **plain,
            )
        else:
            rest = {
                "momentum": cfg.momentum,
                "dampening": 0.0,
                "nesterov": False,
                "is_first_step": False,
            }
            moments = group.moments if cfg.momentum > 0 else [[]]
            torch._fused_sgd_(group.leaves, grads, *moments, **rest, **plain)

    # -- one epoch

    def batches(self, members=slice(None)):
        """(x, y) of each step of this epoch: (member, batch, C, H, W) and (member, batch). A last
        incomplete batch is dropped.
        """
        cfg, pixels, labels = self.configs[0], self.pixels, self.labels[members]
        draws = [pixels.draws(c.seed, self.epoch, c.augment) for c in self.configs[members]]
        index, dy, dx, flip = (torch.stack(part).to(self.device) for part in zip(*draws))
        size = min(cfg.batch_size, pixels.n)
        for start in range(0, pixels.n - size + 1, size):
            part = (slice(None), slice(start, start + size))
            take = [t[part].reshape(-1) for t in (index, dy, dx, flip)]
            x = pixels.batch(*take[:3], take[3] if cfg.augment else None)
            yield x.view(len(draws), size, *x.shape[1:]), labels.gather(1, index[part])

    def side_by_side(self, act, steps=None):
        """act(m, x, y) for each step of an epoch (or the first `steps`) of each member; what it
        returned, (steps, member).

        There are `workers` threads for it. One that is free takes the next step of the member that
        is furthest behind, so that all end together, however many members there are.
        """
        found, waiting = [[] for _ in self.configs], PriorityQueue()
        batches = [islice(self.batches(slice(m, m + 1)), steps) for m in range(len(found))]
        for m in range(len(found)):
            waiting.put((0, m))

        def work():
            torch.set_num_threads(1)
            torch.set_flush_denormal(True)
            with suppress(Empty):
                while True:
                    done, m = waiting.get_nowait()
                    for x, y in islice(batches[m], 1):
                        found[m].append(act(m, x[0], y[0]))
                        waiting.put((done + 1, m))

        with threads(1), ThreadPoolExecutor(self.workers) as pool:
            try:
                for worker in as_completed([pool.submit(work) for _ in range(self.workers)]):
                    worker.result()
            finally:
                # where one has failed, else the others would go on to the epoch's end
                batches[:] = [iter(())] * len(found)
        return torch.stack([torch.stack(steps) for steps in found], 1)

    def run_epoch(self, steps=None):
        """Train one epoch, or its first `steps` steps; the losses of every step, (steps,
        member).
        """
        self._begin_epoch()
        before = torch.get_rng_state()
        if self.workers > 1:
            train = by_onednn(self.side_by_side) if self.onednn else self.side_by_side
            losses = train(lambda m, x, y: self.advance(m, x, y, self.noise(m, len(y))), steps)
        else:
            losses = torch.stack([self.step(x, y) for x, y in islice(self.batches(), steps)])
        if not torch.equal(before, torch.get_rng_state()):
            told = (
                f"method {self.configs[0].method!r} draws from torch's global generator, so "
                "that runs depend on one another"
            )
            warnings.warn(f"{told}; name what it draws in `noise`", stacklevel=2)
        self.epoch += 1
        return losses

    # -- measurements

    @torch.no_grad()
    def accuracy(self, m):
        (p, s), (x, y) = self.member(m), self.pixels.test

        def predicted(x):
            return self.method.predict(p, s, x)

        predicted = (
            by_onednn(predicted) if takes_onednn("fp32", self.device, self.fused) else predicted
        )
        found = [predicted(part) for part in x.split(EVAL_CHUNK)]
        return (torch.cat(found) == y).sum().item() / len(y)

    def _begin_epoch(self):
        """State, learning rate and random streams that depend on the epoch."""
        cfg = self.configs[0]
        rate = (
            0.5 * (1 + math.cos(math.pi * self.epoch / cfg.epochs))
            if cfg.schedule == "cosine"
            else 1.0
        )
        for m, c in enumerate(self.configs):
            self.lr[m] = c.lr * rate
            for k, v in self.method.at_epoch(c, self.epoch).items():
                self.state[k][m].copy_(v)
        self.generators = [self._generator(c, "noise") for c in self.configs]
        names = [
            [k for k in self.trained if self.method.learns(c, self.epoch, k)] for c in self.configs
        ]
        self.phase = [self.method.phase_of(c, self.epoch) for c in self.configs]
        if self.steps_of != (steps_of := (names, self.phase)):  # else the steps are those of before
            self.steps_of, self.learning = (
                steps_of,
                [self._learning(m, member) for m, member in enumerate(names)],
            )
            self.groups = self._groups()
            # one thread compiles the steps of a phase, and the others wait for it
            lock = threading.Lock()
            self.compiling = dict.fromkeys(self.phase, lock)

    def _groups(self):
        """The members by the phase that each is in."""
        found = []
        for phase in dict.fromkeys(self.phase):
            members = [m for m, other in enumerate(self.phase) if other == phase]
            at = (
                slice(None)
                if len(members) == len(self.phase)
                else torch.tensor(members, device=self.device)
            )
            step = partial(self.update, phase=phase, members=members, at=at)
            found.append(Group(phase, members, at, self.recorded(step)))
        return found

    def recorded(self, step):
        """A batched step as it is taken: on CUDA, recorded."""
        return replayed(step) if self.device.type == "cuda" else step

    def _learning(self, m, names):
        """Of what learns: names, and groups of one rate each; 1 or 0 for each trained tensor
        (whether it does), learning rate.
        """
        cfg, by_rate = self.configs[m], {}
        for k in names:
            lr, decay = self.rate(cfg, k)
            by_rate.setdefault((lr, cfg.weight_decay * decay), []).append(k)
        groups = [
            Rated(
                group,
                [self.leaves[m][k] for k in group],
                [[kept[k][m] for k in group] for kept in self.moments.values()],
                [self.steps[m, self.trained.index(k)] for k in group],
                *rate,
            )
            for rate, group in by_rate.items()
        ]
        moving = torch.tensor([float(k in names) for k in self.trained], device=self.device)
        return names, groups, moving, self.lr[m]

    def rate(self, cfg, name) -> tuple[float, float]:
        """Factors of the learning rate and the weight decay of one trained parameter."""
        rates = self.method.rates(cfg, name)
        check_known(f"rate of {name} (method {cfg.method!r})", rates, RATES)
        return tuple(float(rates.get(k, 1.0)) for k in RATES)

    def _generator(self, cfg, name):
        """A generator on the device that depends on (seed, name, epoch) alone."""
        return torch.Generator(self.device).manual_seed(
            stream(cfg.seed, name, self.epoch).initial_seed()
        )

    def probe(self, split):
        available = len(self.pixels.data.test_y if split == "test" else self.pixels.data.train_y)
        size = min(
            self.model.probe if split == "test" else 1024, available - available % diagnostics.BATCH
        )
        if size == 0:
            raise ValueError(
                f"dataset {self.pixels.data.name!r} has {available} {split} images; "
                "diagnostics need at least 128"
            )
        return self.pixels.subset(split, size)

    def norms(self, m):
        return diagnostics.norms(self.method, self.member(m)[0], *self.probe("test"))

    def auxiliary_directions(self, m):
        """Mean over the probe of the unit vectors of the auxiliary's credit, per level, or None for
        a method without one.
        """
        (p, s), (x, y) = self.member(m), self.probe("test")
        hs = self.model.states(p, self.model.embed(p, x))
        method = self.during(Phase(fits=False))
        s = s | noise(
            method, self.configs[m], len(y), self._generator(self.configs[m], "noise.trace")
        )
        aux = method.parts(p, s, hs, self.model.readout(p, hs[-1]), y).get("aux")
        return aux and [unit(a).flatten(1).mean(0) / a[0].numel() ** 0.5 for a in aux]

    def diagnose(self, m):
        cfg, (p, s), test, train = (
            self.configs[m],
            self.member(m),
            self.probe("test"),
            self.probe("train"),
        )
        phase = self.method.phase_of(cfg, max(0, self.epoch - 1))  # of the epoch that is over
        # none of this is about how an auxiliary net learns
        method = self.during(replace(phase, fits=False))

        def seen(name, batch):
            """The state, with noise that this measurement alone sees."""
            return s | noise(method, cfg, batch, self._generator(cfg, f"noise.{name}"))

        def draws(name, batch):
            """All draws of that noise which the measurement averages over; none for one draw."""
            if method.draws == 1:
                return ()
            return Draws(method, cfg, batch, lambda: self._generator(cfg, f"noise.{name}"))

        found = diagnostics.diagnose(
            method,
            p,
            seen("test", len(test[1])),
            test,
            train,
            self._generator(cfg, "rho"),
            draws("test", len(test[1])),
        )
        found |= diagnostics.update_alignment(
            method,
            p,
            seen("train", len(train[1])),
            self._last_step(m),
            *train,
            draws("train", len(train[1])),
        )
        if cfg.exploit and self.epoch == cfg.epochs:
            found["exploit"] = exploit(method, p, seen("exploit", diagnostics.BATCH), train, test)
        return found

    def _last_step(self, m):
        """Direction of the optimiser's descent from its running state, per trained parameter; {}
        before the first step.
        """
        moved = [k for i, k in enumerate(self.trained) if self.steps[m, i] > 0]
        first, *second = ({k: moment[k][m] for k in moved} for moment in self.moments.values())
        step = first
        if second:
            step = {k: first[k] / (second[0][k].sqrt() + EPS_ADAM) for k in moved}
        rates = {k: self.rate(self.configs[m], k)[0] for k in moved}
        return {k: v if rates[k] == 1 else v * rates[k] for k, v in step.items()}

    # -- leaving and coming back

    def views(self, m) -> dict[str, torch.Tensor]:
        """All tensors that continue member m exactly: param/, state/ and opt/<key>/<name>."""
        p, s = self.member(m)
        out = {f"param/{k}": v for k, v in p.items()} | {f"state/{k}": v for k, v in s.items()}
        out |= {
            f"opt/{k}/{name}": v[m]
            for name, moment in self.moments.items()
            for k, v in moment.items()
        }
        return out | {f"opt/{k}/step": self.steps[m, i] for i, k in enumerate(self.trained)}

    def export(self, m) -> dict[str, torch.Tensor]:
        """A copy of `views` on the CPU."""
        return {k: v.detach().cpu().contiguous().clone() for k, v in self.views(m).items()}

    def restore(self, m, tensors, epoch):
        """Undo `export` for member m and set the epoch, which all members of an ensemble share."""
        views = self.views(m)
        for name, value in tensors.items():
            views[name].copy_(value)
        self.epoch = epoch

    def keep(self, members):
        """Drop all other members (they have diverged or are finished) and go on."""
        self.configs = [self.configs[m] for m in members]
        for part in (self.params, self.state, *self.moments.values()):
            part.update({k: v[members] for k, v in part.items()})
        self.labels, self.steps, self.lr = (
            self.labels[members],
            self.steps[members],
            self.lr[members],
        )
        self._bind()


def first_fault(ensemble, m, losses, norms):
    """The first non-finite quantity of member m after an epoch, as {step, quantity}, or None."""
    steps = len(losses)
    bad = (~losses[:, m].isfinite()).nonzero()
    if len(bad):
        return {"step": (ensemble.epoch - 1) * steps + bad[0].item(), "quantity": "train_loss"}
    found = list(ensemble.member(m)[0].items())
    # Adam's squares overflow first, and then hold their weights still
    for moment in ensemble.moments.values():
        found += [(f"optimizer state of {k}", v[m]) for k, v in moment.items()]
    found += [(k, torch.tensor(norms[k], dtype=torch.float64)) for k in ("h_norm", "g_norm")]
    wrong = [k for k, v in found if not v.isfinite().all()]
    return {"step": ensemble.epoch * steps - 1, "quantity": wrong[0]} if wrong else None


class DiagnosisFailed(RuntimeError):
    """A run has been trained, but could not be measured."""


CURVES = ("train_loss", "test_acc", "h_norm", "g_norm", "growth")


def train(ensemble: Ensemble, progress, last):
    """Train to epoch `last`, yielding after each epoch the (config, result) of every member that
    diverged in it.

    progress: per member {"curves", "diagnostics", "seconds"}, filled in place and continued when
    already begun. A diverged member leaves it and the ensemble; its result is that with "status"
    and "fault". An ensemble that has been trained before is yielded as it stands first, with what
    its diagnostics at that epoch lack. Raises DiagnosisFailed after an epoch, or before the first,
    of which then only diagnostics are missing.
    """
    failed = measure(ensemble, progress)
    if ensemble.epoch or failed:
        yield []
        report(ensemble, failed)
    while ensemble.epoch < last and ensemble.configs:
        started, members = time.perf_counter(), len(ensemble.configs)
        losses, alive, diverged = ensemble.run_epoch(), [], []
        for m, result in enumerate(progress):
            norms = ensemble.norms(m)
            if fault := first_fault(ensemble, m, losses, norms):
                diverged.append(
                    (ensemble.configs[m], {**result, "status": "diverged", "fault": fault})
                )
                continue
            alive.append(m)
            # contiguous: the sum of a strided column depends, in its last digit, on how many
            # members there are
            row = {
                "train_loss": losses[:, m].contiguous().mean().item(),
                "test_acc": ensemble.accuracy(m),
                **norms,
            }
            for k in CURVES:
                result["curves"][k].append(row[k])
            trace_auxiliary(ensemble, m, result)
        if diverged:
            progress[:] = [progress[m] for m in alive]
            ensemble.keep(alive)
        failed = measure(ensemble, progress)
        for result in progress:
            result["seconds"] += (time.perf_counter() - started) / members
        yield diverged
        report(ensemble, failed)


def measure(ensemble, progress) -> tuple | None:
    """Diagnose each member that wants it at this epoch and lacks it; (config, exception) of one
    that could not be, or None.
    """
    cfg, epoch, failed = ensemble.configs[0] if ensemble.configs else None, ensemble.epoch, None
    for m, result in enumerate(progress):
        if epoch in (*cfg.diagnose, cfg.epochs) and str(epoch) not in result["diagnostics"]:
            try:
                result["diagnostics"][str(epoch)] = ensemble.diagnose(m)
            except Exception as e:
                failed = failed or (ensemble.configs[m], e)
            except BaseException as e:  # an interrupt
                return ensemble.configs[m], e
    return failed


def report(ensemble, failed):
    """Raise what `measure` met."""
    if failed is None:
        return
    cfg, error = failed
    if not isinstance(error, Exception):
        raise error
    told = f"run {cfg.id} is trained up to epoch {ensemble.epoch}, but its diagnosis there failed"
    way_out = (
        "its weights and curves are kept, so that once the reason is mended it goes on from there"
    )
    raise DiagnosisFailed(f"{told} ({type(error).__name__}: {error}); {way_out}") from error


def trace_auxiliary(ensemble, m, result):
    """Note how an auxiliary net's credit points on the probe after an epoch, where the method has
    one.

    Curves per level: `aux_coherence`, the length of the mean over the batch of its unit vectors (1:
    the same direction for every sample), and `aux_turn`, the cosine of that mean with the one an
    epoch before (None in the first epoch, or of zeros).
    """
    means = ensemble.auxiliary_directions(m)
    if means is None:
        return
    before = result.get("aux_directions") or [torch.zeros_like(mean).tolist() for mean in means]
    turns = [diagnostics.cosine(mean, torch.tensor(old)).item() for mean, old in zip(means, before)]
    curves = result["curves"]
    curves.setdefault("aux_coherence", []).append([mean.norm().item() for mean in means])
    curves.setdefault("aux_turn", []).append([None if math.isnan(turn) else turn for turn in turns])
    result["aux_directions"] = [mean.tolist() for mean in means]


def fresh_progress():
    return {"curves": {k: [] for k in CURVES}, "diagnostics": {}, "seconds": 0.0}
