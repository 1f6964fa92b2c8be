"""What a run costs: the floating-point operations of its training, and how many of them this
machine does in a second.
"""

import os
import platform
import statistics
import time
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from .. import data
from ..config import RunConfig
from ..data import synthetic
from ..ground.streams import stream
from ..methods.shared import Phase
from ..models import MODELS
from ..training import build, initial, noise

CIFAR = ((3, 32, 32), 50000)
# of a dataset's images, and their number
SHAPES = {
    "digits": ((1, 8, 8), 1437),
    "digit-sums": ((1, 8, 16), 5120),
    "fashionmnist": ((1, 28, 28), 60000),
}
TRACED = 8  # samples of the step that is counted
# a run's time over that of its products alone (make bench: 1.2 to 1.5, and evaluation)
OVERHEAD = 1.5


def cost_flops(cfg: RunConfig) -> float:
    """Floating-point operations of the matrix products in all training steps of a run."""
    _, images = _images(cfg)
    size = min(cfg.batch_size, images)
    learning = _learning_epochs(cfg)
    per_sample = [flops_per_sample(_structure(cfg), fits) for fits in (True, False)]
    epochs = (learning, cfg.epochs - learning)
    return images // size * size * sum(n * each for n, each in zip(epochs, per_sample) if n)


def cost_seconds(cfg: RunConfig, records=()) -> float:
    """Estimated seconds of a run on this machine, given the records of its store."""
    return cost_flops(cfg) / flops_per_second(records)


def flops_per_second(records=()) -> float:
    """Floating-point operations of products that training does in a second here, on all threads of
    this process.

    From a trial of a tenth of a second, or from `records` made on this machine's kind of CPU where
    they were faster: what ran beside them, or runs now, slows either.
    """
    here = cpu_model()
    made_here = [
        r for r in records if r.provenance.get("cpu") == here and r.provenance["seconds"] > 10
    ]
    recorded = [
        _completed_flops(r) / (r.provenance["seconds"] * r.provenance["threads"]) for r in made_here
    ]
    rates = [_rate_of_products() / OVERHEAD, statistics.median(recorded or [0])]
    return max(rates) * torch.get_num_threads()


@cache
def cpu_model() -> str:
    """The name of this machine's CPU."""
    lines = (
        Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if os.path.exists("/proc/cpuinfo")
        else []
    )
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@cache
def flops_per_sample(cfg: RunConfig, fits: bool) -> float:
    """Floating-point operations of one training step, per sample, counted in a step of a few
    samples.

    fits: whether an auxiliary net learns in it.
    """
    shape, _ = _images(cfg)
    classes = 10
    method = build(cfg, shape, classes)[0].during(Phase(fits=fits))
    params, state = initial(cfg, method)
    state |= noise(method, cfg, TRACED, stream(0, "noise"))
    leaves = {k: v.requires_grad_() if method.trains(k) else v for k, v in params.items()}
    x, y = torch.randn(TRACED, *shape, generator=stream(0, "x")), torch.arange(TRACED) % classes
    with FlopCounterMode(display=False) as counted:
        scalar, _ = method.surrogate(leaves, state, x, y)
        if scalar.requires_grad:
            scalar.backward()
    return counted.get_total_flops() / TRACED


def _images(cfg) -> tuple[tuple, int]:
    """Shape of a dataset's images and their number; a set that is not here counts as one of CIFAR's
    size.
    """
    name = cfg.dataset.removesuffix(data.VALIDATION)
    if synthetic.is_synthetic(name):
        return (cfg.width,), synthetic.TRAIN // (10 if name.endswith("-small") else 1)
    if kept := data.kept_shape(name):
        return kept
    shape, images = SHAPES.get(name, CIFAR)
    return shape if MODELS[cfg.model].embedded else (cfg.width,), images


def _structure(cfg) -> RunConfig:
    """The config with all that does not change the work of a step as it is by default."""
    kept = (
        "method",
        "dataset",
        "model",
        "width",
        "depth",
        "terminal_ln",
        "residual",
        "embedding",
        "credit_level",
        "rule",
    )
    kept += ("train_net", "model_options", "options")
    gated = {k: float(getattr(cfg, k) > 0) for k in ("penalty", "penalty_h0")}
    return RunConfig(**{k: getattr(cfg, k) for k in kept}, **gated, augment=False)


def _learning_epochs(cfg) -> int:
    """Epochs of a run in which an auxiliary net learns; all of them for a method that has none."""
    method, _ = build(cfg, _images(cfg)[0], 10)
    return sum(method.learns(cfg, epoch, "aux.") for epoch in range(cfg.epochs))


def _completed_flops(record) -> float:
    """Floating-point operations of what a record's run trained, which may have diverged on the
    way.
    """
    return cost_flops(record.config) * len(record.curves["test_acc"]) / record.config.epochs


@cache
def _rate_of_products() -> float:
    """Floating-point operations a second of one thread, in products of the shapes of the audit's
    size.
    """
    shapes = [(128, 3072, 256), (128, 256, 256)]
    operands = [(torch.ones(n, i), torch.ones(o, i)) for n, i, o in shapes]
    each = sum(2 * n * i * o for n, i, o in shapes)
    before, rates = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for _ in range(30):
            started = time.perf_counter()
            for x, w in operands:
                F.linear(x, w)
            rates.append(each / (time.perf_counter() - started))
    finally:
        torch.set_num_threads(before)
    return statistics.median(rates)
