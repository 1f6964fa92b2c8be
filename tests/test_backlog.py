"""The backlog: which run comes next, and that all of them come."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import pytest
from conftest import tiny

from faeval_core import METHODS, runs
from faeval_core.__main__ import main
from faeval_core.runs import backlog, costs


def listed(store, notebook, labelled):
    """Let a notebook list runs: (label, config) of each."""
    rows = [{"id": c.id, "label": label, "config": c.to_dict()} for label, c in labelled]
    path = store.root / "studies" / f"{notebook}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"notebook": notebook, "runs": rows}), encoding="utf-8")


def order(store, *notebooks):
    found, known = backlog.lacking(store, notebooks or None)
    return [item.config for item in backlog.by_value(found, known, store)]


def test_first_seeds_come_before_second_ones_and_cheap_runs_before_dear_ones(store):
    cheap = [tiny("dfa", seed=s) for s in (1, 2, 3)]
    dear = [c.with_(epochs=5 * c.epochs) for c in cheap]
    listed(store, "01_x", [*(("dear", c) for c in dear), *(("cheap", c) for c in cheap)])
    # a fifth of the cost makes five seeds of the cheap setting worth one of the dear one's
    assert order(store) == [*cheap, *dear]
    runs.run(cheap[:1], store, progress=False)
    assert order(store) == [*cheap[1:], *dear]
    nearly = [c.with_(epochs=c.epochs + 1) for c in cheap]
    listed(store, "01_x", [*(("a", c) for c in cheap), *(("b", c) for c in nearly)])
    assert order(store) == [nearly[0], cheap[1], nearly[1], cheap[2], nearly[2]]


def test_a_run_of_two_settings_is_worth_both(store):
    one, both = tiny("dfa", seed=1), tiny("dfa", seed=2)
    listed(store, "01_x", [("a", one), ("b = c", both)])
    assert order(store) == [both, one]
    listed(store, "02_y", [("d", one), ("e", one)])
    assert order(store) == [one, both] and order(store, "01_x") == [both, one]


def test_what_starts_from_another_run_brings_its_cost_once(store):
    start = tiny("dfa", epochs=4)
    branches = [start.with_(upstream=start, upstream_epoch=4, epochs=n) for n in (4, 6)]
    plain = start.with_(epochs=7, seed=9)  # dearer than a branch, cheaper than that and its start
    listed(store, "01_x", [("a", branches[0]), ("b", plain), ("c", branches[1])])
    assert order(store) == [plain, *branches]
    plainer = plain.with_(epochs=9)
    listed(store, "01_x", [("a", branches[0]), ("b", plainer), ("c", branches[1])])
    assert order(store) == [*branches, plainer]


@pytest.mark.filterwarnings("ignore:runs of methods")
def test_it_trains_what_is_listed_and_goes_on_past_a_failure(store, monkeypatch, capsys):
    class Failing(METHODS["dfa"]):
        name = "failing"

        def credit(self, p, s, hs, logits, y):
            if len(y) > costs.TRACED:
                raise OSError("no credit today")
            return super().credit(p, s, hs, logits, y)

    monkeypatch.setitem(METHODS, "failing", Failing)
    configs = [tiny(m, epochs=1) for m in ("dfa", "failing", "fa")]
    gone = tiny("dfa").to_dict() | {"method": "of_somebody_else"}
    listed(store, "01_x", [(c.method, c) for c in configs])
    path = store.root / "studies" / "01_x.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["runs"].append({"id": "of_somebody_else-0", "label": "theirs", "config": gone})
    path.write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(backlog, "SLICE", 1)
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(backlog, "opened", lambda *_, **__: nullcontext((pool, 1)))
        with pytest.warns(UserWarning, match="the others go on"):
            with pytest.raises(runs.RunsFailed, match="no credit today"):
                backlog.train(store)
    assert [store.has(c) for c in configs] == [True, False, True]
    assert capsys.readouterr().out.count("hours left; next:") == 3
    listed(store, "01_x", [(c.method, c) for c in configs if c.method != "failing"])
    assert backlog.train(store) == 0 and "every listed run" in capsys.readouterr().out


def test_it_keeps_to_the_hours_that_are_given(store, monkeypatch):
    """By the prediction: of two runs of an hour, one fits into an hour and a half."""
    configs = [tiny("dfa", seed=s, epochs=1) for s in (1, 2)]
    listed(store, "01_x", [(c.method, c) for c in configs])
    hourly = costs.cost_flops(configs[0]) / 3600
    monkeypatch.setattr(costs, "flops_per_second", lambda records=(): hourly)
    assert backlog.train(store, engine="serial", hours=1.5) == 1
    assert [store.has(c) for c in configs] == [True, False]


def test_the_command_names_what_is_left(store, capsys):
    config = tiny("dfa", epochs=1)
    listed(store, "01_x", [("a", config)])
    results = ["--results", str(store.root)]
    assert main(["backlog", *results, "--hours", "0"]) == 1 and not store.has(config)
    assert main(["backlog", *results, "--study", "02_y"]) == 2
    assert "02_y" in capsys.readouterr().err
    assert main(["backlog", *results, "--engine", "serial"]) == 0 and store.has(config)
