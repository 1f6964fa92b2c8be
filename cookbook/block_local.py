"""Back-propagation inside groups of blocks, with a classifier at the end of each.

Laskin, Metz, Nabarro, Saroufim, Noune, Luschi, Sohl-Dickstein and Abbeel, "Parallel Training of
Deep Networks with Local Updates", 2020 (arXiv:2012.03837).
"""

import torch

from faeval_core import LocalMethod, register
from faeval_core.methods.base import flat_norm
from faeval_core.models.base import Init


@register
class BlockLocal(LocalMethod):
    """a_l = ∇_{h_l} of the loss of the head at the end of the `group` blocks that level l belongs
    to; the last head is the net's own readout. One group of all blocks is BP.
    """

    name = "block_local"
    options = {"group": 2}

    @classmethod
    def check(cls, cfg):
        if cfg.options["group"] < 1:
            raise ValueError(f"group must be at least 1, not {cfg.options['group']}")

    def end(self, l):
        """Level at which the group ends that level l belongs to; the embedding is of the first."""
        size = self.cfg.options["group"]
        return min(-(-max(l, 1) // size) * size, self.model.depth)

    def init_params(self, cfg, generator):
        new, ends = Init(generator), {self.end(l) for l in range(self.model.depth)}
        for l in sorted(ends - {self.model.depth}):
            new.uniform(f"aux.head{l}", self.model.classes, self.model.sizes[l])
        return new.p

    def local_loss(self, p, h, y, l):
        for block in range(l, self.end(l)):
            h = self.model.add(h, self.model.block(p, block, h, {}))
        head, is_top = f"aux.head{self.end(l)}", self.end(l) == self.model.depth
        read = self.model.readout(p, h) if is_top else self.model.linear(p, head, flat_norm(h))
        return self.model.losses(read, y).sum()

    def credit(self, p, s, hs, logits, y):
        slope = torch.func.grad(self.local_loss, argnums=1)
        return [slope(p, h, y, l) for l, h in enumerate(hs)]

    def auxiliary(self, p, s, hs, logits, y):
        ends = {self.end(l) for l in range(self.model.depth)} - {self.model.depth}
        return sum(self.local_loss(p, hs[l], y, l) for l in ends) / len(y), {}
