"""The floor of a training step: what its matrix products and one pass over the optimiser's state
cost on this machine, alone.

What it measures: every distinct matrix product of a step of faeval, each timed by itself at its own
shape and layout, plus one pass over the trained parameters and their AdamW state (read p, g, m, v;
write p, m, v: seven floats each) at streaming bandwidth. The products are recorded from a step as
it runs; one that multiplies the same values again is left out, as a perfect step would. They are
repeated in their order, every one on operands of its own, and the state pass follows each member's
products: a full step's worth of memory passes through the caches between two uses of an operand, as
in training, so that they do not flatter the floor. Results go to buffers that all reuse. Bandwidth
is the better of a copy (one float read, one written) and an in-place sum (two read, one written).
Members that train side by side have their products and passes timed so, too: the time of a step is
the mean of `workers` threads. On CUDA the products are captured as one graph, and timed as a whole.
"""

import hashlib
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from itertools import chain, pairwise

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from faeval_core.training.execution import by_onednn, takes_onednn, threads

aten = torch.ops.aten
PRODUCTS = (aten.mm, aten.addmm, aten.bmm, aten.baddbmm)
UPDATES = (aten._fused_adamw_, aten._fused_sgd_)
PASSES = ("copy", "inplace")  # over the optimiser's state


class Recorder(TorchDispatchMode):
    """Collects pairs of operands of the distinct products of a step: a list of them for what
    precedes each member's update.
    """

    def __init__(self):
        super().__init__()
        self.calls, self.seen, self.operands = [[]], set(), {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in PRODUCTS:
            pair = tuple(map(self.own, args[-2:]))
            if (key := tuple(map(id, pair))) not in self.seen:
                self.seen.add(key)
                self.calls[-1].append(pair)
        elif func.overloadpacket in UPDATES:
            self.calls.append([])
        return func(*args, **(kwargs or {}))

    def own(self, t):
        """A copy of an operand, one for all that hold the same values in the same layout."""
        t = t.detach()
        key = (
            t.shape,
            t.stride(),
            hashlib.sha256(t.contiguous().view(-1).view(torch.uint8).cpu().numpy()).digest(),
        )
        if key not in self.operands:
            # what an expanded tensor holds
            small = t[tuple(slice(None if s else 1) for s in t.stride())]
            copied = torch.empty_strided(
                small.shape, small.stride(), dtype=t.dtype, device=t.device
            ).copy_(small)
            self.operands[key] = copied.expand(t.shape)
        return self.operands[key]


class Floor:
    def __init__(self, ensemble, workers=1):
        """Of an uncompiled ensemble, which is trained by one step, for members on so many
        threads.
        """
        x, y = next(ensemble.batches())
        with Recorder() as recorder:
            ensemble.step(x, y)
        self.device, self.members = ensemble.device, len(ensemble.configs)
        self.onednn = takes_onednn(ensemble.configs[0].precision, self.device, fused=True)
        self.trained = sum(ensemble.params[k][0].numel() for k in ensemble.trained)
        self.workers, self.scratch, self.graphs = workers, defaultdict(dict), {}
        self.pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
        self.calls = [
            [(self.kind(*pair), self.product(*pair)) for pair in member]
            for member in recorder.calls[:-1]
        ]
        self.state = [
            [torch.randn(self.trained, device=self.device) for _ in "pgmv"]
            for _ in range(self.members)
        ]

    def kind(self, a, b):
        return "x".join(map(str, (*a.shape, b.shape[-1])))

    def product(self, a, b):
        shape = (*a.shape[:-1], b.shape[-1])

        def run():
            buffers = self.scratch[threading.get_ident()]
            if (shape, a.dtype) not in buffers:
                buffers[shape, a.dtype] = torch.empty(shape, dtype=a.dtype, device=self.device)
            torch.matmul(a, b, out=buffers[shape, a.dtype])

        return run

    def copy(self, m):
        p, g, m, v = self.state[m]
        m.copy_(p), v.copy_(g)

    def inplace(self, m):
        p, g, m, v = self.state[m]
        p.add_(g, alpha=1e-9), v.add_(m, alpha=1e-9)

    def time(self, steps):
        """Mean over `steps` repetitions: milliseconds per step of all members, by part, and
        bandwidth in GB/s.
        """
        timed = self.time_cuda if self.device.type == "cuda" else self.time_cpu
        totals = (by_onednn(timed) if self.onednn else timed)(steps)
        ms = {k: v / steps * 1e3 for k, v in totals.items()}
        copy, inplace = ms.pop("copy"), ms.pop("inplace")
        # one float per parameter, in MB: over ms, it is GB/s
        floats = 4e-6 * self.trained * self.members
        gemm, state = sum(ms.values()), min(copy * 7 / 4, inplace * 7 / 6)
        return {
            "floor_ms": gemm + state,
            "gemm_ms": gemm,
            "state_ms": state,
            "gemm_ms_by_kind": ms,
            "copy_gb_s": 4 * floats / copy,
            "inplace_gb_s": 6 * floats / inplace,
            "floor_at_copy_ms": gemm + copy * 7 / 4,
        }

    def time_cpu(self, steps):
        together, totals, clock = self.workers > 1, defaultdict(float), time.perf_counter

        def spent(calls):
            marks = [clock()]
            for _, call in calls:
                call()
                marks.append(clock())
            return [(name, b - a) for (name, _), (a, b) in zip(calls, pairwise(marks))]

        every = [  # either pass in turn, so that each is seen `steps` times
            [*calls, (name, partial(getattr(self, name), m))]
            for name in PASSES * steps
            for m, calls in enumerate(self.calls)
        ]
        with threads(1) if together else nullcontext():
            for name, seconds in chain.from_iterable(
                (self.pool.map if together else map)(spent, every)
            ):
                totals[name] += seconds / self.workers / (1 if name in PASSES else len(PASSES))
        return totals

    def time_cuda(self, steps):
        parts = {
            name: [partial(getattr(self, name), m) for m in range(self.members)] for name in PASSES
        }
        parts["products"] = [call for calls in self.calls for _, call in calls]
        totals = {}
        for name, part in parts.items():
            if name not in self.graphs:
                self.graphs[name] = torch.cuda.CUDAGraph()
                for recording in (nullcontext(), torch.cuda.graph(self.graphs[name])):
                    torch.cuda.synchronize()
                    with recording:
                        for call in part:
                            call()
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(steps):
                self.graphs[name].replay()
            torch.cuda.synchronize()
            totals[name] = time.perf_counter() - start
        return totals
