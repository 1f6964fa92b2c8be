"""Whether a run is the same alone and between others."""

from ..methods.shared import RuleError
from ..training import Ensemble
from .changes import moved
from .steps import STEPS


def check_company(configs, pixels) -> None:
    """A few steps alone, and between two other runs of the same signature: the same, to the bit."""
    if pixels.device.type != "cpu":
        return  # where kernels may round otherwise from one tensor to the next
    cfg = configs[0]
    try:
        others = [*configs[1:3], *(cfg.with_(seed=cfg.seed + i, lr=2 * cfg.lr) for i in (1, 2))][:2]
        company = Ensemble([others[0], cfg, others[1]], pixels, driver="loop")
        company.run_epoch(STEPS)
    except Exception:
        return  # the fault of another run, which will tell when it trains
    alone = Ensemble([cfg], pixels, driver="loop")
    alone.run_epoch(STEPS)
    mine, theirs = (
        {k: v.detach() for k, v in e.views(m).items()} for e, m in ((alone, 0), (company, 1))
    )
    if place := moved(mine, theirs):
        told = (
            f"a run of method {cfg.method!r} is another in company than alone (first in "
            f"{place.split('/', 1)[1]})"
        )
        raise RuleError(
            f"{told}; what a rule depends on belongs in its parameters p and its state s"
        )
