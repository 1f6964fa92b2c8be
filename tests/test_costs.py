"""What a run costs: operations counted in closed form, and seconds from what this machine did."""

import json
import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny

from faeval_core import METHODS, RunConfig, run
from faeval_core.models import MODELS
from faeval_core.runs import costs
from faeval_core.runs.costs import cost_flops, cost_seconds

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
STEPS, BATCH, D, DEPTH, CLASSES = 390, 128, 256, 4, 10  # of the audit's size
EMBED, BLOCK, HEAD = 3072 * D, 2 * D * D, D * CLASSES  # multiply-adds of a sample, forward


def epoch(multiply_adds):
    """Operations of an epoch of so many multiply-adds a sample."""
    return pytest.approx(STEPS * BATCH * 2 * multiply_adds)


def flops(method, **changes):
    return cost_flops(RunConfig(method, epochs=1, **changes))


def test_operations_of_a_run_in_closed_form():
    """Forward, by weights and by inputs (the embedding's input has no gradient), and what credit
    takes besides.
    """
    layers = 2 * EMBED + DEPTH * BLOCK * 3 + 3 * HEAD
    assert flops("bp") == epoch(layers)
    assert flops("dfa") == epoch(layers + (DEPTH + 1) * HEAD)
    assert cost_flops(RunConfig("dfa", epochs=7)) == pytest.approx(7 * flops("dfa"))


def test_every_direction_of_the_field_costs_its_way_to_the_top():
    """Two displaced copies of each level, through the blocks above it and the head."""
    each = 2 * (DEPTH * (DEPTH + 1) // 2 * BLOCK + (DEPTH + 1) * HEAD)
    options = {M: {"M": M} for M in (4, 8)}
    assert flops("vec", options=options[8]) - flops("vec", options=options[4]) == epoch(4 * each)
    half = RunConfig("vec", epochs=10, options={"freeze_after": 5})
    assert flops("vec") * 5 < cost_flops(half) < flops("vec") * 10


@pytest.mark.parametrize("model, depth", [("convnet", 3), ("vitmini", 4)])
def test_a_model_costs_its_own_multiply_adds(model, depth):
    """Convolutions and attention count at every position: by far more than their weights would on
    vectors.
    """
    cfg = RunConfig("bp", model=model, width=128, depth=depth, epochs=1)
    weights = sum(
        v.numel() for v in MODELS[model](cfg, (3, 32, 32), 10).init(torch.Generator()).values()
    )
    assert cost_flops(cfg) > STEPS * BATCH * 2 * 3 * 5 * weights


def test_fewer_and_other_images_cost_less():
    student = RunConfig(
        "dfa", "teacher-a1.0-L4", model="studentnet", width=128, epochs=1, augment=False
    )
    tenth = student.with_(dataset="teacher-a1.0-L4-small")
    # up to the last batch
    assert cost_flops(tenth) == pytest.approx(cost_flops(student) / 10, rel=0.05)
    digits = RunConfig("bp", "digits", width=32, depth=3, epochs=4, augment=False)
    layers = 2 * 64 * 32 + 3 * 2 * 32**2 * 3 + 3 * 320
    assert cost_flops(digits) == pytest.approx(4 * 11 * 128 * 2 * layers)


@pytest.mark.parametrize("name", METHODS)
def test_what_does_not_change_the_work_does_not_change_the_cost(name):
    cfg = RunConfig(name, epochs=3)
    assert (
        cost_flops(cfg) == cost_flops(cfg.with_(seed=7, lr=0.1, diagnose=(1,), labels="random")) > 0
    )


def test_seconds_follow_from_records_of_this_kind_of_machine(store, monkeypatch):
    """Records made on another CPU say nothing of this one; a thread's rate is what counts, and what
    is faster in a trial was not slowed by what ran beside it.
    """
    (record,) = run([tiny("dfa")], store, progress=False)
    monkeypatch.setattr(costs, "cpu_model", lambda: "this one")
    monkeypatch.setattr(costs, "_rate_of_products", lambda: 0.0)

    def made(cpu, seconds, threads):
        provenance = {"cpu": cpu, "seconds": seconds, "threads": threads}
        return SimpleNamespace(config=record.config, curves=record.curves, provenance=provenance)

    records = [made("this one", 20.0, 1), made("this one", 10.5, 2), made("another", 1000.0, 1)]
    rate = torch.get_num_threads() * cost_flops(record.config) / 20.5
    assert cost_seconds(record.config, records) == pytest.approx(
        cost_flops(record.config) / rate, rel=0.03
    )
    monkeypatch.setattr(costs, "_rate_of_products", lambda: 10 * rate)
    tried = 10 * rate / costs.OVERHEAD * torch.get_num_threads()
    assert costs.flops_per_second(records) == pytest.approx(tried)
    assert costs.flops_per_second([made("another", 1000.0, 1)]) == costs.flops_per_second()


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("results*.json")), ids=lambda p: p.stem)
def test_what_is_predicted_is_what_was_benchmarked(path):
    """Of every rule, on each machine whose figures are kept: from the rate of that machine's
    products, as the trial finds it, within a factor of 1.5 of the time that an epoch took. Rows
    during which a shared host gave less say nothing of that rate.
    """
    rows = json.loads(path.read_text(encoding="utf-8"))
    rows = [r for r in rows if r["members"] >= 3 and r["precision"] == "fp32" and "gemm_ms" in r]
    rows = [r for r in rows if "uncompiled" not in r["name"]]

    def operations(r):
        return cost_flops(RunConfig(r["method"], epochs=1))

    def rate(r):
        return operations(r) / STEPS * r["members"] / (r["gemm_ms"] / 1e3)

    usual = statistics.median(map(rate, rows))
    rows = [r for r in rows if rate(r) > 0.75 * usual]
    seconds = {r["name"]: operations(r) / (usual / costs.OVERHEAD) for r in rows}
    off = {r["name"]: seconds[r["name"]] / r["sec_per_run_epoch"] for r in rows}
    assert len(off) > 3 and all(1 / 1.5 < ratio < 1.5 for ratio in off.values()), off
