"""What is measured of a member as it stands, on the probes of its dataset."""

from dataclasses import replace

import torch

from ..measure import diagnostics
from ..measure.exploit import exploit
from ..methods.shared import Phase
from ..methods.tensors import unit
from .execution import arithmetic, by_onednn, takes_onednn
from .initial import Draws, noise

EVAL_CHUNK, TRAIN_PROBE = 2000, 1024  # images


@arithmetic()
@torch.no_grad()
def accuracy(ensemble, m: int) -> float:
    """Share of the test images whose class member m predicts."""
    (p, s), (x, y) = ensemble.member(m), ensemble.pixels.test

    def predicted(x):
        return ensemble.method.predict(p, s, x)

    if takes_onednn("fp32", ensemble.device, ensemble.fused):
        predicted = by_onednn(predicted)
    classes = torch.cat([predicted(part) for part in x.split(EVAL_CHUNK)])
    return (classes == y).sum().item() / len(y)


def probe(ensemble, split: str):
    """(x, y) of the fixed images of a split that diagnostics are taken on; ValueError where there
    are too few.
    """
    data = ensemble.pixels.data
    available = len(data.test_y if split == "test" else data.train_y)
    most = ensemble.model.probe if split == "test" else TRAIN_PROBE
    size = min(most, available - available % diagnostics.BATCH)
    if size == 0:
        raise ValueError(
            f"dataset {data.name!r} has {available} {split} images; diagnostics need at least "
            f"{diagnostics.BATCH}"
        )
    return ensemble.pixels.subset(split, size)


@arithmetic()
def norms(ensemble, m: int) -> dict:
    """Norms of the states and gradients of member m (diagnostics.norms)."""
    return diagnostics.norms(ensemble.method, ensemble.member(m)[0], *probe(ensemble, "test"))


@arithmetic()
def auxiliary_directions(ensemble, m: int) -> list[torch.Tensor] | None:
    """Mean over the probe of the unit vectors of the auxiliary's credit, per level, or None for a
    method without one.
    """
    (p, s), (x, y) = ensemble.member(m), probe(ensemble, "test")
    cfg, model = ensemble.configs[m], ensemble.model
    hs = model.states(p, model.embed(p, x))
    method = ensemble.during(Phase(fits=False))
    s = s | noise(method, cfg, len(y), ensemble.generator(cfg, "noise.trace"))
    aux = method.parts(p, s, hs, model.readout(p, hs[-1]), y).get("aux")
    return aux and [unit(a).flatten(1).mean(0) / a[0].numel() ** 0.5 for a in aux]


@arithmetic()
def diagnose(ensemble, m: int) -> dict:
    """All diagnostics of member m; after the last epoch also those of exploitation, where its
    config asks for them.
    """
    cfg, (p, s) = ensemble.configs[m], ensemble.member(m)
    test, train = (probe(ensemble, split) for split in ("test", "train"))
    phase = ensemble.method.phase_of(cfg, max(0, ensemble.epoch - 1))  # of the epoch that is over
    # none of this is about how an auxiliary net learns
    method = ensemble.during(replace(phase, fits=False))

    def seen(name, batch):
        """The state, with noise that this measurement alone sees."""
        return s | noise(method, cfg, batch, ensemble.generator(cfg, f"noise.{name}"))

    def draws(name, batch):
        """All draws of that noise which the measurement averages over; none for one draw."""
        if method.draws == 1:
            return ()
        return Draws(method, cfg, batch, lambda: ensemble.generator(cfg, f"noise.{name}"))

    measured = diagnostics.diagnose(
        method,
        p,
        seen("test", len(test[1])),
        test,
        train,
        ensemble.generator(cfg, "rho"),
        draws("test", len(test[1])),
    )
    measured |= diagnostics.update_alignment(
        method,
        p,
        seen("train", len(train[1])),
        ensemble.optimizer.direction(m),
        *train,
        draws("train", len(train[1])),
    )
    if cfg.exploit and ensemble.epoch == cfg.epochs:
        s_of_step = seen("exploit", diagnostics.BATCH)
        measured["exploit"] = exploit(method, p, s_of_step, train, test)
    return measured
