"""Tables of numbers as standardised features, with a word on all that was not plain."""

import numpy as np
import torch

REGRESSION = (
    "faeval trains and judges classification; put the target into classes (numpy.digitize), or "
    "measure a model that you trained yourself: judge(..., loss=...) of faeval_core.judge takes "
    "any loss"
)


def read(X, y, X_test, y_test) -> tuple[dict, tuple, list[str]]:
    """({train_x, train_y, test_x, test_y}, classes, what was done) of a table.

    Features are float32 (N, 1, 1, features), standardised by the training rows; labels index the
    classes. ValueError for values or labels that cannot be taken.
    """
    train, test = _features("X", X), _features("X_test", X_test)
    if train.shape[1] != test.shape[1]:
        told = f"X has {train.shape[1]} features and X_test {test.shape[1]}"
        raise ValueError(f"{told}; both need the same columns")
    labels, tested = _labels("y", y, len(train)), _labels("y_test", y_test, len(test))
    classes = np.unique(labels)
    if labels.dtype.kind in "iu" and 2 * len(classes) > len(labels):
        told = f"y has {len(classes)} different numbers in {len(labels)} rows, as a quantity has"
        raise ValueError(f"{told}; {REGRESSION}")
    if extra := sorted(set(tested.tolist()) - set(classes.tolist()), key=str):
        told = f"y_test has classes that y lacks: {extra[:5]}"
        raise ValueError(f"{told}; leave those rows out, or train on some")
    (train, test), notes = _standardised(train, test)
    if untested := [c for c in classes.tolist() if c not in set(tested.tolist())]:
        notes.append(f"y_test lacks classes that y has: {untested}")
    tensors = {}
    for split, x, label in (("train", train, labels), ("test", test, tested)):
        tensors[f"{split}_x"] = torch.from_numpy(x)[:, None, None]
        tensors[f"{split}_y"] = torch.from_numpy(np.searchsorted(classes, label)).long()
    return tensors, tuple(map(str, classes.tolist())), notes


def _standardised(train, test) -> tuple[list[np.ndarray], list[str]]:
    """Both as float32, by the mean and standard deviation of each feature in the training rows."""
    constant = train.min(0) == train.max(0)  # std may miss 0 by rounding
    if constant.all():
        raise ValueError("every feature of X is constant, so that there is nothing to learn from")
    notes, which = [], np.flatnonzero(constant)
    if len(which):
        told = f"{len(which)} of {len(constant)} features are constant in X and set to 0"
        notes.append(f"{told}, such as column {which[0]}")
    with np.errstate(all="ignore"):  # what overflows is found below
        mean, std = train.mean(0), train.std(0)
        std[np.isinf(std)] = np.nan  # else it would divide all to 0
        scaled = (np.where(constant, 0, (x - mean) / std) for x in (train, test))
        train, test = (x.astype(np.float32) for x in scaled)
    for what, x in (("X", train), ("X_test", test)):
        if len(bad := np.argwhere(~np.isfinite(x))):
            told = f"column {bad[0][1]} of {what} has values of too different size"
            raise ValueError(f"{told} to be standardised; rescale it")
    return [train, test], notes


def _array(what: str, given) -> np.ndarray:
    try:
        return np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as e:  # ragged, or on another device
        raise ValueError(f"{what} cannot be read as an array ({e})") from e


def _features(what: str, given) -> np.ndarray:
    """An array as float64 (N, features); ValueError for what holds no finite numbers."""
    x = _array(what, given)
    if x.ndim < 2 or not x.size:
        raise ValueError(f"{what} must have a row of features per sample, not shape {x.shape}")
    if x.dtype.kind not in "biuf":
        way_out = "encode words as numbers first (pandas.get_dummies)"
        raise ValueError(f"{what} must hold numbers, not {x.dtype}; {way_out}")
    x = x.reshape(len(x), -1).astype(np.float64)
    if len(bad := np.argwhere(~np.isfinite(x))):
        row, column = bad[0]
        told = f"{what} holds {x[row, column]} in row {row}, column {column}"
        raise ValueError(f"{told}; fill in or leave out what is missing")
    return x


def _labels(what: str, given, rows: int) -> np.ndarray:
    """Labels as an array of whole numbers or words (rows,); ValueError for anything else."""
    y = _array(what, given)
    if y.shape != (rows,):
        told = f"{what} must hold a label for each of {rows} rows, not have shape {y.shape}"
        way_out = f"{what}.ravel() flattens a column, {what}.argmax(1) reads one-hot rows"
        raise ValueError(f"{told}; {way_out}")
    if y.dtype.kind == "O" and all(isinstance(v, str) for v in y):
        y = y.astype(str)
    if y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.rint(y)).all():
        y = y.astype(np.int64)
    if y.dtype.kind not in "biuU":
        told = f"{what} must hold classes, whole numbers or words, not {y.dtype} such as {y[0]!r}"
        raise ValueError(f"{told}; {REGRESSION if y.dtype.kind == 'f' else 'name each class'}")
    return y
