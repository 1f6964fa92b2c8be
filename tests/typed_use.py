"""The public names as a user's type checker sees them: `make lint` runs mypy on this file."""

from collections.abc import Callable
from typing import assert_type

import torch

from faeval_core import (
    METHODS,
    LocalMethod,
    Method,
    RunConfig,
    RunRecord,
    Store,
    register,
    register_model,
    run,
)
from faeval_core.data import Dataset, load, register_arrays, register_images
from faeval_core.measure.stats import Estimate, mean
from faeval_core.models import Model
from faeval_core.runs.costs import cost_flops, cost_seconds


class Exact(LocalMethod):
    """A rule as a user writes it."""

    name = "exact"

    def credit(self, p, s, hs, logits, y):
        return [self.exact_credit(p, hs, y, level) for level in range(len(hs))]


def use(model: type[Model], table: torch.Tensor, labels: torch.Tensor) -> None:
    """Called by nobody."""
    assert_type(METHODS["dfa"], type[Method])
    register(Exact)
    register_model("mine", model)
    cfg = RunConfig("exact", dataset="digits", width=32, options={"scale": 1.0})
    assert_type(cfg.with_(seed=1), RunConfig)
    assert_type(cfg.id, str)
    assert_type(cfg.to_dict(), dict)
    assert_type(run([cfg], Store("results")), list[RunRecord | None])
    record = Store("results").get(cfg)
    if record is not None:
        assert_type(record.accuracy, float | None)
        assert_type(record.curves, dict)
    assert_type(load("digits"), Dataset)
    assert_type(register_arrays("mine", table, labels, table, labels), Dataset)
    assert_type(register_images("mine", "folder"), Dataset)
    assert_type(cost_flops(cfg), float)
    assert_type(cost_seconds(cfg), float)
    assert_type(mean([0.1, 0.2]), Estimate | None)


called: Callable = use
