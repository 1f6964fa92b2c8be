"""The ten rules of the cookbook, each audited on two networks at the default task, in one go.

    python benchmarks/ten_rules.py [--results FOLDER]

It prints a table, and how long the audits took.
"""

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from cookbook.block_local import BlockLocal
from cookbook.difference_target import DifferenceTarget
from cookbook.direct_kolen_pollack import DirectKolenPollack
from cookbook.drtp import DRTP
from cookbook.forward_forward import ForwardForward
from cookbook.node_perturbation import NodePerturbation
from cookbook.pepita import PEPITA
from cookbook.predictive_coding import PredictiveCoding
from cookbook.sparse_dfa import SparseDFA
from cookbook.weight_mirror import WeightMirror
from faeval_core import audit, figures

# the longest first, so that both cores are busy to the end
RULES = (PredictiveCoding, ForwardForward, NodePerturbation, PEPITA, BlockLocal)
RULES += (WeightMirror, DifferenceTarget, SparseDFA, DirectKolenPollack, DRTP)
MODELS = {"resmlp": {}, "convnet": {"model_options": {"channels": 8}}}
EPOCHS = 10  # a third less than an audit takes by default, for ten minutes in all
COLUMNS = {
    "test accuracy": "test accuracy",
    "exact cosine, hidden": "deep cos (exact, hidden)",
    "scale-invariant protocol": "scale-invariant",
}


def audited(rule, model: str, results: str) -> tuple[str, list[str], float]:
    """Title and cells of a rule's row, and the seconds of processor time that its audit took."""
    begun = time.process_time()
    (found,) = audit(rule, models=[model], results=results, epochs=EPOCHS, **MODELS[model])
    title = figures.title(found.base.method)
    row = found.table.loc[title]
    cells = [str(row[name]) for name in COLUMNS.values()]
    return title, cells, time.process_time() - begun


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", help="folder of the records (default: none is kept)")
    args = parser.parse_args()
    begun = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as empty,
        ProcessPoolExecutor(
            os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool,
    ):
        results = args.results or empty
        # first what all of them are set beside, or processes would wait for one another's runs
        pairs = list(product(("bp", *RULES, "dfa"), MODELS))
        first, rest = pairs[: len(MODELS)], pairs[len(MODELS) :]
        made = list(pool.map(audited, *zip(*first), [results] * len(first)))
        made += pool.map(audited, *zip(*rest), [results] * len(rest))
    print(f"| rule | network | {' | '.join(COLUMNS)} | s |\n|{'---|' * (3 + len(COLUMNS))}")
    for (_, model), (title, cells, seconds) in zip(pairs, made):
        print(f"| {title} | {model} | {' | '.join(cells)} | {seconds:.0f} |")
    seconds = time.perf_counter() - begun
    print(f"{len(made)} audits in {seconds / 60:.1f} minutes on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
