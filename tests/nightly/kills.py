"""Kill training at random moments, many times, and compare every record with that of an
uninterrupted run.

    python tests/nightly/kills.py                    1000 kills
    python tests/nightly/kills.py --kills 50         fewer
    python tests/nightly/kills.py --seconds 180      as many as fit

Each round takes an empty store and one to three processes that train the same few runs into it, all
rules in turn, a run that starts from another's snapshot and one that diverges among them. Each
process is killed by SIGKILL at a random moment and replaced, until a last one is let to the end; in
every fourth round some are not killed but may write no file above a random size, as on a full disk.
Then the store must hold the records of an uninterrupted run, bit for bit, and nothing else but
whole files. Exits 1 where anything differs.
"""

import argparse
import os
import random
import resource
import signal
import sys
import tempfile
import time
import warnings
from multiprocessing import connection
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import torch
import victims
from test_store import PROCESSES

from faeval_core import METHODS, RunConfig, Store, run
from faeval_core.ground.checks import check_known

# What is imported before the processes are forked is not what the kills hit.
PROCESSES.set_forkserver_preload(["faeval_core", "torch._dynamo", "sklearn.datasets"])
RULES = ("bp", "frozen", "dfa", "fa", "kp", "signsym", "ep", "sb", "cb", "vec", "local")
SIZE = {"dataset": "digits", "width": 8, "depth": 2, "epochs": 3, "augment": False}


def cases() -> list[list[RunConfig]]:
    """Runs of one round: two seeds of a rule, one that starts from another run, one that
    diverges.
    """
    check_known("method", RULES, METHODS)
    found = []
    for rule in RULES:
        pair = [RunConfig(rule, seed=s, **SIZE) for s in (1, 2)]
        later = RunConfig(
            "fa", seed=3, upstream=RunConfig("bp", seed=4, **SIZE), upstream_epoch=2, **SIZE
        )
        diverging = RunConfig("bp", seed=5, lr=1e30, optimizer="sgd", **SIZE)
        found.append([*pair, later, diverging])
    return found


def trainer(configs, root, home, limit):
    """A process that trains with a checkpoint after each epoch; `limit` bytes are the most that it
    can write into one file.
    """
    warnings.simplefilter("ignore")
    if limit:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # for the traceback that is due
        # so that a write fails with EFBIG, as it does with ENOSPC
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    victims.begin(home)
    run(configs, Store(root), progress=False)


def one_round(draw, configs, root, home, full) -> tuple[int, int]:
    """(kills, processes that ended on the full disk) of one round, at whose end the store has all
    records.
    """
    kills = stopped = 0
    racers = draw.randint(1, 3)
    for _ in range(draw.randint(2, 5)):
        limits = [draw.choice([0, draw.randint(100, 20_000)]) if full else 0 for _ in range(racers)]
        arguments = [(draw.sample(configs, len(configs)), root, home, limit) for limit in limits]
        processes = [PROCESSES.Process(target=trainer, args=a) for a in arguments]
        for process in processes:
            process.start()
        waits = [draw.expovariate(1 / draw.choice([0.05, 0.3, 1.0])) for _ in processes]
        began = time.monotonic()
        for wait, process, (*_, limit) in sorted(
            zip(waits, processes, arguments), key=lambda row: row[0]
        ):
            if not limit:  # on a full disk it ends by itself
                connection.wait([process.sentinel], timeout=max(0, began + wait - time.monotonic()))
                process.kill()
        for process in processes:
            process.join()
            kills += process.exitcode == -signal.SIGKILL
            stopped += process.exitcode > 0
    last = PROCESSES.Process(target=trainer, args=(configs, root, home, 0))
    last.start()
    last.join()
    if last.exitcode != 0:
        raise SystemExit(f"the last process, which nobody killed, ended with {last.exitcode}")
    return kills, stopped


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--kills", type=int, default=1000)
    p.add_argument(
        "--seconds",
        type=float,
        default=float("inf"),
        help="stop after a round that ends later than this",
    )
    p.add_argument("--seed", type=int, default=int(time.time()))
    args = p.parse_args()
    draw, began, kills, stopped, rounds, wrong = (
        random.Random(args.seed),
        time.monotonic(),
        0,
        0,
        0,
        [],
    )
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder, "data")
        os.environ["FAEVAL_DATA"] = str(home)
        wanted = {}
        while kills < args.kills and time.monotonic() - began < args.seconds:
            configs = cases()[rounds % len(RULES)]
            if configs[0].id not in wanted:
                wanted |= {
                    r.config.id: r.checksum
                    for r in run(configs, Store(Path(folder, "whole")), progress=False)
                }
            store = Store(Path(folder, f"round-{rounds}"))
            killed, full = one_round(draw, configs, store.root, home, full=rounds % 4 == 3)
            kills, stopped, rounds = kills + killed, stopped + full, rounds + 1
            for c in configs:
                record = store.get(c)
                if record is None or record.checksum != wanted[c.id]:
                    wrong.append(
                        f"round {rounds}: {c.id} {'is missing' if record is None else 'differs'}"
                    )
            wrong += [f"round {rounds}: {f.name} is left" for f in store.root.rglob("*.lock")]
            print(
                (
                    f"round {rounds}: {configs[0].method}, {kills} kills, {stopped} on a full "
                    f"disk, {len(wrong)} wrong"
                ),
                flush=True,
            )
    told = (
        f"seed {args.seed}: {kills} kills in {rounds} rounds, {stopped} processes ended on "
        "a full disk"
    )
    print(told, *(wrong or ["all records as uninterrupted"]), sep="; ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
