"""Datasets: augmentation against torchvision, images in through every public door, and errors that
say what is wrong.
"""

import dataclasses
import functools
import hashlib
import http.server
import json
import pickle
import struct
import threading
import warnings

import numpy as np
import pytest
import torch
import torchvision
import torchvision.transforms.functional as TF
from conftest import UNIT32, drawn, float64, images, png, same, tiny, tree, write_folder, write_tar
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from faeval_core import Store, data, run
from faeval_core.__main__ import main
from faeval_core.data import synthetic
from faeval_core.ground.files import studies
from faeval_core.report import latex, tables

FOUR_DIGITS = 0.5001 * 10**-4  # what a number that is written in four may be off by

# -- augmentation


@pytest.mark.numerical
def test_every_crop_and_flip_is_torchvisions(pixels64, blobs):
    """All 81 x 2 outcomes of RandomCrop(8, padding=4) + RandomHorizontalFlip, then ToTensor and
    Normalize.
    """
    dy, dx, flip = (
        t.flatten()
        for t in torch.meshgrid(torch.arange(9), torch.arange(9), torch.arange(2), indexing="ij")
    )
    index = torch.arange(len(dy)) * 5
    index[-1] = 1023  # the last crop of the last image
    found = pixels64.batch(index, dy, dx, flip.bool())
    for i in range(len(dy)):
        image = TF.pad(blobs.train_x[index[i]], [4])
        image = TF.crop(image, int(dy[i]), int(dx[i]), 8, 8)
        image = TF.hflip(image) if flip[i] else image
        same(found[i], TF.normalize(image / 255, blobs.mean, blobs.std))
    assert torch.equal(
        pixels64.batch(index, dy, dx, None),
        pixels64.batch(index, dy, dx, torch.zeros(len(dy), dtype=torch.bool)),
    )


