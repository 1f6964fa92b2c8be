"""Runs through the store: divergence, interruption, resumption, and runs that start from other
runs.
"""

import subprocess
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from conftest import SMALL, float64, tiny

import faeval_core
from faeval_core import RunConfig, Store, run
from faeval_core.runs import provenance, queue, worker
from faeval_core.runs.record import rounded
from faeval_core.training import DiagnosisFailed, Ensemble


@pytest.mark.numerical
def test_a_record_does_not_depend_on_company(tmp_path):
    """The whole record, curves and diagnostics included."""
    for method in ("bp", "fa"):
        configs = [tiny(method, seed=s) for s in (1, 2, 3)]
        together = run(configs, Store(tmp_path / "together"), progress=False)
        alone = [run([c], Store(tmp_path / "alone"), progress=False)[0] for c in configs]
        assert [r.checksum for r in together] == [r.checksum for r in alone]


@pytest.mark.parametrize("able, by", [(True, "oneDNN"), (False, "autocast")])
def test_a_record_tells_what_took_its_products(store, monkeypatch, able, by):
    monkeypatch.setattr("faeval_core.training.execution.onednn_rounds", lambda: able)
    full, half = run([tiny("dfa"), tiny("dfa", precision="bf16")], store, progress=False)
    assert (full.provenance["products"], half.provenance["products"]) == ("BLAS", by)
    assert able or half.curves["train_loss"] != full.curves["train_loss"]


def test_a_diverging_member_leaves_its_siblings_intact(tmp_path):
    """lr 1e38 overflows the weights in one step; credit of 1e30 overflows Adam's squares, which
    would stall unseen.
    """
    bad = [tiny("dfa", seed=7, lr=1e38), tiny("dfa", seed=8, options={"feedback_scale": 1e30})]
    good = [tiny("dfa", seed=s) for s in (1, 2)]
    mixed = run([good[0], bad[0], good[1], bad[1]], Store(tmp_path / "a"), progress=False)
    clean = run(good, Store(tmp_path / "b"), progress=False)
    assert [r.status for r in mixed] == ["complete", "diverged", "complete", "diverged"]
    assert [mixed[0].checksum, mixed[2].checksum] == [r.checksum for r in clean]
    # the first step is finite: its loss is taken before the first update
    for r in (mixed[1], mixed[3]):
        assert (
            r.fault["step"] >= 1 and r.fault["quantity"] and r.accuracy is None and r.final is None
        )
    assert mixed[1].fault == {"step": 1, "quantity": "train_loss"}
    assert mixed[3].fault["quantity"].startswith("optimizer state of")


@pytest.mark.parametrize(
    "method, changes", [("bp", {"lr": 1e38}), ("bp", {"optimizer": "sgd", "lr": 1e30})]
)
def test_a_run_that_diverges_alone_is_a_record_and_the_rest_goes_on(store, method, changes):
    found = run([tiny(method, **changes), tiny("frozen", epochs=1)], store, progress=False)
    assert [r.status for r in found] == ["diverged", "complete"]
    assert run([tiny(method, **changes)], store, train=False) == found[:1]


@pytest.mark.parametrize("method, optimizer", [("fa", "adamw"), ("fa", "sgd"), ("vec", "adamw")])
def test_an_interrupted_ensemble_continues_to_the_same_records(
    store, tmp_path, monkeypatch, method, optimizer
):
    """Of an auxiliary net, too, whose directions are compared from epoch to epoch."""
    common = {"epochs": 5, "diagnose": (0, 1, 4), "optimizer": optimizer, "lr": 0.01}
    configs = [tiny(method, seed=s, options=SMALL.get(method, {}), **common) for s in (1, 2)]
    whole = run(configs, Store(tmp_path / "whole"), progress=False)
    monkeypatch.setattr(worker, "CHECKPOINT_SECONDS", -1)
    real, begun = Ensemble.run_epoch, []

    def epoch(self, fail_at=None):
        begun.append(self.epoch)
        if self.epoch == fail_at:
            raise KeyboardInterrupt
        return real(self)

    for fail_at in (2, 4, None):
        monkeypatch.setattr(Ensemble, "run_epoch", lambda self, at=fail_at: epoch(self, at))
        if fail_at is None:
            found = run(configs, store, progress=False)
            continue
        with pytest.raises(KeyboardInterrupt):
            run(configs, store, progress=False)
    assert begun == [0, 1, 2, 2, 3, 4, 4]  # every epoch once, plus the two interrupted ones
    assert [r.checksum for r in found] == [r.checksum for r in whole]
    assert not any(store.checkpoint_path(c).exists() for c in configs)


