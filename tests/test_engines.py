"""Engines: the same records wherever ensembles train; workers that die, runs that fail, two
schedulers on one store.
"""

import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import victims
from conftest import tiny
from filelock import FileLock, Timeout
from test_store import PROCESSES
from victims import HANG

from faeval_core import METHODS, Store, run
from faeval_core.runs import RunsFailed, engines, queue
from faeval_core.runs.costs import cost_flops
from faeval_core.runs.engines import opened
from faeval_core.runs.plan import plan
from faeval_core.runs.processes import Processes, WorkerDied
from faeval_core.training import Ensemble
from faeval_core.training.device import resolve_device
from faeval_core.training.execution import threads

pytestmark = [
    pytest.mark.filterwarnings("ignore:run .* is being trained by another process"),
    pytest.mark.filterwarnings("ignore:engine .* has no worker yet"),
]


@pytest.fixture(scope="module")
def configs():
    """Two ensembles, one of which starts from a run that nobody asked for."""
    net = tiny("bp", seed=5)
    return [tiny("dfa", seed=s) for s in (1, 2, 3)] + [
        tiny("fa", seed=s, upstream=net, upstream_epoch=1) for s in (1, 2)
    ]


@pytest.fixture(scope="module")
def serial(configs, tmp_path_factory):
    """Their records, made here by one thread, as Dask's workers have."""
    with threads(1):
        return run(configs, Store(tmp_path_factory.mktemp("serial")), progress=False)


