"""Datasets as uint8 tensors that live on the device, with crop, flip and normalisation batched
there.

Built in: digits (scikit-learn, nothing to download) and digit-sums (made of them), cifar10,
cifar100, fashionmnist (torchvision's downloader). Any image-folder tree or tar archive
`train/<class>/*`, `test/<class>/*`, and any table of numbers, can be registered under a name of its
own. Files live in $FAEVAL_DATA (default ~/.cache/faeval).
"""

import json
import os
import re
import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from . import arrays, images, synthetic, trees
from .config import check_known, stream, suggest
from .diagnostics import BATCH, STABILITY_BATCHES
from .environment import expanded
from .files import UNREADABLE, check_writable, digest, publish_tensors, read_json, read_tensors

CIFAR_STATS = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
TORCHVISION = {  # name -> (torchvision class, mean, std)
    "cifar10": ("CIFAR10", *CIFAR_STATS),
    "cifar100": ("CIFAR100", (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "fashionmnist": ("FashionMNIST", (0.2860,), (0.3530,)),
}
UNSCALED = {"mean": (0.0,), "std": (1 / 255,)}  # of inputs that are used as they are
PAIRS = {"train": 5120, "test": 2560}  # of digits, whose sum is to be told
VALIDATION = "+validation"  # after a dataset's name: its training images alone, split
HELD_OUT = 0.2  # share of them that takes the place of the test set
PADDING = 4
SMALLEST_STD = 1e-4  # of a channel, in [0, 1] units
NAME, LONGEST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"), 64


class DatasetMissing(FileNotFoundError):
    """The images of a dataset are not on this machine."""


def data_home() -> Path:
    """Where datasets are kept; ValueError without FAEVAL_DATA and without a home folder."""
    return expanded(os.environ.get("FAEVAL_DATA") or "~/.cache/faeval")


@dataclass
class Dataset:
    """Images uint8 (N, C, H, W), labels int64 (N,); mean and std per channel, in units of [0, 1]
    intensities.

    Synthetic sets and tables hold float32 (N, 1, 1, features) instead, which are used as they are.
    notes: what was done when it was registered; the fingerprint leaves them out.
    """

    name: str
    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    classes: tuple
    mean: tuple
    std: tuple
    notes: tuple = ()

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
    return Dataset(
        name, x[train], y[train], x[test], y[test], tuple(map(str, range(10))), (0.2873,), (0.3539,)
    )


def _digit_sums(name: str) -> Dataset:
    """Two digits side by side, labelled by the last digit of their sum: what one layer cannot tell.
    Both of a pair are of the same split of `digits`.
    """
    digits, tensors = _digits("digits"), []
    for split, count in PAIRS.items():
        x, y = getattr(digits, f"{split}_x"), getattr(digits, f"{split}_y")
        left, right = torch.randint(len(y), (2, count), generator=stream(0, f"{name}.{split}"))
        tensors += [torch.cat([x[left], x[right]], -1), (y[left] + y[right]) % 10]
    return Dataset(name, *tensors, digits.classes, digits.mean, digits.std)


def _split(data: Dataset) -> Dataset:
    """A dataset of the training images of another: a fifth of them, drawn, is its test set."""
    held = round(HELD_OUT * len(data.train_y))
    order = torch.randperm(len(data.train_y), generator=stream(0, "validation"))
    parts = (order[held:], order[:held])
    tensors = [t[part] for part in parts for t in (data.train_x, data.train_y)]
    return Dataset(data.name + VALIDATION, *tensors, data.classes, data.mean, data.std)


def _torchvision(name: str) -> Dataset:
    import torchvision

    cls, mean, std = TORCHVISION[name]
    tensors = []
    try:
        for train in (True, False):
            part = getattr(torchvision.datasets, cls)(data_home(), train=train, download=True)
            x = torch.as_tensor(part.data)  # (N, H, W) or (N, H, W, C)
            tensors += [
                x.view(*x.shape[:3], -1).permute(0, 3, 1, 2).contiguous(),
                torch.as_tensor(part.targets).long(),
            ]
    except (OSError, RuntimeError) as e:
        ways_out = (
            "Connect once, or put torchvision's files there, or use `--dataset digits`, "
            "or register a copy of your own"
        )
        told = (
            f"dataset {name!r} is not in {data_home()} and could not be downloaded ({e}). "
            f"{ways_out}"
        )
        raise DatasetMissing(
            f"{told}: python -m faeval_core data register NAME ARCHIVE_OR_FOLDER"
        ) from e
    return Dataset(name, *tensors, tuple(part.classes), mean, std)


def _cached(name: str) -> Dataset:
    path = _file_of(name)
    try:
        tensors, meta = read_tensors(path)
        data = Dataset(name, **tensors, **{k: tuple(v) for k, v in meta["fields"].items()})
        if data.fingerprint != meta["fingerprint"]:
            raise ValueError("its fingerprint does not match its content")
    except UNREADABLE as e:
        raise DatasetMissing(
            f"the decoded copy of dataset {name!r}, {path}, is damaged ({e}); register it again"
        ) from e
    return data


def kept_shape(name: str) -> tuple[tuple, int] | None:
    """(shape of an image, number of training images) of a dataset registered here, or None."""
    if name_fault(name):
        return None
    try:
        with safe_open(_file_of(name), "pt") as kept:
            count, *shape = kept.get_slice("train_x").get_shape()
    except (SafetensorError, OSError):  # not here, or damaged, as `load` says
        return None
    return tuple(shape), count


EMBEDDED = {"digits": _digits, "digit-sums": _digit_sums}  # which need no download
BUILT_IN = {**EMBEDDED, **dict.fromkeys(TORCHVISION, _torchvision)}


def known_datasets() -> list[str]:
    """Names of the datasets that are built in, and of those that were registered on this
    machine.
    """
    kept = (p.stem for p in data_home().glob("*.safetensors"))
    registered = sorted(name for name in kept if not name_fault(name))
    return [*BUILT_IN, *synthetic.NAMES, *registered]


def test_images(name: str) -> int | None:
    """How many images the test set of a dataset has; None where it is not here."""
    is_here = synthetic.is_synthetic(name) or name in EMBEDDED
    is_here = is_here or (name not in BUILT_IN and name in known_datasets())
    return 10_000 if name in TORCHVISION else len(load(name).test_y) if is_here else None


def augments(name: str) -> bool:
    """Whether an audit crops and flips the images of a dataset: not those that are embedded, nor
    what is no picture.
    """
    shape, _ = kept_shape(name) or ((), 0)
    return not (name in EMBEDDED or synthetic.is_synthetic(name) or shape[:2] == (1, 1))


def name_fault(name) -> str | None:
    """Why `name` can be no registered dataset's, or None where it can: it is safe as a file's,
    too.
    """
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not NAME.fullmatch(name):
        which = f"up to {LONGEST_NAME} letters, digits, '-', '_' and, inside, '.'"
        return f"the name of a dataset is {which}, not {name!r}"
    if name in BUILT_IN or synthetic.is_synthetic(name):
        return f"the name {name!r} belongs to a built-in dataset; choose another"
    return None


def check_new_name(name) -> None:
    """Raise ValueError for a name that no dataset may be registered under."""
    if fault := name_fault(name):
        raise ValueError(fault)


def check_name(name: str, results) -> None:
    """Raise ValueError for a dataset that neither this machine nor the records in `results`
    know.
    """
    index = Path(results, "datasets.json")
    valid = {*known_datasets(), *(read_json(index) if index.exists() else ())}
    check_known("dataset", [name], valid, "; to add your own: python -m faeval_core data register")


@cache
def load(name: str) -> Dataset:
    """The dataset registered as `name`. Raises DatasetMissing, naming the way out, where its images
    are not here, and ValueError for what can be no dataset's name. With `+validation` behind a
    name: its training images, split, so that a setting can be chosen without its test set.
    """
    if isinstance(name, str) and name.endswith(VALIDATION):
        return _split(load(name.removesuffix(VALIDATION)))
    if isinstance(name, str) and synthetic.is_synthetic(name):
        return Dataset(name, *synthetic.tensors(name), tuple(map(str, range(10))), **UNSCALED)
    if name in BUILT_IN:
        return BUILT_IN[name](name)
    check_new_name(name)
    if name in known_datasets():
        return _cached(name)
    way_out = (
        f"To register an image folder or archive: python -m faeval_core data register {name} PATH"
    )
    raise DatasetMissing(f"{suggest('dataset', name, known_datasets())}. {way_out}")


def register_images(name: str, source, mean=None, std=None, size=None, progress=True) -> Dataset:
    """Decode `train/<class>/*` and `test/<class>/*` below `source` once and keep them as a dataset.

    source: a folder or tar archive; `validation/` or `val/` will do where there is no `test/`.
    Images become bytes, of one channel where all are greyscale and else of three. What was
    converted, followed or left out is said in one warning, and kept in the dataset's `notes`.

    mean, std: a constant per channel in [0, 1] units; by default those of the training images.
    size: resize to (size, size); without it all images must share one size. Raises ValueError
    naming the first offending file or value and the way out, before anything is decoded where
    that can be known, and OSError where the dataset cannot be written.
    """
    check_new_name(name)
    given = _constants(mean, std)
    if size is not None and (type(size) is not int or not 1 <= size <= images.LARGEST_SIZE):
        raise ValueError(f"size must be 1 to {images.LARGEST_SIZE} pixels, not {size!r}")
    source = expanded(source)
    if not source.is_dir() and not (source.is_file() and trees.is_archive(source)):
        raise ValueError(f"{source} is neither a folder nor a tar archive")
    found = trees.listed(source)
    tree = trees.find_tree(source, found)
    classes, splits = tree.classes("train"), [split for split, *_ in tree.rows]
    notes = _size_notes(name, "images", splits.count("train"), splits.count("test"), classes)
    try:
        check_writable(_file_of(name))  # before the work of decoding
    except OSError as e:
        raise _unwritable(name, e) from e
    tensors, done = images.read(source, found, tree, size, progress)
    mean, std = images.measured(tensors["train_x"])
    if given and len(given[0]) != len(mean):
        told = f"{len(given[0])} values are given for mean and std"
        raise ValueError(f"{told}, and the images have {len(mean)} channels; give one for each")
    mean, std = given or (mean, std)
    fields = {"classes": classes, "mean": mean, "std": std, "notes": tree.notes + done + notes}
    return _keep(Dataset(name, **tensors, **{k: tuple(v) for k, v in fields.items()}))


def _constants(mean, std) -> tuple[list[float], list[float]] | None:
    """mean and std as floats, or None where neither is given; ValueError for what cannot be."""
    if mean is None and std is None:
        return None
    try:
        mean, std = ([float(v) for v in given] for given in (mean, std))
    except TypeError as e:
        told = f"mean and std go together, a number per channel, not {mean!r} and {std!r}"
        raise ValueError(f"{told}; leave out both to take those of the training images") from e
    if len(mean) != len(std) or len(mean) not in images.CHANNELS:
        told = f"not {len(mean)} and {len(std)}"
        raise ValueError(f"mean and std need one value (greyscale) or three (colour), {told}")
    for what, values, least in (("mean", mean, 0), ("std", std, SMALLEST_STD)):
        for v in values:
            if not least <= v <= 1:  # so that NaN is refused
                way_out = "; divide what is on the scale of 0..255 by 255" if 1 < v <= 255 else ""
                raise ValueError(f"{what} must lie in {least:g}..1, not be {v:g}{way_out}")
    return mean, std


def _size_notes(name, what, train, test, classes) -> list[str]:
    """What a dataset of so many samples will lack; ValueError where no run could be measured."""
    if min(train, test) < BATCH:
        told = f"dataset {name!r} would have {train} training and {test} test {what}"
        raise ValueError(f"{told}; diagnostics need at least {BATCH} of each, so gather more")
    if len(classes) < 2:
        told = f"dataset {name!r} would have one class, {classes[0]!r}"
        raise ValueError(f"{told}; there must be two or more to tell apart")
    if train < (wanted := STABILITY_BATCHES * BATCH):
        told = f"stability, one of the diagnostics, needs {wanted} training {what}"
        return [f"{told} and will be undefined with {train}"]
    return []


def register_arrays(name: str, X, y, X_test, y_test) -> Dataset:
    """Keep a table of numbers as a dataset: X (N, features), labels y (N,), and the same for
    testing.

    Arrays of more axes are flattened to (N, features). Each feature is standardised by its mean
    and standard deviation over the training rows and kept as float32; one that is constant there
    becomes 0, which is said in a warning and in `notes`. Labels are whole numbers or words.

    Models that embed flat features work: resmlp at any width, studentnet and toylq at
    width = features. convnet and vitmini refuse what is no picture, and augmentation is refused
    (set augment=False), since there is nothing to crop or flip; pictures come in by
    `register_images`. Regression is refused: a target of fractions, or of whole numbers of which
    most rows have their own. Raises ValueError naming the array, the place and the way out, and
    OSError where the dataset cannot be written.
    """
    check_new_name(name)
    tensors, classes, notes = arrays.read(X, y, X_test, y_test)
    sizes = (len(tensors[k]) for k in ("train_y", "test_y"))
    notes += _size_notes(name, "rows", *sizes, classes)
    return _keep(Dataset(name, **tensors, classes=classes, **UNSCALED, notes=tuple(notes)))


def _file_of(name: str) -> Path:
    """The file that a dataset is kept in."""
    return data_home() / f"{name}.safetensors"


def _unwritable(name, e) -> OSError:
    told = f"dataset {name!r} is not kept: {_file_of(name)} cannot be written ({e.strerror or e})"
    return OSError(f"{told}; or set FAEVAL_DATA to another folder")


def _keep(data: Dataset) -> Dataset:
    """Write a dataset into $FAEVAL_DATA, whole or not at all, and say in a warning what was
    done.
    """
    parts = ("train_x", "train_y", "test_x", "test_y")
    tensors = {k: getattr(data, k).contiguous() for k in parts}
    fields = {k: getattr(data, k) for k in ("classes", "mean", "std", "notes")}
    try:
        publish_tensors(
            _file_of(data.name), tensors, {"fields": fields, "fingerprint": data.fingerprint}
        )
    except OSError as e:
        raise _unwritable(data.name, e) from e
    load.cache_clear()
    if data.notes:
        warnings.warn(f"dataset {data.name!r}: {'; '.join(data.notes)}", stacklevel=3)
    return data


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
