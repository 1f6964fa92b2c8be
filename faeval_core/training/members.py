"""The tensors of an ensemble: all that its members are."""

import torch

from ..ground.streams import stream
from .initial import build, initial
from .optimizer import Optimizer


class Members:
    """Runs of one signature as stacked tensors with a leading member axis; leaves are views of
    them. They are of torch's default type, as `pixels` must be: float32, or float64 for a twin that
    rounding does not blur.

    upstreams: of each member, the weights that it starts from, or None.
    """

    def __init__(self, configs, pixels, upstreams=None):
        self.configs, self.pixels, self.device = list(configs), pixels, pixels.device
        data = pixels.data
        self.method, self.model = build(self.configs[0], data.image_shape, len(data.classes))
        upstreams = upstreams or [None] * len(self.configs)
        members = [initial(c, self.method, u) for c, u in zip(self.configs, upstreams)]
        self.params, self.state = (self.stack([m[i] for m in members]) for i in (0, 1))
        self.labels = torch.stack([self._labels(c) for c in self.configs]).to(self.device)
        self.trained = [k for k in self.params if self.method.trains(k)]
        self.optimizer = Optimizer(
            self.method, self.configs, self.params, self.trained, self.device
        )
        self.epoch = 0
        self.bind()

    def stack(self, dicts):
        """Tensors of several members by name, with a leading axis, on the device."""
        return {k: torch.stack([d[k] for d in dicts]).to(self.device) for k in dicts[0]}

    def _labels(self, cfg):
        y = self.pixels.data.train_y
        if cfg.labels == "true":
            return y
        return torch.randint(
            0, len(self.pixels.data.classes), (len(y),), generator=stream(cfg.seed, "labels")
        )

    def bind(self) -> None:
        """Leaves of each member, and what of it is not trained, from the stacked tensors."""
        members = range(len(self.configs))
        self.leaves = [{k: self.params[k][m] for k in self.trained} for m in members]
        self.fixed = [
            {k: v[m] for k, v in self.params.items() if k not in self.trained} for m in members
        ]

    def member(self, m):
        """(params, state) of member m as views, detached."""
        return {k: v[m] for k, v in self.params.items()}, {k: v[m] for k, v in self.state.items()}

    def generator(self, cfg, name) -> torch.Generator:
        """A generator on the device that depends on (seed, name, epoch) alone."""
        return torch.Generator(self.device).manual_seed(
            stream(cfg.seed, name, self.epoch).initial_seed()
        )

    def batches(self, members=slice(None)):
        """(x, y) of each step of this epoch: (member, batch, C, H, W) and (member, batch). A last
        incomplete batch is dropped.
        """
        cfg, pixels, labels = self.configs[0], self.pixels, self.labels[members]
        draws = [pixels.draws(c.seed, self.epoch, c.augment) for c in self.configs[members]]
        index, dy, dx, flip = (torch.stack(part).to(self.device) for part in zip(*draws))
        size = min(cfg.batch_size, pixels.n)
        for start in range(0, pixels.n - size + 1, size):
            part = (slice(None), slice(start, start + size))
            take = [t[part].reshape(-1) for t in (index, dy, dx, flip)]
            x = pixels.batch(*take[:3], take[3] if cfg.augment else None)
            yield x.view(len(draws), size, *x.shape[1:]), labels.gather(1, index[part])

    # -- leaving and coming back

    def views(self, m) -> dict[str, torch.Tensor]:
        """All tensors that continue member m exactly: param/, state/ and opt/<key>/<name>."""
        p, s = self.member(m)
        views = {f"param/{k}": v for k, v in p.items()} | {f"state/{k}": v for k, v in s.items()}
        return views | self.optimizer.views(m)

    def export(self, m) -> dict[str, torch.Tensor]:
        """A copy of `views` on the CPU."""
        return {k: v.detach().cpu().contiguous().clone() for k, v in self.views(m).items()}

    def restore(self, m, tensors, epoch) -> None:
        """Undo `export` for member m and set the epoch, which all members of an ensemble share."""
        views = self.views(m)
        for name, value in tensors.items():
            views[name].copy_(value)
        self.epoch = epoch

    def keep(self, members) -> None:
        """Drop all other members (they have diverged or are finished) and go on."""
        self.configs = [self.configs[m] for m in members]
        for part in (self.params, self.state):
            part.update({k: v[members] for k, v in part.items()})
        self.labels = self.labels[members]
        self.optimizer.keep(members, self.configs)
        self.bind()
