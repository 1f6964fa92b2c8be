"""The floor of a training step: what its matrix products and one pass over the optimiser's state cost on this machine, alone.

What it measures: every matrix product that a method cannot do without, each timed by itself at its own shape and with the operand
layouts of autograd, plus one pass over the trained parameters and their AdamW state (read p, g, m, v; write p, m, v: seven floats
each) at streaming bandwidth. The products run in the order of a step, every member and level on operands of its own, and the
state pass follows each member's products: a full step's worth of memory passes through the caches between two uses of an
operand, as in training, so that they do not flatter the floor. Results and activations go to buffers that all members reuse.
Bandwidth is the better of a copy (one float read, one written) and an in-place sum (two read, one written).
On CUDA the members' products are batched and captured as one graph, and timed as a whole.
"""

import time
from collections import defaultdict

import torch

LOCAL = ("dfa", "fa")


class Floor:
    def __init__(self, method, members, trained, *, features, width, depth, batch, classes=10, device="cpu"):
        """trained: the number of trained parameters of one member."""
        self.device, self.trained, self.members = torch.device(device), trained, members
        self.size = features, width, depth, batch, classes
        self.method = method
        cuda = self.device.type == "cuda"
        lead, groups = ((members,), 1) if cuda else ((), members)
        weights = features * width + width * classes + 2 * depth * width * width
        self.shared = {"g": self.fill(*lead, max(weights, trained)), "scratch": {}}
        self.acts = [self.fill(*lead, batch, width) for _ in range(2 * depth + 1)]
        self.deltas = [self.fill(*lead, batch, width) for _ in range(2 * depth + 1)]
        self.error = self.fill(*lead, batch, classes)
        self.groups = [self.build(lead, max(weights, trained)) for _ in range(groups)]
        self.graphs = {}

    def fill(self, *shape):
        return torch.randn(shape, device=self.device)

    def scratch(self, *shape):
        return self.shared["scratch"].setdefault(shape, torch.empty(shape, device=self.device))

    def build(self, lead, total):
        """({kind: products}, in the order of the step; copy; in-place sum) of one member, or of all where they are batched."""
        features, d, depth, batch, classes = self.size
        state, calls = {k: self.fill(*lead, total) for k in "pmv"} | {"g": self.shared["g"]}, []

        def take(flat, at, rows, cols):
            return flat[..., at : at + rows * cols].unflatten(-1, (rows, cols))

        def add(kind, a, b, out):
            calls.append((kind, lambda: torch.matmul(a, b, out=out)))

        ends = [features * d, features * d + d * classes]
        places = [(0, d, features), (ends[0], classes, d)] + [(ends[1] + i * d * d, d, d) for i in range(2 * depth)]
        (embed, head, *blocks), (g_embed, g_head, *g_blocks) = ([take(state[k], *at) for at in places] for k in "pg")
        x, out = self.fill(*lead, batch, features), self.scratch(*lead, batch, d)
        add("embed forward", x, embed.mT, out)
        for w, z in zip(blocks, self.acts):
            add("block forward", z, w.mT, out)
        add("head forward", self.acts[-1], head.mT, self.scratch(*lead, batch, classes))
        if self.method in LOCAL:
            rows = d if self.method == "fa" else classes
            source = self.deltas[0] if self.method == "fa" else self.error
            for _ in range(depth + (self.method == "dfa")):
                add("feedback", source, self.fill(*lead, rows, d), out)
        add("head weight gradient", self.error.mT, self.acts[-1], g_head)
        add("head input gradient", self.error, head, out)
        for w, g, z, delta in reversed(list(zip(blocks, g_blocks, self.acts, self.deltas))):
            if self.method != "frozen":
                add("block weight gradient", delta.mT, z, g)
            add("block input gradient", delta, w, out)  # every method trains a LayerNorm or an embedding below it
        add("embed weight gradient", self.deltas[-1].mT, x, g_embed)
        p, g, m, v = (state[k][..., : self.trained] for k in "pgmv")
        return calls, lambda: (m.copy_(p), v.copy_(g)), lambda: (p.add_(g, alpha=1e-9), v.add_(m, alpha=1e-9))

    def time(self, steps):
        """Mean over `steps` repetitions: milliseconds per step of all members, by part, and bandwidth in GB/s."""
        totals = self.time_cuda(steps) if self.device.type == "cuda" else self.time_cpu(steps)
        ms = {k: v / steps * 1e3 for k, v in totals.items()}
        copy, inplace = ms.pop("copy"), ms.pop("inplace")
        floats = 4e-6 * self.trained * self.members  # one float per parameter, in MB: over ms, it is GB/s
        gemm, state = sum(ms.values()), min(copy * 7 / 4, inplace * 7 / 6)
        return {
            "floor_ms": gemm + state, "gemm_ms": gemm, "state_ms": state, "gemm_ms_by_kind": ms,
            "copy_gb_s": 4 * floats / copy, "inplace_gb_s": 6 * floats / inplace, "floor_at_copy_ms": gemm + copy * 7 / 4,
        }  # fmt: skip

    def time_cpu(self, steps):
        totals, clock = defaultdict(float), time.perf_counter
        for i in range(2 * steps):  # either pass in turn, so that each is seen `steps` times
            for calls, copy, inplace in self.groups:
                for kind, call in calls:
                    start = clock()
                    call()
                    totals[kind] += (clock() - start) / 2
                start = clock()
                (copy if i % 2 else inplace)()
                totals["copy" if i % 2 else "inplace"] += clock() - start
        return totals

    def time_cuda(self, steps):
        (calls, copy, inplace), *_ = self.groups
        parts = {"products": lambda: [call() for _, call in calls], "copy": copy, "inplace": inplace}
        totals = {}
        for name, part in parts.items():
            if name not in self.graphs:
                part()
                torch.cuda.synchronize()
                self.graphs[name] = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graphs[name]):
                    part()
            torch.cuda.synchronize()
            start = time.perf_counter()
            for _ in range(steps):
                self.graphs[name].replay()
            torch.cuda.synchronize()
            totals[name] = time.perf_counter() - start
        return totals