def test_draws_are_uniform_and_each_epoch_is_a_permutation(pixels):
    """dy, dx uniform on 0..8 jointly, flips fair and independent of them: chi-square over 162
    cells, fixed seed.
    """
    cells = torch.zeros(162)
    for epoch in range(20):
        order, dy, dx, flip = pixels.draws(3, epoch, True)
        assert torch.equal(order.sort().values, torch.arange(1024))
        cells += torch.bincount((dy * 9 + dx) * 2 + flip, minlength=162)
    assert cells.sum() == 20 * 1024 and 0.001 < chisquare(cells.numpy()).pvalue < 0.999
    starts = torch.stack([pixels.draws(3, epoch, True)[0][:64] for epoch in range(160)])
    assert (
        0.001
        < chisquare(torch.bincount(starts.flatten() // 64, minlength=16).numpy()).pvalue
        < 0.999
    )


def test_draws_depend_on_seed_and_epoch_alone(pixels):
    first = pixels.draws(3, 1, True)
    with float64():
        again = pixels.draws(3, 1, True)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    for other in (pixels.draws(4, 1, True), pixels.draws(3, 2, True)):
        assert not any(torch.equal(a, b) for a, b in zip(first, other))
    # without augmentation: the same order, centred, never flipped
    order, dy, dx, flip = pixels.draws(3, 1, False)
    assert torch.equal(order, first[0]) and (dy == 4).all() and (dx == 4).all() and not flip.any()


@pytest.mark.numerical
def test_normalisation_and_probe_subset(pixels, blobs):
    """(x/255 - mean)/std per channel; over the training set that is mean 0 and variance 1; a subset
    is not augmented.
    """
    x, exact = (
        pixels.normalise(blobs.train_x),
        TF.normalize(blobs.train_x.double() / 255, blobs.mean, blobs.std),
    )
    # of the two terms, together
    largest = max((1 + mean) / std for mean, std in zip(blobs.mean, blobs.std))
    assert x.dtype == torch.float32
    # std, 1/std, product and sum are rounded
    torch.testing.assert_close(x.double(), exact, rtol=0, atol=4 * UNIT32 * largest)
    last = 1e-4 / min(blobs.std)  # twice the last digit of the constants, which have four
    assert (
        exact.mean((0, 2, 3)).abs().max() < last and (exact.std((0, 2, 3)) - 1).abs().max() < last
    )
    x, y = pixels.subset("test", 256)
    whole = pixels.normalise(blobs.test_x)
    position = [(whole == image).flatten(1).all(1).nonzero().item() for image in x]
    assert sorted(position) == list(range(256)) and torch.equal(blobs.test_y[position], y)
    assert torch.equal(pixels.subset("test", 100)[0], x[:100])


# -- sources


def test_digits_are_scikit_learns():
    """Every image of the source once, split 1437/360, intensities 0..16 as 0..240; constants are
    those of them all.
    """
    from sklearn.datasets import load_digits

    digits, raw = data.load("digits"), load_digits()
    assert (
        digits.train_x.shape == (1437, 1, 8, 8)
        and digits.test_x.shape == (360, 1, 8, 8)
        and len(digits.classes) == 10
    )
    ours = torch.cat([digits.train_x, digits.test_x]).flatten(1)
    rows = [
        (*x.tolist(), y) for x, y in zip(ours, torch.cat([digits.train_y, digits.test_y]).tolist())
    ]
    assert sorted(rows) == sorted(
        (*(15 * x).astype(int).tolist(), int(y)) for x, y in zip(raw.data, raw.target)
    )
    x = ours.double() / 255
    given = digits.mean[0], digits.std[0]
    assert (x.mean().item(), x.std().item()) == pytest.approx(given, abs=FOUR_DIGITS)


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "tar.xz"])
def test_registered_images_come_back_pixel_for_pixel(elsewhere, kind):
    files = tree() | {"train/yes/notes.txt": b"not an image", "README": b"nor this"}
    source = elsewhere / f"pets.{kind}"
    if kind == "folder":
        write_folder(source, files)
    else:
        write_tar(source, {f"./pets/{k}": v for k, v in files.items()})
    made = data.register_images("pets", source, progress=False)
    found = data.load("pets")
    assert set(data.known_datasets()) == {*data.BUILT_IN, *synthetic.NAMES, "pets"}
    assert found.classes == ("no", "yes") and found.fingerprint == made.fingerprint
    assert found.train_x.shape == (128, 3, 8, 8) and found.test_y.tolist() == [0] * 64 + [1] * 64
    stored = {
        png(x.permute(1, 2, 0).numpy()): found.classes[y]
        for x, y in zip(found.train_x, found.train_y)
    }
    assert stored == {
        v: k.split("/")[1] for k, v in files.items() if k.startswith("train") and k.endswith("png")
    }
    flat = found.train_x.double().permute(1, 0, 2, 3).flatten(1) / 255
    assert found.mean == pytest.approx(flat.mean(1).tolist(), abs=FOUR_DIGITS)
    assert found.std == pytest.approx(flat.std(1).tolist(), abs=FOUR_DIGITS)


def test_fingerprint_is_of_the_images_and_not_of_their_container(elsewhere):
    write_folder(elsewhere / "folder", tree())
    a = data.register_images("a", elsewhere / "folder", progress=False)
    b = data.register_images("b", write_tar(elsewhere / "b.tar", tree()), progress=False)
    assert a.fingerprint == b.fingerprint
    seen = {a.fingerprint}
    # one pixel or one label, by the smallest step
    for field in ("train_x", "train_y", "test_x", "test_y"):
        changed = {f: getattr(a, f).clone() for f in ("train_x", "train_y", "test_x", "test_y")}
        changed[field].view(-1)[0] ^= 1
        seen.add(
            data.Dataset("a", **changed, classes=a.classes, mean=a.mean, std=a.std).fingerprint
        )
    seen.add(
        data.Dataset(
            "a", a.train_x, a.train_y, a.test_x, a.test_y, a.classes, (0.5,) * 3, a.std
        ).fingerprint
    )
    assert len(seen) == 6


