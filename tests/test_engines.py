"""Engines: the same records wherever ensembles train; workers that die, runs that fail, two schedulers on one store."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

import pytest
import victims
from conftest import tiny
from test_store import PROCESSES

from faeval_core import METHODS, Store, run
from faeval_core.engines import opened
from faeval_core.runs import RunsFailed, cost_seconds, plan
from faeval_core.training import Ensemble

pytestmark = pytest.mark.filterwarnings("ignore:run .* is being trained by another process")


@pytest.fixture(scope="module")
def configs():
    """Two ensembles, one of which starts from a run that nobody asked for."""
    net = tiny("bp", seed=5)
    return [tiny("dfa", seed=s) for s in (1, 2, 3)] + [tiny("fa", seed=s, upstream=net, upstream_epoch=1) for s in (1, 2)]


@pytest.fixture(scope="module")
def serial(configs, tmp_path_factory):
    return run(configs, Store(tmp_path_factory.mktemp("serial")), progress=False)


@pytest.mark.parametrize("engine", ["processes:2", "dask:2"])
def test_engines_agree(engine, configs, serial, store):
    if engine.startswith("dask"):
        pytest.importorskip("distributed")
    with opened(engine) as (executor, workers):
        assert workers == 2
        found = run(configs, store, progress=False, executor=executor, workers=workers)
    for a, b in zip(found, serial):
        assert a.config == b.config and a.status == "complete"
        assert a.curves["train_loss"] == pytest.approx(b.curves["train_loss"], rel=1e-4)
        assert a.final["gamma"] == pytest.approx(b.final["gamma"], abs=1e-3)


def test_a_killed_worker_costs_only_time(configs, serial, store, home):
    """SIGKILL as soon as a run has a checkpoint: what the pool cannot do any more goes on here."""
    with ProcessPoolExecutor(2, PROCESSES, victims.slow_worker, (home,)) as pool:

        def kill():
            while not list(store.root.glob("checkpoints/dfa-*.safetensors")):
                time.sleep(0.005)
            for pid in list(pool._processes):
                os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.warns(UserWarning, match="workers of .* are gone"):
            found = run(configs, store, progress=False, executor=pool, workers=2)
        killer.join()
    assert [r.checksum for r in found] == [r.checksum for r in serial]


def test_jobs_of_a_queue_that_end_are_replaced(configs, serial, store, monkeypatch, tmp_path):
    """Both jobs are killed when a run has begun, as at a wall time; dask-jobqueue's local queue stands in for Slurm."""
    jobqueue = pytest.importorskip("dask_jobqueue")
    import dask
    import psutil
    from dask_jobqueue.local import LocalCluster

    options = {"scheduler_options": {"dashboard_address": ":0"}, "shared_temp_directory": str(tmp_path)}
    monkeypatch.setattr(jobqueue, "SLURMCluster", partial(LocalCluster, cores=1, memory="2GB", processes=1, **options))
    killed = []

    def kill():
        while not list(store.root.glob("checkpoints/*.lock")):
            time.sleep(0.01)
        for child in psutil.Process().children(recursive=True):
            if "dask" in " ".join(child.cmdline()):
                killed.append(child.pid)
                child.kill()

    killer = threading.Thread(target=kill)
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"}), opened("slurm:2") as (executor, workers):
        killer.start()
        waiting = ThreadPoolExecutor(1).submit(run, configs, store, progress=False, executor=executor, workers=workers)
        found = waiting.result(timeout=60)
        killer.join()
    assert killed and [r.checksum for r in found] == [r.checksum for r in serial]


def test_an_interrupt_does_not_wait_for_what_is_queued():
    pytest.importorskip("distributed")
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), opened("dask:1") as (executor, _):
        executor.submit(time.sleep, 90)
        raise KeyboardInterrupt
    assert time.monotonic() - begun < 60


def test_slurm_leaves_the_interrupt_as_it_was(tmp_path):
    """Importing dask-jobqueue sets a handler of its own. Without its configuration file a cluster cannot open."""
    pytest.importorskip("dask_jobqueue")
    code = """
import signal
from faeval_core.engines import opened
try:
    with opened("slurm:1"):
        raise SystemExit("a cluster has opened")
except ValueError as e:
    assert "cores" in str(e), e
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
"""
    environment = os.environ | {"DASK_CONFIG": str(tmp_path), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, preexec_fn=restore_interrupt)


def restore_interrupt():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it


def test_a_run_that_fails_fails_alone(store, monkeypatch):
    """Its own siblings in the ensemble are trained, and the error names it."""
    monkeypatch.setitem(METHODS, "fragile", victims.Fragile)
    configs = [*(tiny("fragile", seed=s) for s in (1, victims.Fragile.unlucky, 3)), tiny("bp")]
    with ThreadPoolExecutor(2) as pool, pytest.raises(RunsFailed, match=f"1 runs failed.*{configs[1].id}.*not this seed"):
        run(configs, store, progress=False, executor=pool)
    assert [store.get(c) is not None for c in configs] == [True, False, True, True]


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
    costs = [sum(cost_seconds(c, ()) for c in group) for group in groups]
    assert costs == sorted(costs, reverse=True) and sum(map(len, groups)) == 8
    assert max(costs) <= sum(costs) / 2 and groups[0][0].method == "cb"


@pytest.mark.parametrize(
    "name, told", [("procesess:2", "did you mean 'processes'"), ("processes", "processes:2"), ("dask:0", "dask:2")]
)
def test_a_wrong_engine_is_refused(name, told):
    with pytest.raises(ValueError, match=told), opened(name):
        pass
