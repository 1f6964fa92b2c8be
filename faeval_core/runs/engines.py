"""Where ensembles train: executors with the interface of concurrent.futures, by name.

Who can reach what: `serial` and `processes:N` open no port. Schedulers and workers that `dask:N`
and `slurm:N` open speak TLS
alone, and only with those who show the certificate that this run has made for itself: its own
processes, and those who read the owner's files. `dask:N` listens on the loopback interface,
`slurm:N` on those that its jobs come by. No dashboard is opened unless the configuration of
dask-jobqueue asks for one. A scheduler that runs already (`dask:ADDRESS`) is as its owner opened
it: without TLS, whoever reaches its port runs code as the owner.
"""

import copy
import logging
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
import warnings
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..ground import environment
from ..ground.checks import check_known
from ..ground.extras import way_out
from .processes import Processes

ENGINES = {
    "serial": "in this process",
    "processes:N": "N processes on this machine, which share its cores",
    "dask:N": "Dask with N local workers of one thread",
    "dask:ADDRESS": "the workers of a Dask scheduler that runs already",
    "slurm:N": "N jobs as dask-jobqueue's own configuration file describes them",
}
# seconds for a first worker, unless $FAEVAL_WAIT says otherwise
WAIT = {"dask": 600, "slurm": 86400}


def lost(error) -> bool:
    """Whether an exception says that the worker of a task is gone, rather than what the task itself
    raised.
    """
    killed = (
        type(error).__module__.startswith("distributed") and type(error).__name__ == "KilledWorker"
    )
    return killed or isinstance(error, BrokenExecutor)