def test_images_of_mixed_sizes_need_a_size(elsewhere):
    files = tree() | {"train/yes/large.png": png(images(1, 12)[0])}
    source = write_tar(elsewhere / "mixed.tar", files)
    with pytest.raises(
        ValueError, match=r"train/yes/large.png is \(12, 12\), others are \(8, 8\); pass size"
    ):
        data.register_images("mixed", source, progress=False)
    resized = data.register_images("mixed", source, size=6, progress=False)
    assert resized.train_x.shape == (129, 3, 6, 6)


def test_errors_of_registration_name_the_cause(elsewhere):
    def fails(files, message):
        with pytest.raises(ValueError, match=message):
            data.register_images("bad", write_tar(elsewhere / "bad.tar", files), progress=False)

    fails(
        {k: v for k, v in tree().items() if k.startswith("train")}, "no images under test/<class>/"
    )
    fails(
        {k: v for k, v in tree().items() if k.startswith("test")}, "no images under train/<class>/"
    )
    fails(
        tree() | {"test/maybe/0.png": png(images(1)[0])},
        r"test has classes that train lacks: \['maybe'\]",
    )
    fails(
        tree() | {"train/no/broken.png": b"not a picture"},
        "train/no/broken.png .* is not a readable image",
    )
    fails(
        tree() | {"train/no/cut.png": png(images(1)[0])[:-60]},
        "train/no/cut.png .* is not a readable image",
    )
    with pytest.raises(ValueError, match="belongs to a built-in dataset"):
        data.register_images("cifar10", elsewhere / "bad.tar")
    (elsewhere / "text").write_text("hello", encoding="utf-8")
    for wrong in ("absent", "text"):
        with pytest.raises(ValueError, match="neither a folder nor a tar archive"):
            data.register_images("bad", elsewhere / wrong)
    assert set(data.known_datasets()) == {*data.BUILT_IN, *synthetic.NAMES}


def test_a_damaged_decoded_copy_is_refused(elsewhere):
    data.register_images("pets", write_tar(elsewhere / "pets.tar", tree()), progress=False)
    path = data.data_home() / "pets.safetensors"
    whole = path.read_bytes()
    one_bit = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    for content in (whole[:-1], one_bit, b""):
        path.write_bytes(content)
        data.load.cache_clear()
        with pytest.raises(
            data.DatasetMissing, match="pets.safetensors, is damaged .*register it again"
        ):
            data.load("pets")


# -- tables


def table(features=5, rows=128, seed=0):
    """(X, y, X_test, y_test): features of different means and scales, three classes that they tell
    apart.
    """
    rng = np.random.default_rng(seed)
    centre, scale = rng.normal(0, 100, features), 10.0 ** rng.uniform(-3, 3, features)
    ys = [np.arange(rows) % 3 for _ in range(2)]
    X, X_test = (centre + scale * (rng.normal(size=(rows, features)) + y[:, None]) for y in ys)
    return X, ys[0], X_test, ys[1]


