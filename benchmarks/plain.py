"""The baseline: a plain PyTorch script, one run of the audit's net at a time, without faeval.

What it measures: seconds per run-epoch (steps of one epoch x time per step + the test evaluation)
of an nn.Module ResMLP fed by a DataLoader over PIL images with torchvision's transforms. Local
rules have one AdamW per block. It is given the fastest worker count, persistent workers, one
backward call for all blocks and, with --adamw fused, AdamW's fused kernel. Images are random, in
the shape of CIFAR-10. It prints one line of JSON.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from itertools import chain

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
TRAIN = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
TENSOR = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]


class Images(Dataset):
    """Random uint8 images held as torchvision's CIFAR10 holds them, and handed out as PIL
    images.
    """

    def __init__(self, n, steps):
        self.x = torch.randint(0, 256, (n, 32, 32, 3), dtype=torch.uint8).numpy()
        self.y = torch.randint(0, 10, (n,)).tolist()
        self.transform = transforms.Compose(steps)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        return self.transform(Image.fromarray(self.x[i])), self.y[i]


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.ln, self.fc1, self.fc2 = nn.LayerNorm(d), nn.Linear(d, d), nn.Linear(d, d)
        nn.init.normal_(self.fc2.weight, 0, 0.01)
        nn.init.zeros_(self.fc2.bias)

    def forward(self, h):
        return self.fc2(F.gelu(self.fc1(self.ln(h))))


class ResMLP(nn.Module):
    def __init__(self, d, depth):
        super().__init__()
        self.embed = nn.Linear(3072, d)
        self.blocks = nn.ModuleList(Block(d) for _ in range(depth))
        self.readout = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 10))

    def forward(self, x):
        h = self.embed(x.flatten(1))
        for block in self.blocks:
            h = h + block(h)
        return self.readout(h)


class Trainer:
    def __init__(self, method, d, depth, device, fused):
        self.method, self.net = method, ResMLP(d, depth).to(device)
        net = self.net
        if method in ("bp", "frozen"):
            parts = [net] if method == "bp" else [nn.ModuleList([net.embed, net.readout])]
        else:
            parts = [net.embed, *net.blocks, net.readout]
        if method == "frozen":
            net.blocks.requires_grad_(False)
        self.optimizers = [
            torch.optim.AdamW(p.parameters(), lr=1e-3, fused=fused or None) for p in parts
        ]
        rows = d if method == "fa" else 10
        self.feedback = [torch.randn(rows, d, device=device) / rows**0.5 for _ in range(depth + 1)]

    def step(self, x, y):
        if self.method in ("bp", "frozen"):
            F.cross_entropy(self.net(x), y).backward()
        else:
            self.local_backward(x, y)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()

    def local_backward(self, x, y):
        h0 = self.net.embed(x.flatten(1))
        h, fs = h0.detach(), []
        for block in self.net.blocks:
            fs.append(block(h))
            h = (h + fs[-1]).detach()
        h.requires_grad_(self.method == "fa")
        logits = self.net.readout(h)
        loss = F.cross_entropy(logits, y)
        if self.method == "fa":
            loss.backward()
            credit = [h.grad]
            for B in self.feedback[:-1]:
                credit.insert(0, credit[0] @ B)
            torch.autograd.backward([h0, *fs], credit)
        else:
            error = (torch.softmax(logits.detach(), -1) - F.one_hot(y, 10)) / len(y)
            torch.autograd.backward([loss, h0, *fs], [None, *(error @ B for B in self.feedback)])


def endless(loader):
    return chain.from_iterable(iter(lambda: loader, None))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--method", default="dfa", choices=("bp", "frozen", "dfa", "fa"))
    p.add_argument(
        "--adamw",
        default="default",
        choices=("default", "fused"),
        help="torch's default kernel, or its fused one",
    )
    p.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    for name, value in (
        ("width", 256),
        ("depth", 4),
        ("batch", 128),
        ("images", 50_000),
        ("tests", 10_000),
    ):
        p.add_argument(f"--{name}", type=int, default=value)
    for name, value in (("warmup", 10), ("steps", 40), ("repeats", 5)):
        p.add_argument(f"--{name}", type=int, default=value)
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a = p.parse_args()
    cuda = a.device == "cuda"

    def clock():
        if cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    def timed(trainer, batches, steps):
        """Seconds per step, loading included."""
        start = clock()
        for _ in range(steps):
            x, y = next(batches)
            trainer.step(x.to(a.device, non_blocking=True), y.to(a.device, non_blocking=True))
        return (clock() - start) / steps

    trainer = Trainer(a.method, a.width, a.depth, a.device, a.adamw == "fused")
    train, test = Images(a.images, TRAIN + TENSOR), Images(a.tests, TENSOR)
    tried = {}
    for workers in a.workers:
        more = {"num_workers": workers, "persistent_workers": workers > 0, "pin_memory": cuda}
        batches = endless(DataLoader(train, a.batch, shuffle=True, drop_last=True, **more))
        timed(trainer, batches, a.warmup)
        steps = [timed(trainer, batches, a.steps) for _ in range(a.repeats)]
        loader, evaluations = DataLoader(test, 1000, **more), []
        for _ in range(2):
            start = clock()
            with torch.no_grad():
                hits = sum(
                    (trainer.net(x.to(a.device)).argmax(1) == y.to(a.device)).sum()
                    for x, y in loader
                )
                float(hits)
            evaluations.append(clock() - start)
        step, evaluation = statistics.median(steps), min(evaluations)
        tried[workers] = {
            "workers": workers,
            "sec_per_run_epoch": a.images // a.batch * step + evaluation,
            "step_ms": step * 1e3,
            "eval_s": evaluation,
            "spread": (max(steps) - min(steps)) / step,
        }
        del batches, loader
    best = min(tried.values(), key=lambda r: r["sec_per_run_epoch"])
    kib = 1 if sys.platform == "darwin" else 1024
    peak = (
        torch.cuda.max_memory_allocated()
        if cuda
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kib
    )
    tried = {str(w): r["sec_per_run_epoch"] for w, r in tried.items()}
    print(
        json.dumps(
            best | {"adamw": a.adamw, "sec_per_run_epoch_by_workers": tried, "peak_mb": peak / 1e6}
        )
    )


if __name__ == "__main__":
    main()