def test_a_record_tells_the_code_and_the_machine_that_made_it(store, monkeypatch):
    commit = {"commit": "c0ffee", "clean": False}
    monkeypatch.setattr(provenance, "checkout", lambda: commit)
    provenance.made_by.cache_clear()
    try:
        (record,) = run([tiny("bp", epochs=1)], store, progress=False)
    finally:
        provenance.made_by.cache_clear()
    told = record.provenance
    assert (
        told["source"] == provenance.source_digest(provenance.LOADED)
        and told["package"] == faeval_core.__version__
    )
    assert (
        told["kernels"] == torch.backends.cpu.get_cpu_capability()
        and told["threads"] == torch.get_num_threads()
    )
    assert told["cpu"] and told["torch"] == torch.__version__ and told["numpy"] == np.__version__
    assert commit.items() <= told.items()
    bare = record.checksum
    record.provenance = {}
    assert record.checksum == bare


@pytest.mark.parametrize(
    "name, counts",
    [
        ("methods/fa.py", True),
        ("measure/diagnostics.py", True),
        ("training/new.py", True),
        ("runs/worker.py", True),
        ("runs/store.py", False),
        ("report/figures.py", False),
    ],
)
def test_the_source_that_is_told_is_that_of_the_numbers(name, counts):
    """Without comments and docstrings; what only checks, keeps, sends or shows does not count."""
    before = provenance.LOADED
    told = provenance.source_digest(before)
    commented = b'"""Another docstring."""  # and a comment\n\n'
    edited = before.get(name, b"") + b"\nx = 1\n"
    assert (provenance.source_digest({**before, name: edited}) != told) == counts
    if name in before:
        assert (
            provenance.source_digest(
                {**before, name: commented + before[name].partition(b'"""\n')[2]}
            )
            == told
            or not counts
        )


def test_the_commit_is_that_of_the_checkout_the_package_is_part_of(tmp_path, monkeypatch):
    """A package inside someone's repository without being part of it has no commit, nor has one
    whose files moved on.
    """

    def git(*command):
        named = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *command]
        return subprocess.run(named, check=True, capture_output=True, text=True).stdout.strip()

    package = tmp_path / "faeval_core"
    package.mkdir()
    (package / "__init__.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "ROOT", package)
    monkeypatch.setattr(provenance, "LOADED", provenance._read())
    nothing = {"commit": None, "clean": None}
    assert provenance.checkout() == nothing
    git("init")
    assert provenance.checkout() == nothing
    git("add", "."), git("commit", "-m", "one")
    commit = git("rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as in a hook
    assert provenance.checkout() == {"commit": commit, "clean": True}
    (tmp_path / "results.json").write_text("{}")  # what a run writes
    assert provenance.checkout()["clean"] is True
    (package / "new.py").write_text("")
    assert provenance.checkout() == nothing  # not what this process has loaded
    monkeypatch.setattr(provenance, "LOADED", provenance._read())
    assert provenance.checkout() == {"commit": commit, "clean": False}
    monkeypatch.setenv("PATH", "")
    assert provenance.checkout() == nothing


def test_checkpoints_of_different_epochs_are_never_mixed(store, tmp_path, monkeypatch):
    """A second process may publish or remove checkpoints between our plan and our reading of
    them.
    """
    configs = [tiny("dfa", epochs=4, seed=s) for s in (1, 2)]
    whole = run(configs, Store(tmp_path / "whole"), progress=False)
    monkeypatch.setattr(worker, "CHECKPOINT_SECONDS", -1)
    real = Ensemble.run_epoch

    def epoch(self):
        if self.epoch == 2:
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Ensemble, "run_epoch", epoch)
    with pytest.raises(KeyboardInterrupt):
        run(configs, store, progress=False)
    monkeypatch.setattr(Ensemble, "run_epoch", real)
    plan = queue.plan

    def plan_then_lose(*args):
        groups = plan(*args)
        store.checkpoint_path(configs[1]).unlink()
        return groups

    monkeypatch.setattr(queue, "plan", plan_then_lose)
    assert [r.checksum for r in run(configs, store, progress=False)] == [r.checksum for r in whole]


@pytest.mark.parametrize("at", [0, 2, 4])
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("of the rule"),
        torch.OutOfMemoryError("of the device"),
        MemoryError("of the host"),
        KeyboardInterrupt(),
        OSError(28, "No space left"),
    ],
)
def test_a_diagnosis_that_fails_costs_nothing_that_was_trained(
    store, tmp_path, monkeypatch, at, error
):
    """At the last epoch, as at any that is diagnosed: weights, curves and the diagnostics of the
    others are kept.
    """
    configs = [tiny("dfa", epochs=4, seed=s, diagnose=(0, 2)) for s in (1, 2)]
    whole = run(configs, Store(tmp_path / "whole"), progress=False)
    begun, real, diagnose = [], Ensemble.run_epoch, Ensemble.diagnose

    def diagnosed(self, m):
        if (self.epoch, self.configs[m].seed) == (at, 1) and not (store.root / "mended").exists():
            raise error
        return diagnose(self, m)

    monkeypatch.setattr(Ensemble, "run_epoch", lambda self: begun.append(self.epoch) or real(self))
    monkeypatch.setattr(Ensemble, "diagnose", diagnosed)
    for _ in range(2):  # and again without any more training
        if isinstance(error, KeyboardInterrupt):
            with pytest.raises(KeyboardInterrupt):
                run(configs, store, progress=False)
        else:
            with pytest.raises(
                DiagnosisFailed,
                match=f"run {configs[0].id} is trained up to epoch {at}, but .*kept",
            ) as told:
                run(configs, store, progress=False)
            assert told.value.__cause__ is error
    assert begun == list(range(at))
    (store.root / "mended").parent.mkdir(exist_ok=True)
    (store.root / "mended").touch()
    assert [r.checksum for r in run(configs, store, progress=False)] == [r.checksum for r in whole]
    assert begun == list(range(4)) and not any(store.checkpoint_path(c).exists() for c in configs)


