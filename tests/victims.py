"""What the processes run that the tests kill. Imports little, since each of them is a fresh
process.
"""

import os
import signal
import sys
import time

import torch
from filelock import FileLock

from faeval_core import METHODS, Store, run
from faeval_core.ground.files import publish_json
from faeval_core.runs import worker
from faeval_core.runs.engines import Processes
from faeval_core.training import Ensemble

ON_FILES = "mkdir open write flush fsync __exit__ close replace rename unlink rmdir".split()
# seconds after which a test that waits for an event, which always comes, gives up
HANG = float(os.environ.get("FAEVAL_TEST_HANG", 600))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def publish_until(path, value, call):
    """Publish `value`; SIGKILL just before the `call`-th call that it makes on a file or folder, if
    there are so many.
    """
    calls = 0

    def count(frame, event, arg):
        nonlocal calls
        if event == "c_call" and arg.__name__ in ON_FILES:
            calls += 1
            if calls == call:
                die()

    sys.setprofile(count)
    publish_json(path, value)
    sys.setprofile(None)


def begin(home):
    """What a process of these tests needs to know: where the images are, and that every epoch
    leaves a checkpoint.
    """
    os.environ["FAEVAL_DATA"] = str(home)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    worker.CHECKPOINT_SECONDS = -1


def train(configs, root, home, die_before, count):
    """Train; SIGKILL just before the count-th 'step' or 'replace' (of a file)."""
    begin(home)
    owner, name = {"step": (Ensemble, "step"), "replace": (os, "replace")}[die_before]
    real, calls = getattr(owner, name), []

    def counted(*args):
        calls.append(args)
        if len(calls) == count:
            die()
        return real(*args)

    setattr(owner, name, counted)
    run(configs, Store(root), progress=False)


def race(configs, root, home, both, begun):
    """Train, asking for the first lock of a run when all racers do; append a line to the file
    `begun` for each epoch.
    """
    begin(home)
    epoch, lock, asked = Ensemble.run_epoch, Store.lock, []

    def noted(self):
        with open(begun, "a", encoding="utf-8") as f:
            f.write(f"{self.epoch} of {sorted(c.seed for c in self.configs)}\n")
        return epoch(self)

    def together(self, name, wait=True):
        if name != "datasets" and not asked:
            asked.append(name)
            both.wait()
        return lock(self, name, wait)

    Ensemble.run_epoch, Store.lock = noted, together
    run(configs, Store(root), progress=False)


def dask_setup(worker):
    """Loaded by a worker in a job of Slurm, whose number is $JOB: the first two die, with all their
    processes, in training.
    """
    if int(os.environ["JOB"]) <= 2:
        Ensemble.run_epoch = lambda self: os.killpg(0, signal.SIGKILL)


class Fragile(METHODS["dfa"]):
    """DFA that cannot train one of the seeds."""

    name, unlucky = "fragile", 2

    def init_state(self, cfg, generator):
        if cfg.seed == self.unlucky:
            raise ZeroDivisionError("not this seed")
        return super().init_state(cfg, generator)


def mortal_worker(home):
    """Start of a worker of one thread that dies before its second epoch, of which it leaves the
    checkpoint of the first.
    """
    begin(home)
    torch.set_num_threads(1)
    epoch = Ensemble.run_epoch
    Ensemble.run_epoch = lambda self: die() if self.epoch else epoch(self)


def wait_for(path):
    """Wait until a file exists."""
    while not path.exists():
        time.sleep(0.01)


def hold(lock):
    """Keep a lock, which the system takes back when this process ends, for longer than any test
    waits.
    """
    with FileLock(lock):
        time.sleep(2 * HANG)


def parent_of_one_that_holds(lock):
    """The life of a process whose worker is in the middle of a task."""
    Processes(1, 1).submit(hold, lock).result()


class Lethal(METHODS["dfa"]):
    """DFA that ends its process where it meets one of the seeds."""

    # far from the seeds that the preflight tries beside those of a test
    name, unlucky = "lethal", 20

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