def _secured(folder=None):
    """A Security of a fresh certificate, without which nobody connects; in files of `folder` where
    it is given.
    """
    from distributed.security import Security

    try:
        made = Security.temporary()
    except ImportError as e:
        raise ValueError(
            f"this engine needs cryptography, for its certificate: {way_out('cryptography')}"
        ) from e
    if folder is None:
        return made
    paths = {}
    for name, text in (("cert", made.tls_scheduler_cert), ("key", made.tls_scheduler_key)):
        paths[name] = Path(folder, f"{name}.pem")
        with open(
            os.open(paths[name], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8"
        ) as f:
            f.write(text)
    roles = {
        f"tls_{role}_{name}": str(p)
        for role in ("client", "scheduler", "worker")
        for name, p in paths.items()
    }
    return Security(require_encryption=True, tls_ca_file=str(paths["cert"]), **roles)


def _local(stack, count, needs):
    """A cluster on the loopback interface."""
    import dask
    from distributed import LocalCluster

    stack.enter_context(dask.config.set(QUIET))
    pages = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
    shape = {
        "n_workers": count,
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "silence_logs": logging.ERROR,
    }
    cluster = LocalCluster(**shape, protocol="tls://", security=_secured(), **pages, **needs)
    return stack.enter_context(cluster)


def _slurm(stack, count):
    """A cluster of Slurm's jobs."""
    import dask

    handler = signal.getsignal(signal.SIGINT)
    from dask_jobqueue import SLURMCluster
    from dask_jobqueue.slurm import SLURMJob
    from distributed.deploy.spec import ProcessInterface

    signal.signal(signal.SIGINT, handler)  # for which that import sets a silent exit with code 0

    class Job(SLURMJob):
        refused = []  # what is told of jobs before there is a first worker, for `_wait`

        def __init__(self, *args, security=None, **kwargs):
            security = copy.copy(security)
            # words of a shell script
            for name in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):
                setattr(security, name, shlex.quote(getattr(security, name)))
            super().__init__(*args, security=security, **kwargs)

        async def start(self):
            try:
                await super().start()
            except Exception as e:
                if Job.refused is None:  # Dask logs it, and tries again
                    raise
                # as text, since Dask counts jobs by what still refers to them
                Job.refused.append(str(e))
                await ProcessInterface.start(self)

    told = dask.config.get("jobqueue.slurm")
    shared = told.get("shared-temp-directory")
    shared = os.path.expandvars(os.path.expanduser(shared)) if shared else os.getcwd()
    # of mode 0700
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".faeval-slurm-", dir=shared))
    options = told.get("scheduler-options") or {}
    if "dashboard_address" not in options:
        stack.enter_context(dask.config.set(QUIET))
        options = options | {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    security = _secured(folder)
    cluster = SLURMCluster(
        job_cls=Job,
        security=security,
        protocol="tls://",
        scheduler_options=options | {"security": security, "protocol": "tls://"},
        worker_extra_args=[
            "--no-dashboard",
            "--dashboard-address",
            "127.0.0.1:0",
            *(told.get("worker-extra-args") or ()),
        ],
        python=told.get("python") or shlex.quote(sys.executable),
    )
    stack.enter_context(cluster)
    # unlike scale, it replaces a job that has reached its wall time
    cluster.adapt(minimum_jobs=count, maximum_jobs=count)
    return cluster


# No pages are served, though Dask listens for requests of them, here on the loopback interface.
QUIET = {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}


def _wait(client, name, seconds, refused=()):
    """Wait for a first worker. Raises OSError where the queue refuses a job, TimeoutError after
    `seconds`.
    """
    until, told = time.monotonic() + seconds, False
    what = f"engine {name!r} has no worker yet"
    while True:
        with suppress(TimeoutError):
            client.wait_for_workers(1, timeout=min(1, max(0.01, until - time.monotonic())))
            return
        if refused:
            raise OSError(f"engine {name!r}: a job could not be submitted: {refused[0]}")
        if time.monotonic() >= until:
            raise TimeoutError(f"{what} after {seconds:g} seconds; set FAEVAL_WAIT to wait longer")
        if not told:
            warnings.warn(
                f"{what}; waiting for one, for {seconds:g} seconds at most (FAEVAL_WAIT)",
                stacklevel=4,
            )
            told = True


@contextmanager
def opened(name: str, gpu=False):
    """(executor, number of workers) of an engine for `runs.run`: `with opened("processes:2") as
    (executor, workers)`.

    gpu: ask Dask for the resource GPU=1 for each ensemble (workers started with `--resources
    GPU=1`). Raises ValueError for an engine that is not known or lacks what it needs, OSError where
    none of its workers comes.
    """
    kind, _, where = name.partition(":")
    check_known(
        "engine", [kind], {e.partition(":")[0] for e in ENGINES}, f"; forms: {', '.join(ENGINES)}"
    )
    local, count = kind == "processes" or where.isdigit(), int(where) if where.isdigit() else 0
    if kind == "serial":
        yield None, 1
        return
    if (local or kind == "slurm") and not count:
        raise ValueError(f"engine {name!r} needs its number of workers: {kind}:2")
    if kind == "processes":
        executor = Processes(count, max(1, (os.cpu_count() or 1) // count))
        try:
            yield executor, count
        finally:
            executor.stop()
        return
    with ExitStack() as stack:
        yield _dask(stack, name, kind, where, count, {"resources": {"GPU": 1}} if gpu else {})


def _dask(stack, name, kind, where, count, needs):
    """(executor, number of workers) of a Dask scheduler, ours or another's, in `stack`."""
    try:
        import dask
        from distributed import Client
    except ModuleNotFoundError as e:
        raise ValueError(f"engine {name!r} needs {e.name}: {way_out(e.name)}") from e
    seconds = environment.waiting(WAIT[kind])
    stack.enter_context(
        dask.config.set({"distributed.scheduler.no-workers-timeout": f"{max(1, seconds)}s"})
    )
    if kind == "slurm":
        if not shutil.which("sbatch"):
            raise ValueError(
                f"engine {name!r} needs Slurm, whose command sbatch is not here; give it on a "
                "host of the cluster"
            )
        try:
            where = _slurm(stack, count)
        except ModuleNotFoundError as e:
            raise ValueError(f"engine {name!r} needs {e.name}: {way_out(e.name)}") from e
    elif count:
        where = _local(stack, count, needs)
    client = stack.enter_context(Client(where))
    _wait(client, name, seconds, where.job_cls.refused if kind == "slurm" else ())
    if kind == "slurm":
        where.job_cls.refused = None
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if needs and not any(w.get("resources", {}).get("GPU") for w in workers):
        hint = "start them with --resources GPU=1, or use --device cpu"
        raise ValueError(f"no worker of engine {name!r} has a GPU to give; {hint}")
    executor = client.get_executor(pure=False, **needs)
    # after Ctrl-C, do not wait for what is still in a queue
    stack.callback(executor.shutdown, wait=False)
    return executor, count or len(workers)  # jobs of a queue have yet to start
