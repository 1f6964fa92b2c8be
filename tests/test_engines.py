"""Engines: the same records wherever ensembles train; workers that die, runs that fail, two schedulers on one store."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import victims
from conftest import HANG, tiny
from test_store import PROCESSES

from faeval_core import METHODS, Store, engines, run, runs
from faeval_core.costs import cost_flops
from faeval_core.engines import opened
from faeval_core.execution import threads
from faeval_core.runs import RunsFailed, plan
from faeval_core.training import Ensemble

pytestmark = pytest.mark.filterwarnings("ignore:run .* is being trained by another process")


@pytest.fixture(scope="module")
def configs():
    """Two ensembles, one of which starts from a run that nobody asked for."""
    net = tiny("bp", seed=5)
    return [tiny("dfa", seed=s) for s in (1, 2, 3)] + [tiny("fa", seed=s, upstream=net, upstream_epoch=1) for s in (1, 2)]


@pytest.fixture(scope="module")
def serial(configs, tmp_path_factory):
    """Their records, made here by one thread, as Dask's workers have."""
    with threads(1):
        return run(configs, Store(tmp_path_factory.mktemp("serial")), progress=False)


@pytest.mark.parametrize("engine", ["processes:2", "dask:2"])
def test_engines_agree(engine, configs, serial, store, monkeypatch):
    monkeypatch.setattr(engines, "_share_cores", victims.one_thread)  # where each process may have more than one core
    if engine.startswith("dask"):
        pytest.importorskip("distributed")
    with opened(engine) as (executor, workers):
        assert workers == 2
        found = run(configs, store, progress=False, executor=executor, workers=workers)
    assert [r.checksum for r in found] == [r.checksum for r in serial]


def test_a_killed_worker_costs_only_time(configs, serial, store, home):
    """Workers that die when a run has a checkpoint: what the pool cannot do any more goes on here."""
    with ProcessPoolExecutor(2, PROCESSES, victims.mortal_worker, (home,)) as pool, threads(1):
        with pytest.warns(UserWarning, match="workers of .* are gone"):
            found = run(configs, store, progress=False, executor=pool, workers=2)
    assert [r.checksum for r in found] == [r.checksum for r in serial]


SBATCH = """#!/bin/sh
cp "$1" "$1.copy"
here="$(dirname "$0")"
echo job >> "$here/jobs"
export JOB=$(wc -l < "$here/jobs")
setsid sh "$1.copy" > /dev/null 2>&1 &
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
kill -9 -- "-$1"
"""


def test_jobs_of_slurm_that_end_are_replaced(configs, serial, store, monkeypatch, tmp_path):
    """The first two jobs die when they begin to train, as at a wall time. Two scripts stand in for Slurm."""
    pytest.importorskip("dask_jobqueue")
    import dask

    for name, text in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYTHONPATH", str(Path(victims.__file__).parent), prepend=os.pathsep)
    one_core = {"cores": 1, "memory": "2GB", "processes": 1, "shared-temp-directory": str(tmp_path)}
    one_core |= {"worker-extra-args": ["--preload", "victims"]}
    settings = {f"jobqueue.slurm.{k}": v for k, v in one_core.items()} | {"distributed.deploy.lost-worker-timeout": "1s"}
    with dask.config.set(settings), opened("slurm:2") as (executor, workers):
        waiting = ThreadPoolExecutor(1).submit(run, configs, store, progress=False, executor=executor, workers=workers)
        found = waiting.result(timeout=HANG)
    assert len((tmp_path / "jobs").read_text(encoding="utf-8").splitlines()) > 2
    assert [r.checksum for r in found] == [r.checksum for r in serial]


def test_local_workers_have_the_gpu_that_each_ensemble_asks_for():
    pytest.importorskip("distributed")
    with opened("dask:1", gpu=True) as (executor, _):
        assert executor.submit(sum, (1, 2)).result(timeout=HANG) == 3


def test_the_environment_may_keep_to_the_cpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert str(runs.resolve_device()) == "cpu"  # as conftest asks
    monkeypatch.delenv("FAEVAL_DEVICE")
    assert str(runs.resolve_device()) == "cuda"


