"""What is left to train of a list of runs, in which order and in which ensembles."""

import warnings

from ..config import RunConfig
from .costs import cost_flops


def upstream_waves(configs, store) -> list[dict]:
    """Waves of upstream config -> epochs whose snapshots are missing; each wave starts from what
    those before it give.
    """
    needs = {}
    for c in configs:
        if c.upstream is not None and not store.has_tensors(start_path(c, store)):
            needs.setdefault(c.upstream, set()).add(c.upstream_epoch)
    earlier = upstream_waves(list(needs), store) if needs else []
    for wave in earlier:
        # what a nearer run needs of it too is made in the same training
        for c in wave.keys() & needs.keys():
            wave[c] |= needs.pop(c)
    return [*earlier, needs] if needs else earlier


def start_path(c, store):
    """Path of the snapshot that a run starts from."""
    return store.snapshot_path(c.upstream, c.upstream_epoch)


def can_start(c, store) -> bool:
    """Whether the snapshot that a run starts from is there; its upstream run may have diverged
    before that epoch.
    """
    if c.upstream is None or store.has_tensors(start_path(c, store)):
        return True
    warnings.warn(
        f"run {c.id} is left out: its upstream {c.upstream.id} has no epoch {c.upstream_epoch}",
        stacklevel=4,
    )
    return False


def is_lacking(c, epochs, store) -> bool:
    """Whether a run has yet to be trained, for the snapshots after `epochs` or, where its end is
    wanted, for its record.

    No `epochs` stand for the record alone.
    """
    if (not epochs or c.epochs in epochs) and not store.has(c):
        return True
    return any(
        store.load_tensors(store.snapshot_path(c, e), only_meta=True) is None for e in epochs
    )


def plan(wanted, store, most, workers=1) -> list[list[RunConfig]]:
    """Ensembles: runs of one signature that stand at the same epoch and of which the same snapshots
    are wanted.

    wanted: config -> epochs of snapshots. At most `most` runs together; for several workers, no
    ensemble is larger than a worker's share, and the longest come first, so that all finish at
    about the same time.
    """
    groups = {}
    for c, epochs in wanted.items():
        kept = store.load_tensors(store.checkpoint_path(c), only_meta=True)
        groups.setdefault(
            (c.signature, kept[1]["epoch"] if kept else 0, epochs, not store.has(c)), []
        ).append(c)
    costs = {c: cost_flops(c) for c in wanted}
    share = sum(costs.values()) / workers
    sizes = {
        key: most if workers == 1 else max(1, min(most, int(share / costs[group[0]])))
        for key, group in groups.items()
    }
    found = [
        group[i : i + sizes[key]]
        for key, group in sorted(groups.items())
        for i in range(0, len(group), sizes[key])
    ]
    return found if workers == 1 else sorted(found, key=lambda group: -sum(costs[c] for c in group))
