"""Datasets by name.

Built in: digits (scikit-learn, nothing to download) and digit-sums (made of them), cifar10,
cifar100, fashionmnist (torchvision's downloader). Any image-folder tree or tar archive
`train/<class>/*`, `test/<class>/*`, and any table of numbers, can be registered under a name of its
own. Files live in $FAEVAL_DATA (default ~/.cache/faeval).
"""

import json
import os
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..ground.checks import check_known, suggest
from ..ground.environment import expanded
from ..ground.files import (
    UNREADABLE,
    digest,
    read_json,
    read_tensors,
)
from ..ground.streams import stream
from . import synthetic

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
    path = file_of(name)
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
        with safe_open(file_of(name), "pt") as kept:
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


def file_of(name: str) -> Path:
    """The file that a dataset is kept in."""
    return data_home() / f"{name}.safetensors"
