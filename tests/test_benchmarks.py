"""The benchmark: its rows agree with each other, and its floor counts the products that a step really does."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny
from torch.utils.flop_counter import FlopCounterMode

from faeval_core import data
from faeval_core.training import Ensemble

HERE = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield importlib.import_module
    for name in ("bench", "floor"):
        sys.modules.pop(name, None)


def test_a_quick_benchmark_writes_rows_that_agree(load, tmp_path):
    bench = load("bench")
    rows = bench.main(["--quick", "--device", "cpu", "--out", str(tmp_path / "results.json")])
    written = json.loads((tmp_path / "results.json").read_text())
    assert [tuple(r)[:10] for r in written] == [bench.KEYS] * 2
    assert [r["name"] for r in written] == ["plain dfa", "faeval dfa x3"]
    plain, ours = rows
    for row in rows:
        numbers = {k: row[k] for k in ("sec_per_run_epoch", "peak_mb", "step_ms", "eval_s")}
        assert all(v > 0 for v in numbers.values()), numbers
        assert row["machine"] and row["precision"] == "fp32" and row["method"] == "dfa"
    assert all(plain[k] is None for k in ("ratio_plain", "ratio_serial", "ratio_floor"))
    assert ours["ratio_plain"] == pytest.approx(plain["sec_per_run_epoch"] / ours["sec_per_run_epoch"])
    assert ours["ratio_serial"] == pytest.approx(ours["serial_s"] / ours["sec_per_run_epoch"])
    assert ours["ratio_floor"] == pytest.approx(ours["step_ms"] / ours["floor_ms"])
    assert ours["floor_ms"] == pytest.approx(ours["gemm_ms"] + ours["state_ms"], rel=0.2)  # each a median of its own
    steps = bench.QUICK["images"] // bench.QUICK["batch"]
    epoch = steps * (ours["step_ms"] + ours["augment_ms"]) / 1e3 + ours["draws_s"] + ours["eval_s"]
    assert ours["sec_per_run_epoch"] == pytest.approx(epoch / 3, rel=0.2)


@pytest.mark.parametrize("method", ["bp", "frozen", "dfa", "fa"])
def test_the_floor_counts_the_products_of_a_step(load, blobs, method):
    pixels = data.Pixels(data.load("blobs"))
    cfg = tiny(method)
    ensemble = Ensemble([cfg, cfg.with_(seed=2)], pixels)
    x, y = next(ensemble.batches())
    floor = load("floor").Floor(method, 2, 10, features=192, width=cfg.width, depth=cfg.depth, batch=cfg.batch_size, classes=4)
    with FlopCounterMode(display=False) as done:
        ensemble.step(x, y)
    with FlopCounterMode(display=False) as counted:
        for calls, _, _ in floor.groups:
            for _, call in calls:
                call()
    recomputed = 2 * 2 * (2 * cfg.batch_size * cfg.width * 4) if method == "fa" else 0  # FA's exact credit repeats the head
    assert counted.get_total_flops() == done.get_total_flops() - recomputed


def test_the_passes_over_the_state_keep_it_finite(load):
    floor = load("floor").Floor("dfa", 1, 500, features=20, width=8, depth=2, batch=4, classes=3)
    found = floor.time(3)
    assert found["floor_ms"] == pytest.approx(found["gemm_ms"] + found["state_ms"])
    assert found["gemm_ms"] == pytest.approx(sum(found["gemm_ms_by_kind"].values()))
    calls, copy, inplace = floor.groups[0]
    assert all(torch.isfinite(t).all() for t in (*copy(), *inplace()))