def test_a_record_that_cannot_be_written_costs_nothing_that_was_trained(
    store, tmp_path, monkeypatch
):
    cfg, begun, real, put = tiny("dfa", epochs=3), [], Ensemble.run_epoch, Store.put
    [whole] = run([cfg], Store(tmp_path / "whole"), progress=False)
    monkeypatch.setattr(Ensemble, "run_epoch", lambda self: begun.append(self.epoch) or real(self))

    def full(self, record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "put", full)
    with pytest.raises(OSError, match="No space left"):
        run([cfg], store, progress=False)
    monkeypatch.setattr(Store, "put", put)
    assert run([cfg], store, progress=False)[0].checksum == whole.checksum and begun == [0, 1, 2]


def test_runs_are_refused_where_torch_makes_float64(store):
    """A record is of float32, and names nothing else."""
    with (
        float64(),
        pytest.raises(
            TypeError,
            match="float32, and torch's default type is torch.float64: torch.set_default_dtype",
        ),
    ):
        run([tiny("bp")], store, progress=False)
    assert not list(store.root.glob("records/*"))


# -- upstream


def test_a_run_starts_from_its_upstream_snapshot(pixels, store):
    """Weights of the upstream run after the named epoch, and all else as in a run of its own
    seed.
    """
    upstream = tiny("bp", epochs=4, seed=5)
    cfg = tiny("fa", seed=6, upstream=upstream, upstream_epoch=3)
    found = run([cfg], store, progress=False)[0]
    first = Ensemble([upstream], pixels)
    for _ in range(3):
        first.run_epoch()
    start = {k: v.clone() for k, v in first.member(0)[0].items()}
    ensemble = Ensemble([cfg], pixels, [start])
    assert all(torch.equal(ensemble.member(0)[0][k], v) for k, v in start.items())
    losses = [ensemble.run_epoch().mean().item() for _ in range(2)]
    assert found.curves["train_loss"] == rounded(losses)
    with pytest.raises(ValueError, match="no matching weights"):
        Ensemble([cfg.with_(width=8)], pixels, [start])


