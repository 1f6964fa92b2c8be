"""The optimiser of an ensemble: AdamW or SGD, with a learning rate and state of each member."""

from typing import NamedTuple

import torch

from ..ground.checks import check_known
from ..methods.base import RATES
from .torch_private import fused_adamw, fused_sgd

EPS_ADAM = 1e-8
# what an optimiser keeps, in torch.optim's names
MOMENTS = {"adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


class Rated(NamedTuple):
    """Of one member, leaves that learn at one rate, with what the optimiser keeps of each.

    lr: factor of the member's learning rate; weight_decay: as it is.
    """

    names: list[str]
    leaves: list[torch.Tensor]
    moments: list[list[torch.Tensor]]
    steps: list[torch.Tensor]
    lr: float
    weight_decay: float


class Learning(NamedTuple):
    """What learns of one member in an epoch.

    moving: 1 or 0 for each trained tensor, whether it is in `names`.
    """

    names: list[str]
    groups: list[Rated]
    moving: torch.Tensor


class Optimizer:
    """Steps of the members of an ensemble, each with its own rate; moments and counts have a
    leading member axis.

    params: name -> (member, …); trained: names of those that learn at all.
    """

    def __init__(self, method, configs, params, trained, device):
        self.method, self.configs, self.trained, self.device = method, configs, trained, device
        kept = MOMENTS[configs[0].optimizer]
        self.moments = {name: {k: torch.zeros_like(params[k]) for k in trained} for name in kept}
        # updates that each leaf has had, in the type that the fused optimisers count them in
        shape = len(configs), len(trained)
        self.steps = torch.zeros(shape, dtype=torch.float32, device=device)
        # what the fused optimisers read there
        exact = torch.float32 if device.type == "cuda" else torch.float64
        self.lr = torch.zeros(len(configs), dtype=exact, device=device)
        self.learning: list[Learning] = []

    def choose(self, names, leaves) -> None:
        """Take the steps of an epoch on these leaves of each member."""
        self.learning = [self._learning(m, names[m], leaves[m]) for m in range(len(names))]

    def _learning(self, m, names, leaves) -> Learning:
        cfg, by_rate = self.configs[m], {}
        for k in names:
            lr, decay = self.rate(cfg, k)
            by_rate.setdefault((lr, cfg.weight_decay * decay), []).append(k)
        groups = [
            Rated(
                group,
                [leaves[k] for k in group],
                [[kept[k][m] for k in group] for kept in self.moments.values()],
                [self.steps[m, self.trained.index(k)] for k in group],
                *rate,
            )
            for rate, group in by_rate.items()
        ]
        moving = torch.tensor([float(k in names) for k in self.trained], device=self.device)
        return Learning(names, groups, moving)

    def rate(self, cfg, name) -> tuple[float, float]:
        """Factors of the learning rate and the weight decay of one trained parameter."""
        rates = self.method.rates(cfg, name)
        check_known(f"rate of {name} (method {cfg.method!r})", rates, RATES)
        return tuple(float(rates.get(k, 1.0)) for k in RATES)

    @torch.no_grad()
    def descend(self, m, grads) -> None:
        """One update of the leaves of member m that learn in this epoch, clipped block by block
        where its config says so.
        """
        cfg, (names, groups, moving) = self.configs[m], self.learning[m]
        if not names:
            return
        if cfg.clip > 0:
            grads = self.clipped(grads, names, cfg.clip)
        self.steps[m] += moving
        for group in groups:
            rate = self.lr[m] if group.lr == 1 else self.lr[m] * group.lr
            self._step(cfg, group, [grads[k] for k in group.names], rate)

    def clipped(self, grads, names, most) -> dict:
        """The gradients, with those of each block at a norm of at most `most`."""
        grads = dict(grads)
        for l in range(self.method.model.depth):
            block = [k for k in names if k.startswith(f"blocks.{l}.")]
            norm = torch.nn.utils.get_total_norm([grads[k] for k in block])
            grads |= {k: grads[k] * (most / (norm + 1e-6)).clamp(max=1) for k in block}
        return grads

    def _step(self, cfg, group, grads, rate):
        plain = {"lr": rate, "weight_decay": group.weight_decay, "maximize": False}
        if cfg.optimizer == "adamw":
            adam = {"beta1": 0.9, "beta2": 0.999, "eps": EPS_ADAM, "amsgrad": False}
            fused_adamw(group.leaves, grads, *group.moments, [], group.steps, **adam, **plain)
        else:
            rest = {"dampening": 0.0, "nesterov": False, "is_first_step": False}
            moments = group.moments if cfg.momentum > 0 else [[]]
            fused_sgd(group.leaves, grads, *moments, momentum=cfg.momentum, **rest, **plain)

    def direction(self, m) -> dict[str, torch.Tensor]:
        """Direction of the descent of member m from its running state, per trained parameter; {}
        before the first step.
        """
        moved = [k for i, k in enumerate(self.trained) if self.steps[m, i] > 0]
        first, *second = ({k: moment[k][m] for k in moved} for moment in self.moments.values())
        step = first
        if second:
            step = {k: first[k] / (second[0][k].sqrt() + EPS_ADAM) for k in moved}
        rates = {k: self.rate(self.configs[m], k)[0] for k in moved}
        return {k: v if rates[k] == 1 else v * rates[k] for k, v in step.items()}

    def views(self, m) -> dict[str, torch.Tensor]:
        """What continues member m exactly: opt/<parameter>/<name>."""
        views = {
            f"opt/{k}/{name}": v[m]
            for name, moment in self.moments.items()
            for k, v in moment.items()
        }
        return views | {f"opt/{k}/step": self.steps[m, i] for i, k in enumerate(self.trained)}

    def keep(self, members, configs) -> None:
        """Drop all other members; `configs` are of those that are left."""
        self.configs = configs
        for moment in self.moments.values():
            moment.update({k: v[members] for k, v in moment.items()})
        self.steps, self.lr = self.steps[members], self.lr[members]
