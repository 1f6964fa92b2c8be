"""Datasets of the user's own: images in folders or archives, and tables of numbers."""

import warnings

from ..ground.environment import expanded
from ..ground.files import check_writable, publish_tensors
from ..measure.diagnostics import BATCH, STABILITY_BATCHES
from . import arrays, images, trees
from .datasets import UNSCALED, Dataset, check_new_name, file_of, load

SMALLEST_STD = 1e-4  # of a channel, in [0, 1] units


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
        check_writable(file_of(name))  # before the work of decoding
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


def _unwritable(name, e) -> OSError:
    told = f"dataset {name!r} is not kept: {file_of(name)} cannot be written ({e.strerror or e})"
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
            file_of(data.name), tensors, {"fields": fields, "fingerprint": data.fingerprint}
        )
    except OSError as e:
        raise _unwritable(data.name, e) from e
    load.cache_clear()
    if data.notes:
        warnings.warn(f"dataset {data.name!r}: {'; '.join(data.notes)}", stacklevel=3)
    return data
