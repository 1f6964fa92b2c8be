"""Datasets as uint8 tensors that live on the device, with crop, flip and normalisation batched there.

Built in: digits (scikit-learn, nothing to download), cifar10, cifar100, fashionmnist (torchvision's downloader). Any
image-folder tree or tar archive `train/<class>/*`, `test/<class>/*` can be registered under a name of its own.
Files live in $FAEVAL_DATA (default ~/.cache/faeval).
"""

import io
import json
import os
import tarfile
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch

from . import synthetic
from .config import check_known, stream, suggest
from .files import UNREADABLE, digest, publish_tensors, read_tensors

CIFAR_STATS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
TORCHVISION = {  # name -> (torchvision class, mean, std)
    "cifar10": ("CIFAR10", *CIFAR_STATS),
    "cifar100": ("CIFAR100", (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "fashionmnist": ("FashionMNIST", (0.2860,), (0.3530,)),
}
PADDING = 4
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


class DatasetMissing(FileNotFoundError):
    """The images of a dataset are not on this machine."""


def data_home() -> Path:
    return Path(os.environ.get("FAEVAL_DATA", "~/.cache/faeval")).expanduser()


@dataclass
class Dataset:
    """Images uint8 (N, C, H, W), labels int64 (N,); mean and std per channel, in units of [0, 1] intensities."""

    name: str
    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    classes: tuple
    mean: tuple
    std: tuple

    @property
    def image_shape(self):
        return tuple(self.train_x.shape[1:])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of every pixel, label and normalisation constant, taken once: they do not change."""
        tensors = (self.train_x, self.train_y, self.test_x, self.test_y)
        told = json.dumps([list(self.classes), list(self.mean), list(self.std)])
        return digest([told, *(part for t in tensors for part in (str(tuple(t.shape)), t))])[:16]


def _digits(name: str) -> Dataset:
    from sklearn.datasets import load_digits

    raw = load_digits()
    x = torch.from_numpy(raw.images * 15).to(torch.uint8)[:, None]  # intensities 0..16 -> 0..240
    y = torch.from_numpy(raw.target).long()
    train, test = torch.randperm(len(y), generator=stream(0, "digits.split")).split(1437)
    return Dataset(name, x[train], y[train], x[test], y[test], tuple(map(str, range(10))), (0.2873,), (0.3539,))


def _torchvision(name: str) -> Dataset:
    import torchvision

    cls, mean, std = TORCHVISION[name]
    tensors = []
    try:
        for train in (True, False):
            part = getattr(torchvision.datasets, cls)(data_home(), train=train, download=True)
            x = torch.as_tensor(part.data)  # (N, H, W) or (N, H, W, C)
            tensors += [x.view(*x.shape[:3], -1).permute(0, 3, 1, 2).contiguous(), torch.as_tensor(part.targets).long()]
    except (OSError, RuntimeError) as e:
        ways_out = "Connect once, or put torchvision's files there, or use `--dataset digits`, or register a copy of your own"
        told = f"dataset {name!r} is not in {data_home()} and could not be downloaded ({e}). {ways_out}"
        raise DatasetMissing(f"{told}: python -m faeval_core data register NAME ARCHIVE_OR_FOLDER") from e
    return Dataset(name, *tensors, tuple(part.classes), mean, std)


def _cached(name: str) -> Dataset:
    path = data_home() / f"{name}.safetensors"
    try:
        tensors, meta = read_tensors(path)
        data = Dataset(name, **tensors, **{k: tuple(v) for k, v in meta["fields"].items()})
        if data.fingerprint != meta["fingerprint"]:
            raise ValueError("its fingerprint does not match its content")
    except UNREADABLE as e:
        raise DatasetMissing(f"the decoded copy of dataset {name!r}, {path}, is damaged ({e}); register it again") from e
    return data


BUILT_IN = {"digits": _digits, **dict.fromkeys(TORCHVISION, _torchvision)}


def known_datasets() -> list[str]:
    """Names of the datasets that are built in, and of those that were registered on this machine."""
    return [*BUILT_IN, *synthetic.NAMES, *sorted(p.stem for p in data_home().glob("*.safetensors"))]


def check_name(name: str, results) -> None:
    """Raise ValueError for a dataset that neither this machine nor the records in `results` know."""
    index = Path(results, "datasets.json")
    valid = {*known_datasets(), *(json.loads(index.read_text()) if index.exists() else ())}
    check_known("dataset", [name], valid, "; to add your own: python -m faeval_core data register")


@cache
def load(name: str) -> Dataset:
    """The dataset registered as `name`. Raises DatasetMissing, naming the way out, where its images are not here."""
    if synthetic.is_synthetic(name):
        return Dataset(name, *synthetic.tensors(name), tuple(map(str, range(10))), (0.0,), (1 / 255,))
    if name in known_datasets():
        return BUILT_IN.get(name, _cached)(name)
    way_out = f"To register an image folder or archive: python -m faeval_core data register {name} PATH"
    raise DatasetMissing(f"{suggest('dataset', name, known_datasets())}. {way_out}")


def _members(source: Path):
    """(path inside the tree, bytes) of every file of a folder or tar archive."""
    if source.is_dir():
        yield from ((p.relative_to(source).as_posix(), p.read_bytes()) for p in source.rglob("*") if p.is_file())
    else:
        with tarfile.open(source) as tar:
            yield from ((m.name, tar.extractfile(m).read()) for m in tar if m.isfile())


def register_images(name: str, source, mean=None, std=None, size=None, progress=True) -> Dataset:
    """Decode `train/<class>/*` and `test/<class>/*` below `source` (folder or tar) once and keep it as dataset `name`.

    mean, std: per-channel constants in [0, 1] units; by default those of the training images. size: resize to
    (size, size); without it all images must share one size. Raises ValueError naming the first offending file.
    """
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor
    from tqdm.auto import tqdm

    source = Path(source).expanduser()
    if name in BUILT_IN:
        raise ValueError(f"the name {name!r} belongs to a built-in dataset; choose another")
    if not source.exists() or (source.is_file() and not tarfile.is_tarfile(source)):
        raise ValueError(f"{source} is neither a folder nor a tar archive")
    rows, shape = {"train": [], "test": []}, None
    for path, blob in tqdm(_members(source), desc=f"decoding {name}", unit=" files", disable=not progress, mininterval=2):
        split, label, file = ("", "", *path.split("/"))[-3:]
        if split not in rows or not file.lower().endswith(IMAGES):
            continue
        try:
            image = Image.open(io.BytesIO(blob)).convert("RGB")
        except OSError as e:
            raise ValueError(f"{path} in {source} is not a readable image ({e})") from e
        image = image.resize((size, size)) if size else image
        shape = shape or image.size
        if image.size != shape:
            raise ValueError(f"{path} is {image.size}, others are {shape}; pass size to resize all images")
        rows[split].append((label, path, pil_to_tensor(image)))
    classes, tensors = sorted({label for label, *_ in rows["train"]}), {}
    for split, found in rows.items():
        if not found:
            raise ValueError(f"{source} holds no images under {split}/<class>/")
        labels, _, images = zip(*sorted(found, key=lambda row: row[:2]))
        if extra := set(labels) - set(classes):
            raise ValueError(f"{split} has classes that train lacks: {sorted(extra)}")
        tensors |= {f"{split}_x": torch.stack(images), f"{split}_y": torch.tensor([classes.index(label) for label in labels])}
    if mean is None or std is None:
        flat = [tensors["train_x"][:, c].double() / 255 for c in range(3)]
        mean, std = ([round(measure(f).item(), 4) for f in flat] for measure in (torch.mean, torch.std))
    fields = {"classes": tuple(classes), "mean": tuple(mean), "std": tuple(std)}
    data = Dataset(name, **tensors, **fields)
    publish_tensors(data_home() / f"{name}.safetensors", tensors, {"fields": fields, "fingerprint": data.fingerprint})
    load.cache_clear()
    return data


class Pixels:
    """A dataset on a device: augmented training batches, and `test`, the normalised test set (x, y)."""

    def __init__(self, data: Dataset, device="cpu"):
        self.data, self.device, self.subsets = data, torch.device(device), {}
        self.padded = torch.nn.functional.pad(data.train_x, (PADDING,) * 4).to(self.device)
        self.n, c, self.h, self.w = data.train_x.shape
        s, edge = self.padded.stride(), 2 * PADDING
        # windows[i, dy, dx] as a view with all three folded into one index, so that a batch of crops is one index_select
        crops = (self.n - 1) * s[0] + edge * s[2] + edge * s[3] + 1
        self.windows = self.padded.as_strided((crops, c, self.h, self.w), (1, *s[1:]))
        mean, std = (torch.tensor(v, device=device).view(-1, 1, 1).expand(data.image_shape) for v in (data.mean, data.std))
        self.scale, self.shift = 1 / (255 * std), -mean / std  # in full, because broadcasting over rows is slow
        self.test = self.normalise(data.test_x.to(self.device)), data.test_y.to(self.device)

    def normalise(self, x):
        """uint8 (..., C, H, W) to float32 with the dataset's mean and std."""
        return torch.addcmul(self.shift, x.float(), self.scale)

    def draws(self, seed: int, epoch: int, augment: bool):
        """One member's epoch: permutation, crop offsets (dy, dx) and flips, each (N,), drawn on the CPU."""
        order = torch.randperm(self.n, generator=stream(seed, "batches", epoch))
        if not augment:
            centre = torch.full((self.n,), PADDING)
            return order, centre, centre, torch.zeros(self.n, dtype=torch.bool)
        g = stream(seed, "augment", epoch)
        dy, dx = torch.randint(0, 2 * PADDING + 1, (2, self.n), generator=g)
        return order, dy, dx, torch.rand(self.n, generator=g) < 0.5

    def batch(self, index, dy, dx, flip):
        """Crops of images `index`, flipped where told, normalised: (len(index), C, H, W) float32."""
        row, _, down, right = self.padded.stride()
        x = self.windows.index_select(0, index * row + dy * down + dx * right)
        if flip is not None:  # chosen by index_select, four times as fast as torch.where on bytes
            x = torch.cat([x, x.flip(-1)]).index_select(0, torch.arange(len(x), device=x.device) + len(x) * flip)
        return self.normalise(x)

    def subset(self, split: str, size: int):
        """A fixed random subset without augmentation, the same for every run: the first `size` of one permutation."""
        x, y = getattr(self.data, f"{split}_x"), getattr(self.data, f"{split}_y")
        if (split, size) not in self.subsets:
            keep = torch.randperm(len(y), generator=stream(0, f"probe.{split}"))[:size]
            self.subsets[split, size] = self.normalise(x[keep].to(self.device)), y[keep].to(self.device)
        return self.subsets[split, size]
