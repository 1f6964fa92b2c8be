"""Back-propagation, and the frozen baseline: BP that leaves the blocks at their initialisation."""

from .base import Method
from .passes import penalties


class BP(Method):
    """Exact end-to-end gradient of the loss (plus the penalties, through the whole net)."""

    name = "bp"
    creditless = {  # what these parameters may be where there is no credit to change
        "rule": ("inner",),
        "credit_norm": ("raw",),
        "norm_embedding": (True,),
        "credit_level": ("output",),
        "exploit": (False,),
        "embedding": ("rule", "init"),
    }

    def surrogate(self, p, s, x, y):
        model, changed = self.model, {}
        h0, fs, hs = self.forward(p, s, x, changed)
        loss = model.loss(model.readout(p, hs[-1]), y)
        return loss + penalties(self.cfg, s, h0, fs), (loss.detach(), changed)

    @classmethod
    def check(cls, cfg):
        for name, valid in cls.creditless.items():
            if (value := getattr(cfg, name)) not in valid:
                raise ValueError(
                    f"method {cfg.method!r} has no credit for {name}={value!r} to change; "
                    "'oracle' has"
                )

    def credit(self, p, s, hs, logits, y):
        return [self.exact_credit(p, hs, y, l) for l in range(len(hs))]


class BlocksAtInit(Method):
    """Of a method, all but the training of its blocks."""

    @classmethod
    def check(cls, cfg):
        super().check(cfg)
        if cfg.penalty:
            raise ValueError(
                f"method {cls.name!r} does not train its blocks, so penalty must be 0; "
                "penalty_h0 is available"
            )

    def trains(self, name):
        return super().trains(name) and not name.startswith("blocks.")


class Frozen(BlocksAtInit, BP):
    """The baseline that depth has to beat: blocks at init; embedding and readout by BP through
    them.
    """

    name = "frozen"
