"""The benchmark: its rows agree with each other, and its floor counts the products that a step
really does.
"""

import importlib
import json
import math
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from conftest import tiny
from torch.utils.flop_counter import FlopCounterMode

from faeval_core.training import Ensemble
from faeval_core.training.execution import threads

HERE = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield importlib.import_module
    for name in ("bench", "floor"):
        sys.modules.pop(name, None)


def test_a_quick_benchmark_writes_rows_that_agree(load, tmp_path, monkeypatch):
    """Whatever the clock said: of one round, of which every figure is its own median."""
    bench = load("bench")
    monkeypatch.setitem(bench.QUICK, "repeats", 1)
    rows = bench.main(["--quick", "--device", "cpu", "--out", str(tmp_path / "results.json")])
    written = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [tuple(r)[:10] for r in written] == [bench.KEYS] * 2
    assert [r["name"] for r in written] == ["plain dfa", "faeval dfa x3, uncompiled"]
    plain, ours = rows
    for row in rows:
        assert (
            all(math.isfinite(row[k]) for k in ("sec_per_run_epoch", "step_ms", "eval_s"))
            and row["peak_mb"] > 0
        )
        assert row["machine"] and row["precision"] == "fp32" and row["method"] == "dfa"
    assert all(plain[k] is None for k in ("ratio_plain", "ratio_serial", "ratio_floor"))
    assert ours["ratio_plain"] == pytest.approx(
        plain["sec_per_run_epoch"] / ours["sec_per_run_epoch"]
    )
    assert ours["ratio_serial"] == pytest.approx(ours["serial_s"] / ours["sec_per_run_epoch"])
    assert ours["ratio_floor"] == pytest.approx(ours["step_ms"] / ours["floor_ms"])
    assert ours["floor_ms"] == pytest.approx(ours["gemm_ms"] + ours["state_ms"])
    steps = bench.QUICK["images"] // bench.QUICK["batch"]
    epoch = steps * (ours["step_ms"] + ours["augment_ms"]) / 1e3 + ours["draws_s"] + ours["eval_s"]
    assert ours["sec_per_run_epoch"] == pytest.approx(epoch / 3)


def test_a_row_that_fails_is_named_and_costs_no_other(load, tmp_path, monkeypatch, capsys):
    bench, out = load("bench"), tmp_path / "results.json"

    def row(method, *_):
        if method == "sb":
            raise RuntimeError("rows.py failed: no memory")
        return dict.fromkeys(bench.KEYS) | {
            "name": f"faeval {method} x3",
            "sec_per_run_epoch": 2.0,
            "machine": "here",
        }

    monkeypatch.setattr(bench, "ROWS", [("sb", 3, {}), ("ep", 3, {})])
    monkeypatch.setattr(bench, "ensemble_row", row)
    with pytest.raises(SystemExit, match="left out; .*: sb x3"):
        bench.main(["--only", "sb", "ep", "--out", str(out)])
    rows = json.loads(out.read_text(encoding="utf-8"))
    assert [r["name"] for r in rows] == ["faeval ep x3"] and "no memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "method, precision", [*((m, "fp32") for m in ("bp", "frozen", "dfa", "fa")), ("bp", "bf16")]
)
def test_the_floor_counts_every_product_of_a_step_once(load, pixels, method, precision):
    """In closed form, for two members: the layers forward and backward, and what the credit takes
    (δ_L is of e, not e / B).
    """
    cfg = tiny(method, precision=precision)
    b, d, depth, features, classes = cfg.batch_size, cfg.width, cfg.depth, 192, 4
    embed, block, head = b * features * d, 2 * b * d * d, b * d * classes
    # forward, by weight, by input
    layers = 2 * embed + depth * block * (2 if method == "frozen" else 3) + 3 * head
    credit = {"dfa": (depth + 1) * head, "fa": depth * block // 2 + head}
    floor = load("floor").Floor(Ensemble([cfg, cfg.with_(seed=2)], pixels))
    with FlopCounterMode(display=False) as counted:
        for _, call in chain(*floor.calls):
            call()
    assert counted.get_total_flops() == 2 * 2 * (layers + credit.get(method, 0))
    assert len(floor.calls) == 2


@pytest.mark.parametrize(
    "precision, rounds, taken", [("fp32", True, False), ("fp32", False, True), ("bf16", True, True)]
)
def test_the_floor_takes_its_products_where_a_long_run_does(
    load, pixels, monkeypatch, precision, rounds, taken
):
    monkeypatch.setattr("faeval_core.training.execution.onednn_rounds", lambda: rounds)
    floor, seen = load("floor").Floor(Ensemble([tiny("dfa", precision=precision)], pixels)), []
    floor.calls[0].insert(0, ("probe", lambda: seen.append(torch.backends.mkldnn.fp32_precision)))
    floor.time(2)
    assert len(seen) == 4 and {p == "bf16" for p in seen} == {taken}


def test_a_product_of_the_same_values_counts_once(load, pixels):
    """The Credit Bridge's value of each level serves its credit and its fit."""
    ensemble = Ensemble([tiny("cb", options={"wr": 0.0})], pixels)
    with FlopCounterMode(display=False) as done:
        ensemble.step(*next(ensemble.batches()))
    floor = load("floor").Floor(ensemble)
    with FlopCounterMode(display=False) as counted:
        for _, call in chain(*floor.calls):
            call()
    assert 0.8 * done.get_total_flops() < counted.get_total_flops() < done.get_total_flops()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_passes_over_the_state_keep_it_finite(load, pixels, workers):
    floor = load("floor").Floor(Ensemble([tiny("dfa", seed=s) for s in range(3)], pixels), workers)
    with threads(workers):
        found = floor.time(3)
        assert torch.get_num_threads() == workers
    assert found["floor_ms"] == pytest.approx(found["gemm_ms"] + found["state_ms"])
    assert found["gemm_ms"] == pytest.approx(sum(found["gemm_ms_by_kind"].values()))
    assert all(torch.isfinite(t).all() for state in floor.state for t in state)