def silently(register, *args, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return register(*args, **how)


@drawn(15)
@given(
    st.integers(2, 9),
    st.integers(128, 200),
    st.integers(0, 2**32 - 1),
    st.lists(st.sampled_from([0.1, 0, -3e7]), max_size=2),
)
def test_features_are_standardised_by_the_training_rows(elsewhere, features, rows, seed, constants):
    X, y, X_test, y_test = table(features, rows, seed)
    for column, value in enumerate(constants[: features - 1]):
        X[:, column] = value  # whose standard deviation is not 0 in floating point for every value
    found = silently(data.register_arrays, "table", X, y, X_test, y_test)
    varied = np.arange(len(constants[: features - 1]), features)
    mean, std = X.mean(0), X.std(0)
    for part, raw in ((found.train_x, X), (found.test_x, X_test)):
        assert part.shape == (rows, 1, 1, features) and part.dtype == torch.float32
        wanted = np.zeros_like(raw)
        wanted[:, varied] = ((raw - mean) / np.where(std > 0, std, 1))[:, varied]
        off = np.abs(part[:, 0, 0].numpy() - wanted).max(initial=0)
        assert off <= 4 * UNIT32 * np.abs(wanted).max(initial=0)
    n = features - len(varied)
    assert any(
        f"{n} of {features} features are constant in X and set to 0" in note for note in found.notes
    ) == (n > 0)
    loaded, pixels = data.load("table"), data.Pixels(found)
    assert loaded.fingerprint == found.fingerprint and loaded.notes == found.notes
    assert torch.equal(pixels.test[0], found.test_x) and torch.equal(
        pixels.test[1], torch.from_numpy(y_test)
    )
    order = torch.arange(rows).flip(0)
    _, dy, dx, flip = pixels.draws(1, 0, False)
    assert torch.equal(pixels.batch(order, dy, dx, None), found.train_x[order])


@pytest.mark.parametrize(
    "given, classes",
    [
        (lambda y: y, ("0", "1", "2")),
        (lambda y: y.astype(float), ("0", "1", "2")),
        (lambda y: y * 10 - 10, ("-10", "0", "10")),
        (lambda y: [("c", "a", "b")[v] for v in y], ("a", "b", "c")),
        (lambda y: y > 0, ("False", "True")),
        (lambda y: np.array([("c", "a", "b")[v] for v in y], dtype=object), ("a", "b", "c")),
        (torch.as_tensor, ("0", "1", "2")),
    ],
)
def test_labels_are_whole_numbers_or_words(elsewhere, given, classes):
    X, y, X_test, y_test = table()
    found = silently(
        data.register_arrays, "table", torch.as_tensor(X), given(y), X_test.tolist(), given(y_test)
    )
    assert found.classes == classes
    labels = np.asarray(given(y)).tolist()
    assert [found.classes[i] for i in found.train_y] == [
        str(int(v)) if type(v) is float else str(v) for v in labels
    ]


def with_one(x, value, row, column):
    x = x.copy()
    x[row, column] = value
    return x


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda t: t | {"X": t["X"][:, :3]},
            "X has 3 features and X_test 5; both need the same columns",
        ),
        (
            lambda t: t | {"X": t["X"][:, 0]},
            r"X must have a row of features per sample, not shape \(128,\)",
        ),
        (
            lambda t: t | {"X_test": t["X_test"].astype(str)},
            "X_test must hold numbers, not <U.*get_dummies",
        ),
        (lambda t: t | {"X": [[1, 2], [3]]}, "X cannot be read as an array"),
        (
            lambda t: t | {"X": with_one(t["X"], np.nan, 2, 3)},
            "X holds nan in row 2, column 3; fill in",
        ),
        (
            lambda t: t | {"X_test": with_one(t["X"], np.inf, 1, 4)},
            "X_test holds inf in row 1, column 4",
        ),
        (lambda t: t | {"X": t["X"] * 0}, "every feature of X is constant"),
        (
            lambda t: t | {"X": np.resize([1e308, -1e308], (128, 5))},
            "column 0 of X has values of too different size",
        ),
        (
            lambda t: t | {"y": t["y"][:-1]},
            r"y must hold a label for each of 128 rows, not have shape \(127,\)",
        ),
        (
            lambda t: t | {"y": np.eye(3)[t["y"]]},
            r"not have shape \(128, 3\); .*y.argmax\(1\) reads one-hot rows",
        ),
        (
            lambda t: t | {"y_test": t["y_test"] + 0.5},
            "y_test must hold classes.*judges classification; .*loss=...\\) .*takes any loss",
        ),
        (
            lambda t: t | {"y": 10.0 * np.arange(128)},
            "y has 128 different numbers in 128 rows, as a quantity has; .*takes any loss",
        ),
        (lambda t: t | {"y": [None] * 128}, "y must hold classes.*not object such as None"),
        (lambda t: t | {"y_test": t["y_test"] + 2}, r"y_test has classes that y lacks: \[3, 4\]"),
        (lambda t: t | {"y": t["y"] * 0, "y_test": t["y"] * 0}, "would have one class, '0'"),
        (
            lambda t: {k: v[:127] for k, v in t.items()},
            "127 training and 127 test rows; diagnostics need at least 128 of each",
        ),
    ],
)
def test_a_table_that_cannot_be_taken_is_refused_by_its_place(elsewhere, change, message):
    given = change(dict(zip(("X", "y", "X_test", "y_test"), table())))
    with pytest.raises(ValueError, match=message):
        data.register_arrays("table", **given)
    assert not list(data.data_home().glob("*"))


