"""The training of an ensemble from epoch to epoch: curves, diagnoses, and what becomes of a member
that diverges.
"""

import math
import time

import torch

from ..measure import diagnostics
from .ensemble import Ensemble
from .measurement import auxiliary_directions


def first_fault(ensemble, m, losses, norms):
    """The first non-finite quantity of member m after an epoch, as {step, quantity}, or None."""
    steps = len(losses)
    bad = (~losses[:, m].isfinite()).nonzero()
    if len(bad):
        return {"step": (ensemble.epoch - 1) * steps + bad[0].item(), "quantity": "train_loss"}
    found = list(ensemble.member(m)[0].items())
    # Adam's squares overflow first, and then hold their weights still
    for moment in ensemble.optimizer.moments.values():
        found += [(f"optimizer state of {k}", v[m]) for k, v in moment.items()]
    found += [(k, torch.tensor(norms[k], dtype=torch.float64)) for k in ("h_norm", "g_norm")]
    wrong = [k for k, v in found if not v.isfinite().all()]
    return {"step": ensemble.epoch * steps - 1, "quantity": wrong[0]} if wrong else None


class DiagnosisFailed(RuntimeError):
    """A run has been trained, but could not be measured."""


CURVES = ("train_loss", "test_acc", "h_norm", "g_norm", "growth")


def train(ensemble: Ensemble, progress, last):
    """Train to epoch `last`, yielding after each epoch the (config, result) of every member that
    diverged in it.

    progress: per member {"curves", "diagnostics", "seconds"}, filled in place and continued when
    already begun. A diverged member leaves it and the ensemble; its result is that with "status"
    and "fault". An ensemble that has been trained before is yielded as it stands first, with what
    its diagnostics at that epoch lack. Raises DiagnosisFailed after an epoch, or before the first,
    of which then only diagnostics are missing.
    """
    failed = measure(ensemble, progress)
    if ensemble.epoch or failed:
        yield []
        report(ensemble, failed)
    while ensemble.epoch < last and ensemble.configs:
        started, members = time.perf_counter(), len(ensemble.configs)
        losses, alive, diverged = ensemble.run_epoch(), [], []
        for m, result in enumerate(progress):
            norms = ensemble.norms(m)
            if fault := first_fault(ensemble, m, losses, norms):
                diverged.append(
                    (ensemble.configs[m], {**result, "status": "diverged", "fault": fault})
                )
                continue
            alive.append(m)
            # contiguous: the sum of a strided column depends, in its last digit, on how many
            # members there are
            row = {
                "train_loss": losses[:, m].contiguous().mean().item(),
                "test_acc": ensemble.accuracy(m),
                **norms,
            }
            for k in CURVES:
                result["curves"][k].append(row[k])
            trace_auxiliary(ensemble, m, result)
        if diverged:
            progress[:] = [progress[m] for m in alive]
            ensemble.keep(alive)
        failed = measure(ensemble, progress)
        for result in progress:
            result["seconds"] += (time.perf_counter() - started) / members
        yield diverged
        report(ensemble, failed)


def measure(ensemble, progress) -> tuple | None:
    """Diagnose each member that wants it at this epoch and lacks it; (config, exception) of one
    that could not be, or None.
    """
    cfg, epoch, failed = ensemble.configs[0] if ensemble.configs else None, ensemble.epoch, None
    for m, result in enumerate(progress):
        if epoch in (*cfg.diagnose, cfg.epochs) and str(epoch) not in result["diagnostics"]:
            try:
                result["diagnostics"][str(epoch)] = ensemble.diagnose(m)
            except Exception as e:
                failed = failed or (ensemble.configs[m], e)
            except BaseException as e:  # an interrupt
                return ensemble.configs[m], e
    return failed


def report(ensemble, failed):
    """Raise what `measure` met."""
    if failed is None:
        return
    cfg, error = failed
    if not isinstance(error, Exception):
        raise error
    told = f"run {cfg.id} is trained up to epoch {ensemble.epoch}, but its diagnosis there failed"
    way_out = (
        "its weights and curves are kept, so that once the reason is mended it goes on from there"
    )
    raise DiagnosisFailed(f"{told} ({type(error).__name__}: {error}); {way_out}") from error


def trace_auxiliary(ensemble, m, result):
    """Note how an auxiliary net's credit points on the probe after an epoch, where the method has
    one.

    Curves per level: `aux_coherence`, the length of the mean over the batch of its unit vectors (1:
    the same direction for every sample), and `aux_turn`, the cosine of that mean with the one an
    epoch before (None in the first epoch, or of zeros).
    """
    means = auxiliary_directions(ensemble, m)
    if means is None:
        return
    before = result.get("aux_directions") or [torch.zeros_like(mean).tolist() for mean in means]
    turns = [diagnostics.cosine(mean, torch.tensor(old)).item() for mean, old in zip(means, before)]
    curves = result["curves"]
    curves.setdefault("aux_coherence", []).append([mean.norm().item() for mean in means])
    curves.setdefault("aux_turn", []).append([None if math.isnan(turn) else turn for turn in turns])
    result["aux_directions"] = [mean.tolist() for mean in means]


def fresh_progress():
    return {"curves": {k: [] for k in CURVES}, "diagnostics": {}, "seconds": 0.0}
