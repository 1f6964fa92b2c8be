"""What a member begins with: its method and model, weights, state, and the noise of its steps."""

from collections.abc import Callable

import torch

from ..config import RunConfig
from ..ground.streams import stream
from ..methods import METHODS
from ..methods.shared import RuleError
from ..models import MODELS
from ..settings.fields import IN_STATE


def build(cfg: RunConfig, image_shape, classes: int):
    """(method, model) of a config for images of a shape and a number of classes; they serve all
    members of its ensemble.
    """
    kind = METHODS[cfg.method]
    shared = kind.shared(cfg)
    method = kind(shared, MODELS[cfg.model](shared, image_shape, classes)).freeze()
    return method, method.model


def initial(cfg: RunConfig, method, upstream=None):
    """Initial (params, state) of one member. `upstream`: weights of the run it starts from, in
    place of the init.
    """
    params = method.model.init(stream(cfg.seed, "init")) | method.init_params(
        cfg, stream(cfg.seed, f"aux.{cfg.method}")
    )
    if upstream is not None:  # an auxiliary net that it lacks starts afresh
        wrong = [k for k, v in params.items() if k not in upstream or upstream[k].shape != v.shape]
        if any(not k.startswith("aux.") for k in wrong):
            raise ValueError(
                f"upstream run {cfg.upstream.id} has no matching weights for {wrong[:3]}"
            )
        afresh = wrong or cfg.upstream.method != cfg.method
        params = {
            k: v if afresh and k.startswith("aux.") else upstream[k].clone()
            for k, v in params.items()
        }
    state = method.init_state(cfg, stream(cfg.seed, f"state.{method.stream or cfg.method}"))
    if taken := sorted(state.keys() & {*IN_STATE, *method.member_options}):
        raise RuleError(
            f"init_state of method {cfg.method!r} names {taken}, which the state holds "
            "already; choose other names"
        )
    state |= method.init_copies(params) | method.at_epoch(cfg, 0)
    state |= {k: torch.tensor(getattr(cfg, k)) for k in IN_STATE}
    state |= {k: torch.tensor(cfg.options[k]) for k in method.member_options}
    return params, state


def noise(method, cfg, batch: int, generator) -> dict[str, torch.Tensor]:
    """The standard normal tensors of one step of one member, on the generator's device."""
    shapes = method.noise(batch)
    if method.model.process_noise:
        shapes = {**shapes, "process": (method.model.depth, batch, method.model.width)}
    return {
        k: torch.randn(shape, generator=generator, device=generator.device)
        for k, shape in shapes.items()
    }


class Draws:
    """The noise of a step of one member, over and over: at each passage the same draws, none of
    which is kept.
    """

    def __init__(self, method, cfg, batch: int, begin: Callable[[], torch.Generator]):
        self.method, self.cfg, self.batch, self.begin = method, cfg, batch, begin

    def __len__(self):
        return self.method.draws

    def __iter__(self):
        generator = self.begin()
        for _ in range(len(self)):
            yield noise(self.method, self.cfg, self.batch, generator)