def test_a_table_trains_where_features_are_embedded_and_is_refused_elsewhere(elsewhere):
    X, y, X_test, y_test = table(rows=256)
    found = silently(
        data.register_arrays, "table", X.reshape(256, 5, 1), y, X_test, y_test[::-1] * 0
    )
    assert "y_test lacks classes that y has: [1, 2]" in found.notes and found.image_shape == (
        1,
        1,
        5,
    )
    tabular = {"dataset": "table", "augment": False, "epochs": 1}
    (record,) = run([tiny("dfa", **tabular)], Store(elsewhere / "results"), progress=False)
    assert (
        record.status == "complete"
        and record.provenance["dataset_fingerprint"] == found.fingerprint
    )
    for changes, message in (
        ({"augment": True}, "'table' has no pixels to crop and flip; set augment=False"),
        ({"model": "convnet"}, "needs images of at least 8×8"),
        ({"model": "vitmini"}, "patch 4 does not divide images"),
        ({"model": "studentnet", "width": 12}, "needs width = the inputs' 5 features"),
    ):
        with pytest.raises(ValueError, match=message):
            run([tiny("dfa", **tabular | changes)], Store(elsewhere / "results"), progress=False)
    flat = tiny("bp", **tabular, model="studentnet", width=5)
    assert run([flat], Store(elsewhere / "results"), progress=False)[0].status == "complete"
    assert (
        data.kept_shape("table") == ((1, 1, 5), 256)
        and data.kept_shape("../table") is data.kept_shape("absent") is None
    )


# -- committed files

NOTED = {
    "notebook": "11_audit",
    "runs": [{"id": "a", "label": "b"}],
    "claims": [],
    "compared": [],
    "outputs": [],
}
WHOLE = {
    "datasets.json": {"digits": "484917122f6abb99", "pets": "0" * 16},
    "studies/11_audit.json": NOTED,
}
CONFLICT = "<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> theirs\n"


def broken(whole):
    """Texts that a damaged, cut or badly merged file may hold."""
    cut = st.integers(0, len(whole) - 1).map(lambda n: whole[:n].encode())
    other = st.sampled_from(
        [CONFLICT.format(whole, whole), "[]", "null", "3", '"text"', "[" * 100_000, whole + whole]
    )
    return st.one_of(
        cut, other.map(str.encode), st.just(b"\xff" + whole.encode()), st.just(b"\0" * len(whole))
    )


@pytest.mark.parametrize("file", WHOLE)
@drawn(40)
@given(st.data())
def test_a_damaged_committed_file_is_named_with_the_way_out(tmp_path, blobs, file, draw):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(draw.draw(broken(json.dumps(WHOLE[file]))))
    content, store = path.read_bytes(), Store(tmp_path)
    readers = [lambda: data.check_name("digits", tmp_path), lambda: store.check_dataset(blobs)]
    for read in readers if file == "datasets.json" else [lambda: studies(tmp_path)]:
        with pytest.raises(ValueError) as e:
            read()
        assert str(e.value).startswith(f"{path} is damaged or holds the marks of a merge conflict")
        assert (
            str(e.value).endswith(f"restore it: git checkout -- {path}")
            and path.read_bytes() == content
        )


