"""Members of a loop side by side, on a thread each."""

from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from itertools import islice
from queue import Empty, PriorityQueue

import torch

from .execution import threads


def side_by_side(act, batches, workers: int) -> torch.Tensor:
    """act(m, x, y) for each batch (x, y) of each member; what it returned, (steps, member).

    batches: a list with an iterator for each member, of as many as the others'; it is left with
    none. There are `workers` threads. One that is free takes the next step of the member that is
    furthest behind, so that all end together, however many members there are.
    """
    returned, waiting = [[] for _ in batches], PriorityQueue()
    for m in range(len(batches)):
        waiting.put((0, m))

    def work():
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        with suppress(Empty):
            while True:
                done, m = waiting.get_nowait()
                for x, y in islice(batches[m], 1):
                    returned[m].append(act(m, x[0], y[0]))
                    waiting.put((done + 1, m))

    with threads(1), ThreadPoolExecutor(workers) as pool:
        try:
            for worker in as_completed([pool.submit(work) for _ in range(workers)]):
                worker.result()
        finally:
            # where one has failed, else the others would go on to the epoch's end
            batches[:] = [iter(())] * len(batches)
    return torch.stack([torch.stack(steps) for steps in returned], 1)
