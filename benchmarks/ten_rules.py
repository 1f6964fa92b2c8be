"""The ten rules of the cookbook, each audited on two networks at the default task, in one go.

    python benchmarks/ten_rules.py [--html cookbook.html]

It prints a table, and how long the audits took.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

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

RULES = (BlockLocal, DifferenceTarget, DirectKolenPollack, DRTP, ForwardForward)
RULES += (NodePerturbation, PEPITA, PredictiveCoding, SparseDFA, WeightMirror)
MODELS = ("resmlp", "convnet")
COLUMNS = {
    "test accuracy": "test accuracy",
    "exact cosine, hidden": "deep cos (exact, hidden)",
    "scale-invariant protocol": "scale-invariant",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--html", help="where to write the page")
    parser.add_argument("--results", help="folder of the records (default: none is kept)")
    args = parser.parse_args()
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as empty:
        results = args.results or empty
        found = audit(list(RULES), models=MODELS, results=results, html=args.html)
    seconds = time.perf_counter() - begun
    print(f"| rule | network | {' | '.join(COLUMNS)} |\n|{'---|' * (2 + len(COLUMNS))}")
    for each in found:
        rule, model = each.base.method, each.base.model
        row = each.table.loc[figures.title(rule)]
        cells = [str(row[name]) for name in COLUMNS.values()]
        print(f"| {rule} | {model} | {' | '.join(cells)} |")
    print(f"{len(found)} audits in {seconds / 60:.1f} minutes")


if __name__ == "__main__":
    main()
