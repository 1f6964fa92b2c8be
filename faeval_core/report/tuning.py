"""Learning rates of several rules, each tuned on training images held out for that, with the same
effort, and with seeds that are not reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ..config import RunConfig
from ..data import VALIDATION
from . import study

SEEDS = (7, 77)


@dataclass(frozen=True)
class Tuning:
    """What each learning rate gave: `scores[arm][lr]` is the accuracy on held-out training images
    of each seed, None where the run diverged; `chosen[arm]` the best by their mean.
    """

    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    scores: dict[str, dict[float, list[float | None]]]
    chosen: dict[str, float | None]

    @property
    def notes(self) -> list[str]:
        """Arms whose best rate is at an end of the grid, or that diverged at all of them."""
        if len(self.rates) < 2:
            return []
        ends = {min(self.rates): "lowest", max(self.rates): "highest"}
        at_end = {arm: lr for arm, lr in self.chosen.items() if lr in ends}
        out = [
            f"{arm} does best at the {ends[lr]} learning rate tried, {lr:g}: widen the grid."
            for arm, lr in at_end.items()
        ]
        gone = [arm for arm, lr in self.chosen.items() if lr is None]
        return out + [f"{arm} diverged at every learning rate tried." for arm in gone]


def check_rates(lr) -> tuple[float, ...]:
    """Learning rates, each of them once; ValueError for anything else."""
    rates = tuple(lr) if isinstance(lr, (list, tuple)) else (lr,)
    are_numbers = all(isinstance(rate, (int, float)) for rate in rates)
    if not rates or not are_numbers or len(set(rates)) < len(rates):
        raise ValueError(f"lr must be one learning rate or several, each of them once, not {lr!r}")
    return rates


def check_seeds(seeds, reported) -> tuple[int, ...]:
    """ValueError where a seed would both choose a learning rate and be reported at it."""
    if shared := sorted({*seeds} & {*reported}):
        told = f"seeds {shared} would choose the learning rate and be reported at it"
        raise ValueError(f"{told}; give tuning_seeds of their own")
    return tuple(seeds)


def tune(kept: study.Study, arms: dict[str, RunConfig], rates, seeds) -> Tuning:
    """Train each arm's config at every rate and seed on its dataset's training images but a fifth,
    and score it on that.
    """
    asked = {
        (arm, f"{lr:g}"): study.seeds(cfg, seeds, lr=lr, dataset=cfg.dataset + VALIDATION)
        for arm, cfg in arms.items()
        for lr in rates
    }
    found = kept.run(asked)
    scores = {
        arm: {lr: [r.accuracy for r in found[arm, f"{lr:g}"]] for lr in rates} for arm in arms
    }
    return Tuning(tuple(rates), tuple(seeds), scores, {k: best(v) for k, v in scores.items()})


def best(scores: dict[float, Sequence[float | None]]) -> float | None:
    """The rate of the best mean, of those at which no seed diverged; the lower one of two alike."""
    means = {lr: fmean(found) for lr, found in scores.items() if found and None not in found}
    return max(sorted(means), key=means.__getitem__, default=None)