@pytest.mark.parametrize("engine", ["processes:2", "dask:2"])
def test_engines_agree(engine, configs, serial, store, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # so that each of two processes has one thread
    if engine.startswith("dask"):
        pytest.importorskip("distributed")
    with opened(engine) as (executor, workers):
        assert workers == 2
        found = run(configs, store, progress=False, executor=executor, workers=workers)
    assert [r.checksum for r in found] == [r.checksum for r in serial]


def test_a_killed_worker_costs_only_time(configs, serial, store, home):
    """Workers that die when a run has a checkpoint: what the pool cannot do any more goes on
    here.
    """
    with ProcessPoolExecutor(2, PROCESSES, victims.mortal_worker, (home,)) as pool, threads(1):
        with pytest.warns(UserWarning, match="workers of .* are gone"):
            found = run(configs, store, progress=False, executor=pool, workers=2)
    assert [r.checksum for r in found] == [r.checksum for r in serial]


@pytest.fixture
def forked(monkeypatch):
    """Workers that are forked from a server which has imported everything, rather than started from
    nothing.
    """
    monkeypatch.setattr(Processes, "context", PROCESSES)


def is_free(lock):
    try:
        with FileLock(lock, timeout=0):
            return True
    except Timeout:
        return False


def wait_until_held(lock):
    while is_free(lock):
        time.sleep(0.01)


def test_workers_end_with_their_parent(tmp_path, forked):
    """The parent is killed by SIGKILL in the middle of a worker's task; the worker's lock is free
    as soon as it is gone.
    """
    lock = tmp_path / "lock"
    parent = PROCESSES.Process(target=victims.parent_of_one_that_holds, args=(lock,))
    parent.start()
    wait_until_held(lock)
    parent.kill()
    FileLock(lock).acquire(timeout=HANG)


def test_an_interrupt_ends_workers_and_drops_what_is_queued(tmp_path, forked):
    locks = [tmp_path / name for name in "abc"]
    with pytest.raises(KeyboardInterrupt), opened("processes:1") as (executor, _):
        futures = [executor.submit(victims.hold, lock) for lock in locks]
        wait_until_held(locks[0])
        raise KeyboardInterrupt
    FileLock(locks[0]).acquire(timeout=0)
    assert isinstance(futures[0].exception(timeout=0), WorkerDied)
    assert (
        futures[1].cancelled()
        and futures[2].cancelled()
        and not locks[1].exists()
        and not locks[2].exists()
    )


@pytest.mark.parametrize(
    "method, told", [(victims.Lethal, "with exit code 7"), (victims.Segfault, "on signal SIGSEGV")]
)
def test_a_run_that_ends_its_process_fails_alone(store, forked, monkeypatch, method, told):
    """Its siblings in the ensemble and all others are trained, none of them in this process."""
    monkeypatch.setitem(METHODS, method.name, method)
    configs = [*(tiny(method.name, seed=s) for s in (1, method.unlucky)), tiny("bp")]
    with (
        opened("processes:2") as (executor, workers),
        pytest.warns(UserWarning, match="tried once more, alone"),
    ):
        with pytest.raises(
            RunsFailed, match=f"1 runs failed.*{configs[1].id}.*its process ended {told}"
        ):
            run(configs, store, progress=False, executor=executor, workers=workers)
    assert [store.get(c) is not None for c in configs] == [True, False, True]


def test_a_broken_pool_does_not_bring_its_runs_here(store, forked, monkeypatch):
    """A pool of the standard library breaks as a whole. What ends a process must not get this
    one.
    """
    monkeypatch.setitem(METHODS, "lethal", victims.Lethal)
    configs = [tiny("lethal", seed=victims.Lethal.unlucky), tiny("bp")]
    with (
        ProcessPoolExecutor(1, PROCESSES) as pool,
        pytest.warns(UserWarning, match="workers of .* are gone"),
    ):
        with pytest.raises(RunsFailed, match="1 runs failed.*its process ended with exit code 7"):
            run(configs, store, progress=False, executor=pool, workers=2)
    assert store.get(configs[1]) is not None


def raise_one_that_cannot_be_sent():
    class Local(Exception):
        pass

    raise Local("of a class that no other process knows")


@pytest.mark.parametrize(
    "task, error",
    [((divmod, 1, 0), ZeroDivisionError), ((raise_one_that_cannot_be_sent,), RuntimeError)],
)
def test_what_a_task_raises_reaches_the_caller_and_the_worker_goes_on(forked, task, error):
    with opened("processes:1") as (executor, _):
        with pytest.raises(error) as found:
            executor.submit(*task).result()
        pid = executor.submit(os.getpid).result()
        with pytest.raises(AttributeError):  # does not even leave this process
            executor.submit(lambda: 0).result()
        assert executor.submit(os.getpid).result() == pid != os.getpid()
    told = found.value.__notes__[0] if error is ZeroDivisionError else str(found.value)
    assert (
        "Traceback" in told if error is ZeroDivisionError else told.startswith("Local: of a class")
    )


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


def stand_in(folder, monkeypatch, sbatch, scancel="#!/bin/sh\n"):
    """Two scripts in place of Slurm's, found first, with the least of a configuration."""
    import dask

    for name, text in (("sbatch", sbatch), ("scancel", scancel)):
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    one_core = {"cores": 1, "memory": "2GB", "processes": 1, "shared-temp-directory": str(folder)}
    return dask.config.set({f"jobqueue.slurm.{k}": v for k, v in one_core.items()})


SUBMITTED = "#!/bin/sh\necho Submitted batch job 7\n"


def test_nobody_without_the_certificate_reaches_what_dask_opens(tmp_path, monkeypatch):
    """Neither in plain text nor with a certificate of one's own; and no port serves a page. Slurm's
    jobs never start here.
    """
    pytest.importorskip("dask_jobqueue")
    psutil = pytest.importorskip("psutil")
    from distributed.security import Security

    monkeypatch.setattr(engines, "_wait", lambda *_: None)
    folder = tmp_path / """it's a "shared" folder"""  # a name that a shell must not read
    folder.mkdir()
    for name in ("dask:1", "slurm:1"):
        with stand_in(folder, monkeypatch, SUBMITTED), opened(name) as (executor, _):
            address = executor._client.scheduler.address
            assert address.startswith("tls://")
            if name == "slurm:1":
                (private,) = folder.glob(".faeval-slurm-*")
                assert [p.stat().st_mode & 0o777 for p in (private, *private.iterdir())] == [
                    0o700,
                    0o600,
                    0o600,
                ]
            own = Security.temporary().get_connection_args("client")["ssl_context"]
            assert is_refused(address, None) and is_refused(address, own)
            here = psutil.Process()
            listening = {
                c.laddr
                for p in (here, *here.children(recursive=True))
                for c in p.net_connections("tcp")
                if c.status == "LISTEN"
            }
            open_to_all = {a.port for a in listening if a.ip not in ("127.0.0.1", "::1")}
            assert open_to_all <= (
                {int(address.rpartition(":")[2])} if name == "slurm:1" else set()
            )
            assert not any(
                b" 200 " in reply(a.port, page)
                for a in listening
                for page in ("/status", "/info/main/workers.html")
            )
    assert not list(folder.glob(".faeval-slurm-*"))


TLS_ALERT = b"\x15"  # the first byte of a record that says why a connection ends


def is_refused(address, context):
    """Whether a scheduler hangs up, and tells no more than why, on who speaks in plain text (no
    context) or with a certificate of one's own.
    """
    host, _, port = address.removeprefix("tls://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=HANG) as s:
            if context is None:
                s.sendall(b"\0" * 64)
                told = s.recv(100)
                return told == b"" or told.startswith(TLS_ALERT)
            with context.wrap_socket(s) as wrapped:
                return wrapped.recv(100) == b""
    except (ssl.SSLError, ConnectionError):
        return True


def reply(port, page):
    """The first line of what a port of this machine answers to a request of a page."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=HANG) as s:
            s.sendall(f"GET {page} HTTP/1.0\r\n\r\n".encode())
            return s.recv(100).split(b"\r\n")[0]
    except OSError:
        return b""


@pytest.mark.parametrize(
    "sbatch, error, told",
    [
        (None, ValueError, "needs Slurm, whose command sbatch is not here"),
        (
            "#!/bin/sh\necho Invalid account >&2; exit 1\n",
            OSError,
            ("could not be submitted(?s:.*)Invalid account"),
        ),
        (SUBMITTED, TimeoutError, "no worker yet after 0.2 seconds; set FAEVAL_WAIT"),
    ],
)
def test_slurm_that_gives_no_worker_says_so(tmp_path, monkeypatch, sbatch, error, told):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setenv("FAEVAL_WAIT", "0.2" if sbatch == SUBMITTED else "60")
    with stand_in(tmp_path, monkeypatch, sbatch or ""):
        if sbatch is None:
            monkeypatch.setenv("PATH", "")
        with pytest.raises(error, match=told), opened("slurm:1"):
            pass


def test_a_scheduler_that_gives_no_worker_says_so(monkeypatch):
    pytest.importorskip("distributed")
    from distributed import LocalCluster

    monkeypatch.setenv("FAEVAL_WAIT", "0.2")
    with LocalCluster(n_workers=0, dashboard_address=None, host="127.0.0.1") as cluster:
        with (
            pytest.raises(TimeoutError, match="no worker yet after 0.2 seconds"),
            opened(f"dask:{cluster.scheduler_address}"),
        ):
            pass


def test_jobs_of_slurm_that_end_are_replaced(configs, serial, store, monkeypatch, tmp_path):
    """The first two jobs die when they begin to train, as at a wall time. Two scripts stand in for
    Slurm.
    """
    pytest.importorskip("dask_jobqueue")
    import dask

    tmp_path = tmp_path / """it's "here" """.strip()
    tmp_path.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(Path(victims.__file__).parent), prepend=os.pathsep)
    lost = {
        "distributed.deploy.lost-worker-timeout": "1s",
        "jobqueue.slurm.worker-extra-args": ["--preload", "victims"],
    }
    with (
        stand_in(tmp_path, monkeypatch, SBATCH, SCANCEL),
        dask.config.set(lost),
        opened("slurm:2") as (executor, workers),
    ):
        waiting = ThreadPoolExecutor(1).submit(
            run, configs, store, progress=False, executor=executor, workers=workers
        )
        found = waiting.result(timeout=HANG)
    assert len((tmp_path / "jobs").read_text(encoding="utf-8").splitlines()) > 2
    assert [r.checksum for r in found] == [r.checksum for r in serial]


def test_local_workers_have_the_gpu_that_each_ensemble_asks_for():
    pytest.importorskip("distributed")
    with opened("dask:1", gpu=True) as (executor, _):
        assert executor.submit(sum, (1, 2)).result(timeout=HANG) == 3


def test_the_environment_may_keep_to_the_cpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert str(resolve_device()) == "cpu"  # as conftest asks
    monkeypatch.delenv("FAEVAL_DEVICE")
    assert str(resolve_device()) == "cuda"


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
    """Importing dask-jobqueue sets a handler of its own. Without its configuration file a cluster
    cannot open.
    """
    pytest.importorskip("dask_jobqueue")
    code = """
import signal
from faeval_core.runs.engines import opened
before = signal.getsignal(signal.SIGINT)
try:
    with opened("slurm:1"):
        raise SystemExit("a cluster has opened")
except ValueError as e:
    assert "cores" in str(e), e
assert signal.getsignal(signal.SIGINT) is before
"""
    (tmp_path / "sbatch").write_text("")
    (tmp_path / "sbatch").chmod(0o755)
    environment = os.environ | {"DASK_CONFIG": str(tmp_path), "HOME": str(tmp_path)}
    environment["PATH"] = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr


def test_a_run_that_fails_fails_alone(store, monkeypatch):
    """Its own siblings in the ensemble are trained, and the error names it."""
    monkeypatch.setitem(METHODS, "fragile", victims.Fragile)
    configs = [*(tiny("fragile", seed=s) for s in (1, victims.Fragile.unlucky, 3)), tiny("bp")]
    with (
        ThreadPoolExecutor(2) as pool,
        pytest.raises(RunsFailed, match=f"1 runs failed.*{configs[1].id}.*not this seed"),
    ):
        run(configs, store, progress=False, executor=pool)
    assert [store.get(c) is not None for c in configs] == [True, False, True, True]


def test_the_progress_bar_counts_runs_as_they_end(configs, store, monkeypatch):
    counted = []

    class Bar(queue.tqdm):
        def update(self, n=1):
            if not self.disable:  # those of the ensembles are
                counted.append(n)

    monkeypatch.setattr(queue, "tqdm", Bar)
    with ThreadPoolExecutor(1) as pool:
        run(configs, store, executor=pool)
    assert sorted(counted) == [1, 2, 3]  # the run that two start from, these, the others


def test_two_schedulers_on_one_store_do_no_work_twice(store, configs, serial, monkeypatch):
    begun, real = [], Ensemble.run_epoch
    monkeypatch.setattr(
        Ensemble,
        "run_epoch",
        lambda self: begun.extend((c.id, self.epoch) for c in self.configs) or real(self),
    )
    with ThreadPoolExecutor(2) as pool:
        found = list(
            pool.map(lambda order: run(order, store, progress=False), (configs, configs[::-1]))
        )
    upstream = 1  # the run that two start from is trained as far as they want it
    assert len(begun) == len(set(begun)) == 2 * len(configs) + upstream
    for records in (found[0], found[1][::-1]):
        assert [r.config for r in records] == [r.config for r in serial] and {
            r.status for r in records
        } == {"complete"}


def test_ensembles_are_packed_so_that_workers_finish_together(store):
    """No ensemble above a worker's share, the longest first; one worker gets them as large as they
    may be.
    """
    configs = [*(tiny("cb", seed=s) for s in range(4)), *(tiny("dfa", seed=s) for s in range(4))]
    wanted = dict.fromkeys(configs, ())
    assert [len(group) for group in plan(wanted, store, 12)] == [4, 4] and len(
        plan(wanted, store, 3)
    ) == 4
    groups = plan(wanted, store, 12, workers=2)
    costs = [sum(map(cost_flops, group)) for group in groups]
    assert costs == sorted(costs, reverse=True) and sum(map(len, groups)) == 8
    assert max(costs) <= sum(costs) / 2 and groups[0][0].method == "cb"


@pytest.mark.parametrize(
    "name, told",
    [
        ("procesess:2", "did you mean 'processes'"),
        ("processes", "processes:2"),
        ("dask:0", "dask:2"),
    ],
)
def test_a_wrong_engine_is_refused(name, told):
    with pytest.raises(ValueError, match=told), opened(name):
        pass
