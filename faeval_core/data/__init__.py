"""Datasets as uint8 tensors that live on the device: those that are built in, those of the user's
own, and the batches that training takes of them.
"""

from .datasets import (
    BUILT_IN,
    CIFAR_STATS,
    HELD_OUT,
    VALIDATION,
    Dataset,
    DatasetMissing,
    augments,
    check_name,
    data_home,
    kept_shape,
    known_datasets,
    load,
    test_images,
)
from .pixels import Pixels
from .registration import register_arrays, register_images

__all__ = [
    "BUILT_IN",
    "CIFAR_STATS",
    "HELD_OUT",
    "VALIDATION",
    "Dataset",
    "DatasetMissing",
    "Pixels",
    "augments",
    "check_name",
    "data_home",
    "kept_shape",
    "known_datasets",
    "load",
    "register_arrays",
    "register_images",
    "test_images",
]