@pytest.mark.parametrize("lost", ["runs", "claims", "compared", "outputs"])
def test_a_summary_without_one_of_its_lists_is_named_by_who_needs_it(tmp_path, capsys, lost):
    path = tmp_path / "studies" / "11_audit.json"
    path.parent.mkdir()
    for noted in ({k: v for k, v in NOTED.items() if k != lost}, NOTED | {lost: None}):
        path.write_text(json.dumps(noted))
        with pytest.raises(ValueError, match=f"11_audit.json is damaged .*it lacks its {lost}"):
            studies(tmp_path, (lost,))
    if lost == "runs":
        assert (
            main(["status", "--results", str(tmp_path)]) == 2
            and f"{path} is damaged" in capsys.readouterr().err
        )
        return
    reader = {"claims": latex.write, "compared": tables.reproduction, "outputs": tables.source_map}[
        lost
    ]
    with pytest.raises(ValueError, match=f"11_audit.json is damaged .*it lacks its {lost}"):
        reader(tmp_path, *[tmp_path / "paper"] * (lost == "claims"))


# -- torchvision


@pytest.fixture
def served(elsewhere, monkeypatch):
    """A folder, and its address on a web server of this test's own."""
    monkeypatch.setenv("no_proxy", "*")
    (folder := elsewhere / "served").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *a: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.handle_error = lambda *a: None  # torchvision hangs up on its first request
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def cifar_archive(folder, address):
    """A small archive of the layout of CIFAR-10's own, and the class attributes that describe
    it.
    """
    path = folder / "cifar-10-python.tar.gz"
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (30, 3072), dtype=np.uint8), rng.integers(0, 10, 30).tolist()
    names = [
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ]
    parts = {
        "data_batch_1": {"data": x[:10], "labels": y[:10]},
        "data_batch_2": {"data": x[10:20], "labels": y[10:20]},
        "test_batch": {"data": x[20:], "labels": y[20:]},
        "batches.meta": {"label_names": names},
    }
    files = {k: pickle.dumps(v) for k, v in parts.items()}
    md5 = {k: hashlib.md5(v).hexdigest() for k, v in files.items()}
    write_tar(path, {f"cifar-10-batches-py/{k}": v for k, v in files.items()})
    attributes = {
        "url": f"{address}/{path.name}",
        "tgz_md5": hashlib.md5(path.read_bytes()).hexdigest(),
        "train_list": [[k, md5[k]] for k in ("data_batch_1", "data_batch_2")],
        "test_list": [["test_batch", md5["test_batch"]]],
        "meta": {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]},
    }
    return x, y, names, attributes


def test_cifar10_through_torchvisions_downloader(served, monkeypatch):
    x, y, names, attributes = cifar_archive(*served)
    for k, v in attributes.items():
        monkeypatch.setattr(torchvision.datasets.CIFAR10, k, v)
    found = data.load("cifar10")
    assert (
        torch.equal(found.train_x, torch.from_numpy(x[:20]).view(20, 3, 32, 32))
        and found.train_y.tolist() == y[:20]
    )
    assert (
        torch.equal(found.test_x, torch.from_numpy(x[20:]).view(10, 3, 32, 32))
        and found.test_y.tolist() == y[20:]
    )
    assert (
        found.classes == tuple(names)
        and found.mean == (0.4914, 0.4822, 0.4465)
        and found.std == (0.2470, 0.2435, 0.2616)
    )
    assert found.train_x.is_contiguous() and found.fingerprint == data.load("cifar10").fingerprint


def test_a_download_with_a_wrong_checksum_is_refused(served, monkeypatch):
    *_, attributes = cifar_archive(*served)
    for k, v in (attributes | {"tgz_md5": "0" * 32}).items():
        monkeypatch.setattr(torchvision.datasets.CIFAR10, k, v)
    with pytest.raises(data.DatasetMissing, match="'cifar10' .*could not be downloaded"):
        data.load("cifar10")


