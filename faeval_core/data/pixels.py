"""A dataset on a device, with crop, flip and normalisation batched there."""

import torch

from ..ground.streams import stream
from .datasets import PADDING, Dataset


class Pixels:
    """A dataset on a device: augmented training batches, and `test`, the normalised test set (x,
    y).

    Images come in what is torch's default type when this is made, float32 for runs, the same ones
    whatever that is.
    """

    def __init__(self, data: Dataset, device="cpu"):
        self.data, self.device, self.subsets = data, torch.device(device), {}
        self.padding = 0 if data.train_x.is_floating_point() else PADDING  # features, no pixels
        self.padded = torch.nn.functional.pad(data.train_x, (self.padding,) * 4).to(self.device)
        self.n, c, self.h, self.w = data.train_x.shape
        s, edge = self.padded.stride(), 2 * self.padding
        # windows[i, dy, dx] as a view with all three folded into one index, so that a batch of
        # crops is one index_select
        crops = (self.n - 1) * s[0] + edge * s[2] + edge * s[3] + 1
        self.windows = self.padded.as_strided((crops, c, self.h, self.w), (1, *s[1:]))
        mean, std = (
            torch.tensor(v, device=device).view(-1, 1, 1).expand(data.image_shape)
            for v in (data.mean, data.std)
        )
        # in full, because broadcasting over rows is slow
        self.scale, self.shift = 1 / (255 * std), -mean / std
        self.test = self.normalise(data.test_x.to(self.device)), data.test_y.to(self.device)

    def normalise(self, x):
        """uint8 (..., C, H, W) to (x/255 - mean) / std."""
        return torch.addcmul(self.shift, x.float(), self.scale)

    def draws(self, seed: int, epoch: int, augment: bool):
        """One member's epoch: permutation, crop offsets (dy, dx) and flips, each (N,), drawn on the
        CPU.
        """
        order = torch.randperm(self.n, generator=stream(seed, "batches", epoch))
        if not augment:
            centre = torch.full((self.n,), self.padding)
            return order, centre, centre, torch.zeros(self.n, dtype=torch.bool)
        g = stream(seed, "augment", epoch)
        dy, dx = torch.randint(0, 2 * PADDING + 1, (2, self.n), generator=g)
        return order, dy, dx, torch.rand(self.n, generator=g, dtype=torch.float32) < 0.5

    def batch(self, index, dy, dx, flip):
        """Crops of images `index`, flipped where told, normalised: (len(index), C, H, W)."""
        row, _, down, right = self.padded.stride()
        x = self.windows.index_select(0, index * row + dy * down + dx * right)
        if flip is not None:  # chosen by index_select, four times as fast as torch.where on bytes
            x = torch.cat([x, x.flip(-1)]).index_select(
                0, torch.arange(len(x), device=x.device) + len(x) * flip
            )
        return self.normalise(x)

    def subset(self, split: str, size: int):
        """A fixed random subset without augmentation, the same for every run: the first `size` of
        one permutation.
        """
        x, y = getattr(self.data, f"{split}_x"), getattr(self.data, f"{split}_y")
        if (split, size) not in self.subsets:
            keep = torch.randperm(len(y), generator=stream(0, f"probe.{split}"))[:size]
            self.subsets[split, size] = (
                self.normalise(x[keep].to(self.device)),
                y[keep].to(self.device),
            )
        return self.subsets[split, size]
