"""ViT-Mini (SCIENCE section 2): a small vision transformer with a cls token and a terminal
LayerNorm.
"""

import torch
import torch.nn.functional as F

from .base import Init, Model


class ViTMini(Model):
    """Patches → Linear, cls token, positions; L blocks x + attention(LN x), + MLP(LN ·), written as
    h + f_l(h); LN + head on cls.

    States are (batch, tokens, width). Γ and norms are per token and leave out those with a zero
    gradient: at level L all but the cls token. Credit methods see and write all tokens of a state
    as one long vector. ρ and Γ are taken on 256 images.
    """

    options = {"patch": 4, "heads": 4, "mlp_ratio": 2}
    probe = 256
    writers = r"embed\.|blocks\.\d+\.(proj|fc2)\."

    def __init__(self, cfg, image_shape, classes):
        super().__init__(cfg, image_shape, classes)
        (self.channels, height, width), o = image_shape, cfg.model_options
        self.patch, self.heads, self.hidden = o["patch"], o["heads"], o["mlp_ratio"] * cfg.width
        if height % self.patch or width % self.patch:
            raise ValueError(f"patch {self.patch} does not divide images of {height}×{width}")
        self.tokens = 1 + (height // self.patch) * (width // self.patch)
        self.levels = [(self.tokens, self.width)] * (self.depth + 1)

    @classmethod
    def check(cls, cfg):
        super().check(cfg)
        o = cfg.model_options
        if min(o.values()) < 1 or cfg.width % o["heads"]:
            raise ValueError(
                "model 'vitmini' needs patch, heads and mlp_ratio of at least 1, and heads "
                f"that divide width: {o}"
            )

    def init(self, generator):
        """PyTorch's default Linear init, what writes to the stream N(0, 0.02²); cls and positions
        N(0, 0.02²).
        """
        d, new = self.width, Init(generator)
        new.uniform("embed.patches", d, self.channels * self.patch**2)
        for name, rows in (("cls", 1), ("position", self.tokens)):
            new.p[f"embed.{name}"] = torch.empty(rows, d).normal_(0, 0.02, generator=generator)
        for b in (f"blocks.{l}." for l in range(self.depth)):
            new.norm(b + "ln1", d)
            new.uniform(b + "qkv", 3 * d, d)
            new.normal(b + "proj", 0.02, d, d)
            new.norm(b + "ln2", d)
            new.uniform(b + "fc1", self.hidden, d)
            new.normal(b + "fc2", 0.02, d, self.hidden)
        new.norm("readout.ln", d)
        new.uniform("readout.head", self.classes, d)
        return new.p

    def embed(self, p, x, stats=None):
        # (batch, tokens - 1, channels · patch²)
        patches = F.unfold(x, self.patch, stride=self.patch).transpose(1, 2)
        h = self.linear(p, "embed.patches", patches)
        return torch.cat([p["embed.cls"].expand(len(h), 1, -1), h], 1) + p["embed.position"]

    def block(self, p, l, h, stats=None):
        b, (n, t, d) = f"blocks.{l}.", h.shape
        qkv = self.linear(p, b + "qkv", self.layer_norm(p, b + "ln1", h)).view(
            n, t, 3, self.heads, -1
        )
        # (batch, heads, tokens, d / heads)
        mixed = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))
        attended = self.linear(p, b + "proj", mixed.transpose(1, 2).reshape(n, t, d))
        z = F.gelu(self.linear(p, b + "fc1", self.layer_norm(p, b + "ln2", h + attended)))
        return attended + self.linear(p, b + "fc2", z)

    def readout(self, p, h):
        return super().readout(p, h[:, 0])