def test_an_interrupt_does_not_wait_for_what_is_queued(tmp_path):
    """The task waits for a file that is written, to end it, only where all hangs."""
    pytest.importorskip("distributed")
    rescued = tmp_path / "rescued"
    guard = threading.Timer(HANG, rescued.touch)
    guard.start()
    with pytest.raises(KeyboardInterrupt), opened("dask:1") as (executor, _):
        executor.submit(victims.wait_for, rescued)
        raise KeyboardInterrupt
    guard.cancel()
    assert not rescued.exists()


def test_slurm_leaves_the_interrupt_as_it_was(tmp_path):
    """Importing dask-jobqueue sets a handler of its own. Without its configuration file a cluster cannot open."""
    pytest.importorskip("dask_jobqueue")
    code = """
import signal
from faeval_core.engines import opened
before = signal.getsignal(signal.SIGINT)
try:
    with opened("slurm:1"):
        raise SystemExit("a cluster has opened")
except ValueError as e:
    assert "cores" in str(e), e
assert signal.getsignal(signal.SIGINT) is before
"""
    environment = os.environ | {"DASK_CONFIG": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


def test_a_run_that_fails_fails_alone(store, monkeypatch):
    """Its own siblings in the ensemble are trained, and the error names it."""
    monkeypatch.setitem(METHODS, "fragile", victims.Fragile)
    configs = [*(tiny("fragile", seed=s) for s in (1, victims.Fragile.unlucky, 3)), tiny("bp")]
    with ThreadPoolExecutor(2) as pool, pytest.raises(RunsFailed, match=f"1 runs failed.*{configs[1].id}.*not this seed"):
        run(configs, store, progress=False, executor=pool)
    assert [store.get(c) is not None for c in configs] == [True, False, True, True]


def test_the_progress_bar_counts_runs_as_they_end(configs, store, monkeypatch):
    counted = []

    class Bar(runs.tqdm):
        def update(self, n=1):
            if not self.disable:  # those of the ensembles are
                counted.append(n)

    monkeypatch.setattr(runs, "tqdm", Bar)
    with ThreadPoolExecutor(1) as pool:
        run(configs, store, executor=pool)
    assert sorted(counted) == [1, 2, 3]  # the run that two start from, these, the others


def test_two_schedulers_on_one_store_do_no_work_twice(store, configs, serial, monkeypatch):
    begun, real = [], Ensemble.run_epoch
    monkeypatch.setattr(Ensemble, "run_epoch", lambda self: begun.extend((c.id, self.epoch) for c in self.configs) or real(self))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda order: run(order, store, progress=False), (configs, configs[::-1])))
    assert len(begun) == len(set(begun)) == 2 * (len(configs) + 1)
    for records in (found[0], found[1][::-1]):
        assert [r.config for r in records] == [r.config for r in serial] and {r.status for r in records} == {"complete"}


def test_ensembles_are_packed_so_that_workers_finish_together(store):
    """No ensemble above a worker's share, the longest first; one worker gets them as large as they may be."""
    configs = [*(tiny("cb", seed=s) for s in range(4)), *(tiny("dfa", seed=s) for s in range(4))]
    wanted = dict.fromkeys(configs, ())
    assert [len(group) for group in plan(wanted, store, 12)] == [4, 4] and len(plan(wanted, store, 3)) == 4
    groups = plan(wanted, store, 12, workers=2)
    costs = [sum(map(cost_flops, group)) for group in groups]
    assert costs == sorted(costs, reverse=True) and sum(map(len, groups)) == 8
    assert max(costs) <= sum(costs) / 2 and groups[0][0].method == "cb"


@pytest.mark.parametrize(
    "name, told", [("procesess:2", "did you mean 'processes'"), ("processes", "processes:2"), ("dask:0", "dask:2")]
)
def test_a_wrong_engine_is_refused(name, told):
    with pytest.raises(ValueError, match=told), opened(name):
        pass
