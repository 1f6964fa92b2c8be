"""ConvNet (SCIENCE section 2): three convolutions with BatchNorm, one hidden fully connected layer,
no LayerNorm.
"""

import torch
import torch.nn.functional as F

from .base import Init, Model, through

MOMENTUM, EPS = 0.1, 1e-5  # of BatchNorm, as in PyTorch


class ConvNet(Model):
    """Conv(3×3) + BN + ReLU + max pool (the embedding, channels `channels`), twice more at 2× and
    4× the channels, a hidden FC of `width`, head: levels h_0 (c, H/2, W/2), h_1 (2c, H/4, W/4), h_2
    (4c, H/8, W/8), h_3 (width,), and no residual add.

    Accuracy uses the running statistics; training, every credit and every diagnostic those of its
    batch. A state is one vector of all positions and channels. ρ and Γ are taken on 256 images;
    since moving one sample's state moves the batch's statistics, ρ of the exact gradient is about
    0.98 at init and was 0.8 after ten epochs of BP. depth must be 3.
    """

    options = {"channels": 32}
    terminal_ln = residual = False
    probe = 256
    # the hidden layer's input is scaled already
    writers = r".*\.bn\.(weight|bias)|blocks\.2\.fc\.bias"
    statistics = (".mean", ".var")

    def __init__(self, cfg, image_shape, classes):
        super().__init__(cfg, image_shape, classes)
        c, (self.channels, height, width) = cfg.model_options["channels"], image_shape
        if height < 8 or width < 8:
            raise ValueError(
                "model 'convnet' pools three times and needs images of at least 8×8, not "
                f"{height}×{width}"
            )
        self.levels = [(k * c, height // (2 * k), width // (2 * k)) for k in (1, 2, 4)] + [
            (self.width,)
        ]

    @classmethod
    def check(cls, cfg):
        super().check(cfg)
        if cfg.depth != 3 or cfg.model_options["channels"] < 1:
            raise ValueError(
                f"model 'convnet' has depth 3 and at least 1 channel, not {cfg.depth} and "
                f"{cfg.model_options}"
            )

    def init(self, generator):
        new, c = Init(generator), [self.channels] + [level[0] for level in self.levels[:3]]
        for i, name in enumerate(("embed.", "blocks.0.", "blocks.1.")):
            new.uniform(name + "conv", c[i + 1], c[i], 3, 3)
            del new.p[name + "conv.bias"]  # BatchNorm takes it out again
            new.norm(name + "bn", c[i + 1])
            new.p[name + "bn.mean"], new.p[name + "bn.var"] = (
                torch.zeros(c[i + 1]),
                torch.ones(c[i + 1]),
            )
        new.uniform(
            "blocks.2.fc", self.width, self.levels[2][0] * self.levels[2][1] * self.levels[2][2]
        )
        new.uniform("readout.head", self.classes, self.width)
        return new.p

    def stage(self, p, name, h, stats):
        z = through(lambda w, v: F.conv2d(v, w, padding=1), p, name + "conv", h)
        b, n = name + "bn.", z.numel() // z.shape[1]
        if stats is None:
            mean, var = p[b + "mean"], p[b + "var"]
        else:
            # z is bfloat16 under autocast
            var, mean = torch.var_mean(z.to(p[b + "mean"].dtype), (0, 2, 3), correction=0)
            stats[b + "mean"] = torch.lerp(p[b + "mean"], mean.detach(), MOMENTUM)
            stats[b + "var"] = torch.lerp(p[b + "var"], var.detach() * n / (n - 1), MOMENTUM)
        scale = p[b + "weight"] * (var + EPS).rsqrt()
        z = z * scale.view(-1, 1, 1) + (p[b + "bias"] - mean * scale).view(-1, 1, 1)
        return F.max_pool2d(F.relu(z), 2)

    def embed(self, p, x, stats=None):
        return self.stage(p, "embed.", x, stats)

    def block(self, p, l, h, stats=None):
        if l < 2:
            return self.stage(p, f"blocks.{l}.", h, stats)
        return F.relu(self.linear(p, "blocks.2.fc", h.flatten(1)))

    def rescaled(self, p, c):
        """As elsewhere; the next convolution's running statistics are those of inputs c times as
        large.
        """
        q = super().rescaled(p, c)
        for name in ("blocks.0.bn.", "blocks.1.bn."):
            q[name + "mean"], q[name + "var"] = p[name + "mean"] * c, p[name + "var"] * c * c
        return q
