"""Cost of a DFA run against members, width, depth and batch, with its floor: `python
benchmarks/scaling.py`.

Measured on two CPU cores (scaling.json): 1.1 s with two blocks, 3.5 s with twelve; 0.5 s at width
64, where half is the floor,
11.5 s at 1024, where nine tenths are; each of twelve members costs a fifth less than one alone; a
batch of 32 costs twice one of 128.

What it measures: for the size of the audit, with one of the four changed at a time, seconds per
run-epoch of 50,000 images, with augmentation and evaluation, and the floor of the training steps
alone (floor.py), each in a fresh process (rows.py). It writes scaling.json beside itself and
figures/cost.png.
"""

import json
import sys
from pathlib import Path

import torch
from bench import FULL, ask, rounded
from matplotlib import pyplot as plt

from faeval_core.ground.files import publish_json
from faeval_core.report import figures

HERE = Path(__file__).resolve().parent
SWEEPS = {
    "members": (1, 3, 6, 12),
    "width": (64, 128, 256, 512, 1024),
    "depth": (2, 4, 8, 12),
    "batch": (32, 128, 512),
}


def point(name, value):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    spec = FULL | {
        "method": "dfa",
        "members": 1,
        "fused": True,
        "precision": "fp32",
        "repeats": 1,
        "device": device,
    }
    found = ask("rows.py", json.dumps(spec | {name: value}))
    members, batch = value if name == "members" else 1, value if name == "batch" else spec["batch"]
    floor = found["floor_ms"] / 1e3 * (spec["images"] // batch) / members
    print(
        f"{name} {value}: {found['sec_per_run_epoch']:.2f} s per run-epoch, floor {floor:.2f}",
        file=sys.stderr,
        flush=True,
    )
    return {"sweep": name, "value": value, "floor_s": floor} | {
        k: found[k] for k in ("sec_per_run_epoch", "machine")
    }


def draw(rows):
    figures.use_style()
    picture, axes = plt.subplots(1, len(SWEEPS), figsize=(figures.FULL, 2.2), sharey=True)
    colour, marker = figures.look("dfa")
    for ax, name in zip(axes, SWEEPS):
        xs, ours, floor = zip(
            *(
                (r["value"], r["sec_per_run_epoch"], r["floor_s"])
                for r in rows
                if r["sweep"] == name
            )
        )
        ax.plot(xs, ours, color=colour, marker=marker, label="DFA")
        ax.plot(xs, floor, color="black", linestyle=":", label="floor of its steps")
        ax.set(xscale="log", yscale="log", xlabel=name)
        ax.set_xticks(xs, xs)
        ax.minorticks_off()
    axes[0].set_ylabel("seconds per run and epoch")
    picture.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return picture


if __name__ == "__main__":
    measured = [point(name, value) for name, values in SWEEPS.items() for value in values]
    publish_json(HERE / "scaling.json", rounded(measured))
    figures.save(draw(measured), HERE.parent / "figures", "cost")
