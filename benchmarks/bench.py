"""Speed and memory of faeval on this machine, in one run: `python benchmarks/bench.py` (`--quick`
for a smoke test).

Measured on two CPU cores (results.json): three DFA runs together take 1.7 s per run-epoch, the
plain script takes 9.0 s; a step takes 1.2 times its floor, the State Bridge's 1.3, the vector
field's 1.4 and the Credit Bridge's 1.5 times.

What it measures: seconds per run-epoch of ensembles (rows.py) against a plain PyTorch script
(plain.py: torch's default AdamW, one per block, at its best worker count; a row of its own says
what the fused AdamW makes of it), against members trained one after another, and against the floor
of the step (floor.py), each in a fresh process. It writes results.json beside itself and prints the
table. A ratio above 1 in ratio_plain and ratio_serial says how much faster the ensemble is, per
run-epoch; ratio_floor is the training step (gradients and optimiser) over its floor, and
ratio_floor_augmented counts the augmentation too.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import torch

from faeval_core.config import CHOICES, RunConfig
from faeval_core.ground.files import publish_json, studies
from faeval_core.runs.costs import cost_flops
from faeval_core.runs.store import Store

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
TABLE1 = ("bp", "fa", "ep", "dfa", "cb", "sb", "frozen")
FULL = {
    "width": 256,
    "depth": 4,
    "batch": 128,
    "images": 50_000,
    "tests": 10_000,
    "warmup": 10,
    "steps": 40,
    "repeats": 5,
}
QUICK = {
    "width": 16,
    "depth": 2,
    "batch": 8,
    "images": 256,
    "tests": 128,
    "warmup": 2,
    "steps": 3,
    "repeats": 2,
}
METHODS = ("dfa", "fa", "bp", "frozen")  # which the plain script has, too
LEARNED = ("ep", "sb", "cb", "vec", "local")
FUSED, PLAIN, BF16 = {}, {"fused": False}, {"precision": "bf16"}
ROWS = [(m, n, FUSED) for n in (3, 1, 16) for m in METHODS + LEARNED]
ROWS += [("dfa", 64, FUSED), ("dfa", 3, PLAIN), ("dfa", 3, BF16), ("fa", 3, BF16)]
# more than a CPU is given together (runs.MAX_MEMBERS)
CUDA_ROWS = [(m, 64, FUSED) for m in METHODS[1:] + LEARNED]
CUDA_ROWS += [("dfa", 3, {"graph": False})]  # and what the CUDA graph is worth
KEYS = (
    "name",
    "method",
    "members",
    "precision",
    "sec_per_run_epoch",
    "ratio_plain",
    "ratio_serial",
    "ratio_floor",
    "peak_mb",
    "machine",
)


def ask(script, *arguments):
    """The JSON that a script prints last. Raises RuntimeError with its error output where it
    fails.
    """
    done = subprocess.run(
        [sys.executable, HERE / script, *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(
            f"benchmarks/{script} {' '.join(arguments)} failed:\n{done.stderr[-2000:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def ensemble_row(method, members, how, spec, plain):
    spec = {**spec, "method": method, "members": members, "fused": True, "precision": "fp32", **how}
    found = ask("rows.py", json.dumps(spec))
    seconds, floor = found["sec_per_run_epoch"], found["floor_ms"]
    told = {
        "precision": ("bf16", ", bf16"),
        "fused": (False, ", uncompiled"),
        "graph": (False, ", no graph"),
    }
    serial, how = (
        found.get("serial_s"),
        "".join(text for k, (value, text) in told.items() if spec.get(k) == value),
    )
    return {
        "name": f"faeval {method} x{members}{how}",
        "method": method,
        "members": members,
        "precision": spec["precision"],
        "sec_per_run_epoch": seconds,
        "ratio_plain": plain / seconds if plain else None,
        "ratio_serial": serial / seconds if serial else None,
        "ratio_floor": found["step_ms"] / floor,
        "ratio_floor_augmented": (found["step_ms"] + found["augment_ms"]) / floor,
    } | {k: v for k, v in found.items() if k != "sec_per_run_epoch"}


def plain_row(method, spec, workers, adamw="default"):
    arguments = [f"--{k}={v}" for k, v in spec.items()] + [
        "--method",
        method,
        "--adamw",
        adamw,
        "--workers",
        *map(str, workers),
    ]
    name = f"plain {method}" + (", fused AdamW" if adamw == "fused" else "")
    return {
        "name": name,
        "method": method,
        "members": 1,
        "precision": "fp32",
        "ratio_plain": None,
        "ratio_serial": None,
        "ratio_floor": None,
    } | ask("plain.py", *arguments)


def text(rows):
    """The table, with times in seconds and milliseconds and memory in MB."""
    columns = (
        "sec_per_run_epoch",
        "ratio_plain",
        "ratio_serial",
        "ratio_floor",
        "ratio_floor_augmented",
        "step_ms",
        "augment_ms",
        "gemm_ms",
        "state_ms",
        "spread",
        "peak_mb",
    )
    heads = (
        "s/run-epoch",
        "x plain",
        "x serial",
        "/floor",
        "/floor+aug",
        "step ms",
        "aug ms",
        "gemm ms",
        "state ms",
        "spread",
        "peak MB",
    )
    lines = [f"{'':28}" + "".join(f"{h:>12}" for h in heads)]
    for r in rows:
        cells = [
            "" if r.get(c) is None else f"{r[c]:.0f}" if c == "peak_mb" else f"{r[c]:.2f}"
            for c in columns
        ]
        lines.append(f"{r['name']:28}" + "".join(f"{c:>12}" for c in cells))
    return "\n".join([rows[-1]["machine"], *lines])


def cost_model(rows):
    """Hours of the Table 1 audit (7 methods, 3 seeds, 100 epochs) and of the paper profile,
    predicted from the rows of three members each; beside it, what such runs took when the committed
    records were made, on cores busy with other work as well.
    """
    rate = {
        r["method"]: r["sec_per_run_epoch"] for r in rows if r["name"] == f"faeval {r['method']} x3"
    }
    listed = {
        row["id"]: row["config"] for study in studies(RESULTS).values() for row in study["runs"]
    }
    configs = [RunConfig.from_dict(c) for c in listed.values() if c["method"] in CHOICES["method"]]
    unit, size = cost_flops(RunConfig("dfa", epochs=1)), (100, 256, 4, "resmlp")
    took = defaultdict(list)
    for r in Store(RESULTS).all():
        if (r.config.epochs, r.config.width, r.config.depth, r.config.model) == size:
            took[r.config.method].append(r.provenance["seconds"])
    return {
        "table1_predicted_h": 300 * sum(rate[m] for m in TABLE1) / 3600,
        "table1_recorded_h": 3 * sum(fmean(took[m]) for m in TABLE1) / 3600
        if all(map(took.get, TABLE1))
        else None,
        "paper_runs": len(configs),
        "paper_predicted_h": sum(map(cost_flops, configs)) / unit * rate["dfa"] / 3600,
        "machine": rows[0]["machine"],
    }


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes and few steps: a smoke test, not a measurement",
    )
    told = (
        "where to write the rows (default, where all is measured: results.json here, on "
        "CUDA results_cuda.json)"
    )
    p.add_argument("--out", type=Path, help=told)
    p.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    every = METHODS + LEARNED
    p.add_argument(
        "--only",
        nargs="+",
        metavar="METHOD",
        choices=every,
        default=every,
        help="these methods alone",
    )
    a = p.parse_args(argv)
    spec = (QUICK if a.quick else FULL) | {"device": a.device}
    if a.quick:
        # on a busy machine, tiny products wait for their second thread
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = (
        [("dfa", 3, PLAIN)]
        if a.quick
        else [r for r in ROWS + CUDA_ROWS * (a.device == "cuda") if r[0] in a.only]
    )
    workers, plains, rows, failed = [0] if a.quick else [0, 1, 2], {}, [], []
    for method in dict.fromkeys(m for m, *_ in wanted if m in METHODS):
        plains[method] = plain_row(method, spec, workers)
        workers = [plains[method]["workers"]]  # its best worker count serves the other methods
        print(
            f"plain {method}: {plains[method]['sec_per_run_epoch']:.2f} s per run-epoch",
            file=sys.stderr,
        )
    tuned = [] if a.quick or not plains else [plain_row(next(iter(plains)), spec, workers, "fused")]
    for method, members, how in wanted:
        repeats = 2 if members > 3 else 3 if method in LEARNED else spec["repeats"]
        fewer = spec | {"repeats": min(repeats, spec["repeats"])}
        try:
            rows.append(
                ensemble_row(
                    method, members, how, fewer, plains.get(method, {}).get("sec_per_run_epoch")
                )
            )
        except RuntimeError as e:
            # the rows that are measured already are worth more than a clean stop
            print(e, file=sys.stderr)
            failed.append(f"{method} x{members} {how}")
            continue
        print(
            f"{rows[-1]['name']}: {rows[-1]['sec_per_run_epoch']:.2f} s per run-epoch",
            file=sys.stderr,
        )
    if not rows:
        sys.exit("no row could be measured")
    rows = [r | {"machine": rows[0]["machine"]} for r in [*plains.values(), *tuned]] + rows
    rows = [{k: r[k] for k in KEYS} | {k: v for k, v in r.items() if k not in KEYS} for r in rows]
    whole = not (a.quick or failed or len(a.only) < len(every))
    out = a.out or (HERE / f"results{'_cuda' * (a.device == 'cuda')}.json" if whole else None)
    if out:
        publish_json(out, rounded(rows))
    print(text(rows))
    if out == HERE / "results.json":
        publish_json(HERE / "cost_model.json", rounded(cost_model(rows)))
        print(json.dumps(rounded(cost_model(rows)), indent=1))
    if failed:
        sys.exit(
            f"these rows failed and are left out; results.json stays as it was: {', '.join(failed)}"
        )
    return rows


def rounded(value):
    """Four significant digits."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
