"""Rules of a user's own on the initial net, before they train: a mistake shows within seconds, and
costs nothing.

One step in float32, one diagnosis in float64 without gradients and one rescaling, alone and in
company. What would make a result wrong, or fail at the end, is a RuleError; what may be meant is a
warning.
"""

from dataclasses import replace as with_fields

from .. import data
from ..config import RunConfig
from ..measure import diagnostics
from ..methods import METHODS
from ..models import MODELS
from .changes import own
from .company import check_company
from .credit import check_credit, check_inputs, check_predict
from .declared import check_code_kept, check_draws, check_model, check_names, check_rates
from .reads import check_reads
from .steps import STEPS, built, check_diagnosis, check_step

PASSED = set()  # (signature, code, device) of the rules that this process has found sound


def faults(configs, device="cpu") -> dict[RunConfig, Exception]:
    """Config -> what is wrong with its rule or model, for those of `configs` that are not faeval's
    own.

    One check for each signature and code, of which this process makes none twice once it is passed.
    """
    groups = {}
    for c in configs:
        is_own = own(METHODS[c.method]) and own(MODELS[c.model])
        if not is_own and (c.signature, c.code, str(device)) not in PASSED:
            groups.setdefault(c.signature, []).append(c)
    found = {}
    for group in groups.values():
        try:
            images = few(data.load(group[0].dataset), group[0].batch_size, device)
            if not own(MODELS[group[0].model]):
                check_model(group[0], images)
            if not own(METHODS[group[0].method]):
                check(group, images)
        except Exception as e:
            found |= dict.fromkeys(group, e)
        else:
            PASSED.update((c.signature, c.code, str(device)) for c in group)
    return found


def few(images, batch: int, device) -> data.Pixels:
    """As many of the images as `check` needs."""
    train, test = max(STEPS * batch, diagnostics.BATCH), diagnostics.BATCH
    splits = {"train_x": train, "train_y": train, "test_x": test, "test_y": test}
    return data.Pixels(
        with_fields(images, **{k: getattr(images, k)[:n] for k, n in splits.items()}), device
    )


def check(configs, pixels) -> None:
    """Raise RuleError for a fault of the rule of `configs`, which are of one signature; warn of
    what is likely to be one.
    """
    cfg = configs[0]
    check_names(METHODS[cfg.method])
    method, p, s, x, y = built(cfg, pixels)
    check_draws(method, len(y))
    check_rates(method, cfg, p)
    check_credit(method, p, s, x, y)
    check_inputs(method, p, s, x, y)
    check_predict(method, p, s, x)
    check_step(method, cfg, p, s, x, y)
    check_diagnosis(method, cfg, p, s, x, y, pixels)
    check_company(configs, pixels)
    check_reads(cfg, p, s, x, y, pixels)
    check_code_kept(cfg)