def test_a_missing_upstream_snapshot_is_never_replaced_by_a_fresh_init(store):
    """The upstream run diverges before the epoch that the second one starts from: there is nothing
    to start from.
    """
    for epochs in (2, 3):  # its end, or a part of it
        cfg = tiny("fa", upstream=tiny("bp", lr=1e38, epochs=epochs), upstream_epoch=2)
        with pytest.warns(UserWarning, match="upstream"):
            assert run([cfg], store, progress=False) == [None]
        assert store.get(cfg.upstream).status == "diverged"


def test_an_upstream_that_is_also_asked_for_trains_once(store, monkeypatch):
    begun, real = [], Ensemble.run_epoch
    monkeypatch.setattr(
        Ensemble, "run_epoch", lambda self: begun.append(self.configs[0].method) or real(self)
    )
    upstream = tiny("bp")
    found = run([tiny("fa", upstream=upstream, upstream_epoch=2), upstream], store, progress=False)
    assert begun == ["bp"] * 2 + ["fa"] * 2 and all(r.status == "complete" for r in found)
    begun.clear()
    net = tiny("bp", seed=7, epochs=4)
    # the net is needed near and, through this fit, far
    fit = tiny("sb", upstream=net, upstream_epoch=1, train_net=False)
    run(
        [tiny("fa", upstream=net, upstream_epoch=3), tiny("sb", upstream=fit, upstream_epoch=2)],
        store,
        progress=False,
    )
    # the net as far as its last snapshot
    assert begun == ["bp"] * 3 + ["sb"] * 2 + ["fa"] * 2 + ["sb"] * 2


@pytest.mark.parametrize("asked", [[1], [3, 1], [1, 3], [2, 4], [1, "itself"], [3, "itself", 1]])
def test_an_upstream_trains_as_far_as_its_snapshots_are_wanted_and_goes_on_from_there(
    store, tmp_path, monkeypatch, asked
):
    """Each epoch once, whatever is asked for in turn; its record is that of a run without a
    stop.
    """
    upstream, begun, real = tiny("bp", epochs=4, diagnose=(1,)), [], Ensemble.run_epoch

    def epoch(self):
        begun.extend([self.epoch] if self.configs == [upstream] else [])
        return real(self)

    monkeypatch.setattr(Ensemble, "run_epoch", epoch)
    furthest = 0
    for e in asked:
        cfg = upstream if e == "itself" else tiny("fa", upstream=upstream, upstream_epoch=e)
        again = e != "itself" and e < furthest and not store.snapshot_path(upstream, e).exists()
        begun = [] if again else begun  # for a snapshot that it has passed, it begins anew
        assert run([cfg], store, progress=False)[0].status == "complete"
        furthest = max(furthest, 4 if e == "itself" else e)
        assert begun == list(range(e if again else furthest))
        assert (store.get(upstream) is not None) == (furthest == 4)
    [found], [whole] = (
        run([upstream], s, progress=False) for s in (store, Store(tmp_path / "whole"))
    )
    assert found.checksum == whole.checksum


def test_a_run_in_which_nothing_learns_still_measures(store):
    still = tiny(
        "sb", upstream=tiny("bp"), upstream_epoch=2, train_net=False, options={"freeze_after": 0}
    )
    (record,) = run([still], store, progress=False)
    assert record.status == "complete" and len(record.final["gamma"]) == record.config.depth + 1


def test_an_upstream_run_is_of_the_same_images():
    with pytest.raises(ValueError, match="upstream.*digits|digits.*upstream"):
        RunConfig(
            "fa", dataset="blobs", upstream=RunConfig("bp", dataset="digits"), upstream_epoch=1
        )


@pytest.mark.parametrize(
    "slowdown, epochs, refused", [(10.0, 100, True), (0.6, 100, False), (10.0, 1, False)]
)
def test_a_long_run_in_bfloat16_is_refused_where_float32_is_faster(
    monkeypatch, slowdown, epochs, refused
):
    """Before anything trains, with the way out; a short one may be slow."""
    monkeypatch.setattr(worker, "onednn_rounds", lambda: False)
    monkeypatch.setattr(worker, "bf16_slowdown", lambda: slowdown)
    c = RunConfig("dfa", precision="bf16", epochs=epochs)
    expected = pytest.raises(ValueError, match=f"{c.id}.*'bf16'.* 10.0 times.*use precision='fp32'")
    with expected if refused else nullcontext():
        worker.check_precision([c.with_(precision="fp32"), c], torch.device("cpu"))
    worker.check_precision([c], torch.device("cuda"))
