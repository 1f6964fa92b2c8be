"""An ensemble in training, from epoch to epoch."""

import math
import threading
import warnings
from functools import partial
from itertools import islice

import torch

from ..data import Pixels
from . import measurement
from .execution import arithmetic, by_onednn, replayed, takes_onednn
from .gradients import Gradients
from .side_by_side import side_by_side
from .steps import Group, Stepper


class Ensemble(Stepper):
    """Members of one signature in training.

    driver: 'loop' takes the members one after another (fastest measured on CPU, and bit-equal to a
    solo run), 'vmap' batches them (for GPUs, where the step becomes a CUDA graph); None chooses by
    device. fused: torch.compile the gradient, which takes half a minute once and a quarter to two
    thirds off every step after it, take its products from the library that is faster for large
    ones, and train the members of a loop side by side, on a thread each, unless there are two
    threads or more for each.
    """

    def __init__(self, configs, pixels: Pixels, upstreams=None, driver=None, fused=False):
        self.driver = driver or ("vmap" if pixels.device.type == "cuda" else "loop")
        self.fused, self.steps_of = fused, None
        super().__init__(configs, pixels, upstreams)
        precision = self.configs[0].precision
        self.onednn = takes_onednn(precision, self.device, fused)
        autocast = precision == "bf16" and not self.onednn
        self.gradient = Gradients(self.method, self.driver, fused, autocast, self.onednn)
        self.during = self.gradient.during
        self._begin_epoch()

    def bind(self):
        super().bind()
        self.steps_of = None
        side_by_side = self.fused and self.driver == "loop" and self.device.type == "cpu"
        cores = torch.get_num_threads() if side_by_side else 1
        # no more teams of threads than one
        members = len(self.configs)
        self.workers = min(members, cores) if cores < 2 * members else 1

    # -- one epoch

    @arithmetic()
    def run_epoch(self, steps=None):
        """Train one epoch, or its first `steps` steps; the losses of every step, (steps,
        member).
        """
        self._begin_epoch()
        before = torch.get_rng_state()
        if self.workers > 1:
            train = by_onednn(side_by_side) if self.onednn else side_by_side
            each = [islice(self.batches(slice(m, m + 1)), steps) for m in range(len(self.configs))]
            losses = train(
                lambda m, x, y: self.advance(m, x, y, self.noise(m, len(y))), each, self.workers
            )
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

    def _begin_epoch(self):
        """State, learning rate and random streams that depend on the epoch."""
        rate = self.rate_of_epoch()
        for m, c in enumerate(self.configs):
            self.optimizer.lr[m] = c.lr * rate
            for k, v in self.method.at_epoch(c, self.epoch).items():
                self.state[k][m].copy_(v)
        self.generators = [self.generator(c, "noise") for c in self.configs]
        names = [
            [k for k in self.trained if self.method.learns(c, self.epoch, k)] for c in self.configs
        ]
        self.phase = [self.method.phase_of(c, self.epoch) for c in self.configs]
        if self.steps_of != (steps_of := (names, self.phase)):  # else the steps are those of before
            self.steps_of = steps_of
            self.optimizer.choose(names, self.leaves)
            self.groups = self._groups()
            # one thread compiles the steps of a phase, and the others wait for it
            lock = threading.Lock()
            self.compiling = dict.fromkeys(self.phase, lock)

    def rate_of_epoch(self) -> float:
        """The learning rate of this epoch as a factor of that of the first."""
        cfg = self.configs[0]
        if cfg.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * self.epoch / cfg.epochs))

    def _groups(self):
        """The members by the phase that each is in."""
        groups = []
        for phase in dict.fromkeys(self.phase):
            members = [m for m, other in enumerate(self.phase) if other == phase]
            everyone = len(members) == len(self.phase)
            at = slice(None) if everyone else torch.tensor(members, device=self.device)
            step = partial(self.update, phase=phase, members=members, at=at)
            groups.append(Group(phase, members, at, self.recorded(step)))
        return groups

    def recorded(self, step):
        """A batched step as it is taken: on CUDA, recorded."""
        return replayed(step) if self.device.type == "cuda" else step

    # -- measurements (measurement.py)

    def accuracy(self, m: int) -> float:
        return measurement.accuracy(self, m)

    def norms(self, m: int) -> dict:
        return measurement.norms(self, m)

    def diagnose(self, m: int) -> dict:
        return measurement.diagnose(self, m)
