"""One row of the benchmark, in a process of its own: an ensemble of faeval runs of one method.

What it measures, for ensembles on random images in the shape of CIFAR-10:
seconds per run-epoch, that is (steps of an epoch x (augmentation + step) + the epoch's draws +
evaluation) / members, where the evaluation is what training.train does after an epoch (norms, the
search for faults, test accuracy); the same data path with the members trained one after another;
the floor (floor.py); and the peak memory of the process before the last two are built.
Epochs are cut short, and each is gone through once without its steps: that is augmentation, and
what it lacks are the steps. Rounds of these alternate, so that a drift of the machine meets all of
them; figures are means within a round and medians over rounds, and the spread is that of the step,
(max - min) / median. It prints one line of JSON.
"""

import json
import platform
import resource
import statistics
import sys
import time
from itertools import islice
from pathlib import Path

import torch
from floor import Floor

from faeval_core.config import RunConfig
from faeval_core.data import CIFAR_STATS, Dataset, Pixels
from faeval_core.training import Ensemble, first_fault
from faeval_core.training.side_by_side import side_by_side


def machine(device):
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    cpu = names[0] if names else platform.processor() or platform.machine()
    return f"{cpu}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def synthetic(images, tests):
    def split(n):
        return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8), torch.randint(0, 10, (n,))

    return Dataset(
        "synthetic", *split(images), *split(tests), tuple(map(str, range(10))), *CIFAR_STATS
    )


def clock(device):
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Timed:
    """An ensemble whose epochs are cut short: `round` times two or more steps and one evaluation,
    and scales them to an epoch.
    """

    def __init__(self, ensemble, device):
        self.ensemble, self.device = ensemble, device

    def took(self, part, *args):
        """(seconds, result) of part(*args)."""
        start = clock(self.device)
        found = part(*args)
        return clock(self.device) - start, found

    def round(self, steps):
        e = self.ensemble
        # of the epoch's permutations, crops and flips, above all
        draws, _ = self.took(self.load, 1)
        loaded, _ = self.took(self.load, steps)
        trained, losses = self.took(e.run_epoch, steps)
        evaluation, _ = self.took(self.evaluate, losses)
        e.epoch -= 1
        augment, step = (loaded - draws) / (steps - 1), (trained - loaded) / steps
        epoch = e.pixels.n // e.configs[0].batch_size * (augment + step) + draws + evaluation
        return {
            "sec_per_run_epoch": epoch / len(e.configs),
            "step_ms": step * 1e3,
            "augment_ms": augment * 1e3,
            "eval_s": evaluation,
            "draws_s": draws,
        }

    def load(self, steps):
        e = self.ensemble
        if e.workers > 1:
            members = range(len(e.configs))
            batches = [islice(e.batches(slice(m, m + 1)), steps) for m in members]
            side_by_side(lambda m, x, y: y, batches, e.workers)
        else:
            list(y for _, y in islice(e.batches(), steps))

    def evaluate(self, losses):
        e = self.ensemble
        for m in range(len(e.configs)):
            first_fault(e, m, losses, e.norms(m))
            losses[:, m].mean().item(), e.accuracy(m)


def measure(spec):
    device, method, members, steps = spec["device"], spec["method"], spec["members"], spec["steps"]
    torch.manual_seed(0)
    pixels = Pixels(synthetic(spec["images"], spec["tests"]), device)
    # else its first fifth, on DFA's credit, would be what is timed
    options = {"wr": 0.0} if method == "cb" else {}
    sizes = {
        "width": spec["width"],
        "depth": spec["depth"],
        "batch_size": spec["batch"],
        "precision": spec["precision"],
    }
    base = RunConfig(method, dataset="synthetic", options=options, **sizes)
    configs = [base.with_(seed=s) for s in range(members)]
    fused = spec["fused"]
    ours = Timed(Ensemble(configs, pixels, fused=fused), device)
    if not spec.get("graph", True):
        ours.ensemble.recorded = lambda step: step
        ours.ensemble.keep(range(members))  # so that steps are made anew
    ours.round(spec["warmup"])
    kib = 1 if sys.platform == "darwin" else 1024
    peak = (
        torch.cuda.max_memory_allocated()
        if device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kib
    )

    floor = Floor(Ensemble(configs, pixels), ours.ensemble.workers)
    floor.time(max(1, spec["warmup"] // 2))
    turn = (
        [Timed(Ensemble([c], pixels, fused=fused), device) for c in configs[:3]]
        if members > 1
        else []
    )
    # once all are built, since each new one makes torch.compile forget those before
    for one in [ours, *turn]:
        one.round(spec["warmup"])
    rounds = []
    for _ in range(spec["repeats"]):
        row = ours.round(steps) | floor.time(steps)
        if turn:
            row["serial_s"] = statistics.mean(
                one.round(max(2, steps // len(turn)))["sec_per_run_epoch"] for one in turn
            )
        rounds.append(row)
    middle = {
        k: statistics.median(r[k] for r in rounds) for k in rounds[0] if k != "gemm_ms_by_kind"
    }
    kinds = {
        k: statistics.median(r["gemm_ms_by_kind"][k] for r in rounds)
        for k in rounds[0]["gemm_ms_by_kind"]
    }
    every = [r["step_ms"] for r in rounds]
    return middle | {
        "gemm_ms_by_kind": kinds,
        "spread": (max(every) - min(every)) / middle["step_ms"],
        "peak_mb": peak / 1e6,
        "machine": machine(device),
        "driver": ours.ensemble.driver,
        "fused": fused,
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
