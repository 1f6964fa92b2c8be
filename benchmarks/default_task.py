"""Which embedded task an audit takes by default: one on which depth pays, so that BP is clearly
above a net whose blocks stay as they were initialised.

    python benchmarks/default_task.py

It uses training images alone, a fifth of them held out, and seeds that no audit reports by default.
No rule but BP and the frozen baselines has a say. docs/audit.md has the table that it printed.
"""

import argparse
import tempfile

from faeval_core import data, runs
from faeval_core.config import RunConfig
from faeval_core.report.tables import pm

TASKS = ("digits", "teacher-a1.0-L4-small", "teacher-a1.0-L4", "digit-sums")
METHODS = ("bp", "frozen", "frozen_dfa")
SETTINGS = {"width": 64, "depth": 4, "epochs": 15, "augment": False}


def accuracies(task: str, seeds, results, **settings) -> dict[str, list]:
    """Method -> accuracy on the held-out training images, one per seed."""
    name = task + data.VALIDATION
    configs = [RunConfig(m, name, seed=s, **SETTINGS | settings) for m in METHODS for s in seeds]
    records = runs.run(configs, results)
    return {m: [r.accuracy for r in records if r.config.method == m] for m in METHODS}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=(7, 77))
    args = parser.parse_args()
    print("| task | BP | frozen | frozen, DFA credit | BP less frozen |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as results:
        for task in args.tasks:
            found = accuracies(task, args.seeds, results)
            lead = [b - f for b, f in zip(found["bp"], found["frozen"])]
            cells = [pm(found[m]) for m in METHODS]
            print(f"| {task} | {' | '.join(cells)} | {pm(lead)} |", flush=True)


if __name__ == "__main__":
    main()
