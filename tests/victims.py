"""What the processes run that the tests kill. Imports little, since each of them is a fresh process."""

import os
import signal
import time

import torch
from filelock import FileLock

from faeval_core import METHODS, Store, run, runs
from faeval_core.engines import Processes
from faeval_core.files import publish_json


def publish_for_ever(path):
    for i in range(10**9):
        publish_json(path, {"i": i, "body": [i] * 20_000})


def train(configs, root, home, pause=0.0, die_before=None, count=0):
    """Train with a checkpoint after each epoch; SIGKILL just before the count-th 'step' or 'replace' (of a file)."""
    os.environ["FAEVAL_DATA"] = str(home)
    torch.set_num_threads(1)
    runs.CHECKPOINT_SECONDS = -1
    owner, name = {"step": (runs.Ensemble, "step"), "replace": (os, "replace"), None: (time, "sleep")}[die_before]
    real, calls = getattr(owner, name), []

    def counted(*args):
        calls.append(args)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    setattr(owner, name, counted)
    epoch = runs.Ensemble.run_epoch
    runs.Ensemble.run_epoch = lambda self: (time.sleep(pause), epoch(self))[1]
    run(configs, Store(root), progress=False)


class Fragile(METHODS["dfa"]):
    """DFA that cannot train one of the seeds."""

    name, unlucky = "fragile", 2

    def init_state(self, cfg, generator):
        if cfg.seed == self.unlucky:
            raise ZeroDivisionError("not this seed")
        return super().init_state(cfg, generator)


def slow_worker(home):
    """Start of a worker whose epochs take their time, with a checkpoint after each."""
    os.environ["FAEVAL_DATA"] = str(home)
    torch.set_num_threads(1)
    runs.CHECKPOINT_SECONDS = -1
    epoch = runs.Ensemble.run_epoch
    runs.Ensemble.run_epoch = lambda self: (time.sleep(0.2), epoch(self))[1]


def hold(lock):
    """Keep a lock, which the system takes back when this process ends, for longer than any test waits."""
    with FileLock(lock):
        time.sleep(40)


def parent_of_one_that_holds(lock):
    """The life of a process whose worker is in the middle of a task."""
    Processes(1, 1).submit(hold, lock).result()


class Lethal(METHODS["dfa"]):
    """DFA that ends its process where it meets one of the seeds."""

    name, unlucky = "lethal", 2

    def init_state(self, cfg, generator):
        if cfg.seed == self.unlucky:
            self.end()
        return super().init_state(cfg, generator)

    def end(self):
        os._exit(7)


class Segfault(Lethal):
    name = "segfault"

    def end(self):
        os.kill(os.getpid(), signal.SIGSEGV)
