"""Worker processes of this machine, as an executor."""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing import resource_tracker

import torch
from tqdm import tqdm

from ..training.execution import own_process


class WorkerDied(BrokenExecutor):
    """A worker process ended in the middle of a task."""


class Processes(Executor):
    """`count` processes of this machine, of `threads` threads each.

    One that ends in the middle of a task fails that task alone, with WorkerDied, and is replaced.
    All end at once with this process, however that ends, and with `stop`.
    """

    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads

    def __init__(self, count: int, threads: int):
        self.threads, self.open, self.workers = threads, True, set()
        self.lock, self.own = threading.Lock(), threading.local()  # own.worker: that of a thread
        self.pool = ThreadPoolExecutor(count, initializer=_without_ctrl_c)

    def submit(self, fn, /, *args, **kwargs):
        return self.pool.submit(self._run, fn, args, kwargs)

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.pool.shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            self.stop()

    def stop(self):
        """End all workers, whatever they do, and cancel what is queued."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        with self.lock:
            self.open = False
            for process in self.workers:
                process.kill()
        self.pool.shutdown()

    def _start(self):
        here, there = multiprocessing.Pipe()
        process = self.context.Process(target=_serve, args=(there, self.threads), daemon=True)
        with self.lock:
            if not self.open:
                raise WorkerDied("the engine was closed")
            process.start()
            self.workers.add(process)
        there.close()
        return process, here

    def _run(self, fn, args, kwargs):
        """One task in this thread's worker."""
        task = pickle.dumps((fn, args, kwargs))
        if getattr(self.own, "worker", None) is None:
            self.own.worker = self._start()
        process, pipe = self.own.worker
        try:
            pipe.send_bytes(task)
            while not pipe.poll(1):  # what a worker has started may hold its end open after it
                if not process.is_alive():
                    raise EOFError
            answer = pipe.recv_bytes()
        except (EOFError, OSError) as e:
            self.own.worker = None
            process.join()
            with self.lock:
                self.workers.discard(process)
            raise WorkerDied(f"its process ended {_ending(process.exitcode)}") from e
        value, error = pickle.loads(answer)
        if error is not None:
            raise error
        return value


def _ending(code: int) -> str:
    if code >= 0:
        return f"with exit code {code}"
    told = f"on signal {signal.Signals(-code).name}"
    return f"{told}, as where memory runs out" if -code == signal.SIGKILL else told


def _without_ctrl_c():
    """Let processes that this thread starts ignore Ctrl-C, which a terminal sends to all; the
    parent decides.
    """
    if hasattr(signal, "pthread_sigmask"):
        # which the first process would start, and then unblock the signal
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _serve(pipe, threads):
    """Life of a worker: tasks from the pipe, one after another, until its parent closes the pipe or
    ends.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    own_process()
    # its own is a semaphore, which a worker that is killed leaves behind
    tqdm.set_lock(threading.RLock())
    with suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(_answer(pipe.recv_bytes()))


def _end_with_parent():
    multiprocessing.parent_process().join()
    os._exit(1)


def _answer(task: bytes) -> bytes:
    """(value, exception) of a task; what cannot be sent as it is goes as text."""
    try:
        fn, args, kwargs = pickle.loads(task)
        return pickle.dumps((fn(*args, **kwargs), None))
    except Exception as e:
        # of which an exception loses the rest on its way
        e.add_note("".join(traceback.format_exception(e)))
        try:
            answer = pickle.dumps((None, e))
            pickle.loads(answer)
            return answer
        except Exception:
            return pickle.dumps((None, RuntimeError(f"{type(e).__name__}: {e}")))
