"""Where ensembles train: executors with the interface of concurrent.futures, by name."""

import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager

import torch

from .config import check_known

ENGINES = {
    "serial": "in this process",
    "processes:N": "N processes on this machine, which share its cores",
    "dask:N": "Dask with N local workers of one thread",
    "dask:ADDRESS": "the workers of a Dask scheduler that runs already",
    "slurm:N": "N jobs as dask-jobqueue's own configuration file describes them",
}


def _share_cores(workers):
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


@contextmanager
def opened(name: str, gpu=False):
    """(executor, number of workers) of an engine for `runs.run`: `with opened("processes:2") as (executor, workers)`.

    gpu: ask Dask for the resource GPU=1 for each ensemble (workers started with `--resources GPU=1`).
    """
    kind, _, where = name.partition(":")
    check_known("engine", [kind], {e.partition(":")[0] for e in ENGINES}, f"; forms: {', '.join(ENGINES)}")
    local, count = kind == "processes" or where.isdigit(), int(where) if where.isdigit() else 0
    if kind == "serial":
        yield None, 1
        return
    if (local or kind == "slurm") and not count:
        raise ValueError(f"engine {name!r} needs its number of workers: {kind}:2")
    needs = {"resources": {"GPU": 1}} if gpu else {}
    with ExitStack() as stack:
        if kind == "processes":
            context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
            yield stack.enter_context(ProcessPoolExecutor(count, context, _share_cores, (count,))), count
            return
        try:
            from distributed import Client, LocalCluster

            if kind == "slurm":
                handler = signal.getsignal(signal.SIGINT)
                from dask_jobqueue import SLURMCluster

                signal.signal(signal.SIGINT, handler)  # for which that import sets a silent exit with code 0
        except ModuleNotFoundError as e:
            raise ValueError(f"engine {name!r} needs {e.name}: pip install distributed dask-jobqueue") from e
        if kind == "slurm":
            where = stack.enter_context(SLURMCluster())
            where.adapt(minimum_jobs=count, maximum_jobs=count)  # unlike scale, it replaces a job that has reached its wall time
        elif local:
            where = stack.enter_context(LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None, **needs))
        client = stack.enter_context(Client(where))
        client.wait_for_workers(1)
        count = count or len(client.scheduler_info(n_workers=-1)["workers"])  # jobs of a queue have yet to start
        executor = client.get_executor(pure=False, **needs)
        stack.callback(executor.shutdown, wait=False)  # after Ctrl-C, do not wait for what is still in a queue
        yield executor, count