def test_offline_the_message_names_the_ways_out(elsewhere, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz"
    )
    with pytest.raises(data.DatasetMissing) as e:
        data.load("cifar10")
    for part in (
        "'cifar10'",
        str(elsewhere / "home"),
        "Connect once",
        "--dataset digits",
        "data register NAME",
    ):
        assert part in str(e.value)


def test_fashionmnist_from_files_in_place(elsewhere):
    """torchvision's raw idx files, already there: one channel, no download."""
    raw, rng = elsewhere / "home/FashionMNIST/raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    made = {}
    for part, n in (("train", 6), ("t10k", 4)):
        x, y = (
            rng.integers(0, 256, (n, 28, 28), dtype=np.uint8),
            rng.integers(0, 10, n, dtype=np.uint8),
        )
        (raw / f"{part}-images-idx3-ubyte").write_bytes(
            struct.pack(">4i", 0x803, n, 28, 28) + x.tobytes()
        )
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, n) + y.tobytes())
        made[part] = x, y
    found = data.load("fashionmnist")
    assert torch.equal(
        found.train_x, torch.from_numpy(made["train"][0])[:, None]
    ) and found.image_shape == (1, 28, 28)
    assert found.test_y.tolist() == made["t10k"][1].tolist() and found.test_y.dtype == torch.int64


def test_an_unknown_dataset_is_named_with_the_nearest(elsewhere):
    with pytest.raises(
        data.DatasetMissing, match="'cifar1O'; did you mean 'cifar10'.*data register cifar1O PATH"
    ):
        data.load("cifar1O")


def test_a_store_refuses_other_images_of_the_same_name(blobs, tmp_path):
    store = Store(tmp_path)
    store.check_dataset(blobs)
    store.check_dataset(blobs)
    pixel = blobs.train_x.clone()
    pixel[0, 0, 0, 0] ^= 1
    other = dataclasses.replace(blobs, train_x=pixel)
    with pytest.raises(
        ValueError,
        match=f"'blobs' here has fingerprint {other.fingerprint}.*made on {blobs.fingerprint}",
    ):
        store.check_dataset(other)
    store.check_dataset(data.load("digits"))
    with pytest.raises(ValueError, match="fingerprint"):
        Store(tmp_path).check_dataset(other)


def test_sums_of_digits_are_of_two_digits_of_one_split():
    sums, digits = data.load("digit-sums"), data.load("digits")
    assert sums.image_shape == (1, 8, 16) and sums.classes == digits.classes
    for split in ("train", "test"):
        x, y = getattr(sums, f"{split}_x"), getattr(sums, f"{split}_y")
        known = getattr(digits, f"{split}_x"), getattr(digits, f"{split}_y")
        labels = {image.numpy().tobytes(): label.item() for image, label in zip(*known)}
        for pair, label in list(zip(x, y))[:200]:
            halves = (half.contiguous().numpy().tobytes() for half in pair.split(8, dim=-1))
            assert sum(labels[half] for half in halves) % 10 == label


@pytest.mark.parametrize("name", ["digits", "digit-sums", "teacher-a1.0-L1-small"])
def test_a_validation_split_is_of_training_images_alone(name):
    """It parts them: each is in one of its two sides, and no image of the test set is."""
    whole, split = data.load(name), data.load(name + data.VALIDATION)
    parts = torch.cat([split.train_x, split.test_x]), torch.cat([split.train_y, split.test_y])
    assert len(split.test_y) == round(data.HELD_OUT * len(whole.train_y))
    rows = [
        sorted(zip((x.numpy().tobytes() for x in xs), ys.tolist()))
        for xs, ys in (parts, (whole.train_x, whole.train_y))
    ]
    assert rows[0] == rows[1]
    assert split.fingerprint != whole.fingerprint


def test_what_is_embedded_or_no_picture_is_not_augmented():
    assert not data.augments("digits") and not data.augments("digit-sums")
    assert not data.augments("teacher-a1.0-L4") and data.augments("cifar10")
    assert data.test_images("digit-sums") == 2560 and data.test_images("cifar10") == 10_000
    assert data.test_images("nobody-knows") is None
