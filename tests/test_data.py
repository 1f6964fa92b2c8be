"""Datasets: augmentation against torchvision, images in through every public door, and errors that say what is wrong."""

import dataclasses
import functools
import hashlib
import http.server
import pickle
import struct
import threading

import numpy as np
import pytest
import torch
import torchvision
import torchvision.transforms.functional as TF
from conftest import png, write_tar
from PIL import Image
from scipy.stats import chisquare

from faeval_core import Store, data, synthetic


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty $FAEVAL_DATA, and no dataset loaded."""
    monkeypatch.setenv("FAEVAL_DATA", str(tmp_path / "home"))
    data.load.cache_clear()
    yield tmp_path
    data.load.cache_clear()


def images(n, size=8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def tree(n=3, size=8):
    """{path: PNG}: n images of each of two classes in train, one of each in test."""
    pixels = iter(images(2 * n + 2, size))
    files = {f"train/{c}/{i}.png": png(next(pixels)) for c in ("yes", "no") for i in range(n)}
    return files | {f"test/{c}/0.png": png(next(pixels)) for c in ("yes", "no")}


def write_folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


# -- augmentation -------------------------------------------------------------------------------------------------------


def test_every_crop_and_flip_is_torchvisions(pixels, blobs):
    """All 81 x 2 outcomes of RandomCrop(8, padding=4) + RandomHorizontalFlip, then ToTensor and Normalize."""
    dy, dx, flip = (t.flatten() for t in torch.meshgrid(torch.arange(9), torch.arange(9), torch.arange(2), indexing="ij"))
    index = torch.arange(len(dy)) * 5
    index[-1] = 1023  # the last crop of the last image
    found = pixels.batch(index, dy, dx, flip.bool())
    for i in range(len(dy)):
        image = TF.pad(blobs.train_x[index[i]], [4])
        image = TF.crop(image, int(dy[i]), int(dx[i]), 8, 8)
        image = TF.hflip(image) if flip[i] else image
        wanted = TF.normalize(image / 255, blobs.mean, blobs.std)
        torch.testing.assert_close(found[i], wanted, rtol=0, atol=2e-6)
    assert torch.equal(pixels.batch(index, dy, dx, None), pixels.batch(index, dy, dx, torch.zeros(len(dy), dtype=torch.bool)))


def test_draws_are_uniform_and_each_epoch_is_a_permutation(pixels):
    """dy, dx uniform on 0..8 jointly, flips fair and independent of them: chi-square over 162 cells, fixed seed."""
    cells = torch.zeros(162)
    for epoch in range(20):
        order, dy, dx, flip = pixels.draws(3, epoch, True)
        assert torch.equal(order.sort().values, torch.arange(1024))
        cells += torch.bincount((dy * 9 + dx) * 2 + flip, minlength=162)
    assert cells.sum() == 20 * 1024 and 0.001 < chisquare(cells.numpy()).pvalue < 0.999
    starts = torch.stack([pixels.draws(3, epoch, True)[0][:64] for epoch in range(160)])
    assert 0.001 < chisquare(torch.bincount(starts.flatten() // 64, minlength=16).numpy()).pvalue < 0.999


def test_draws_depend_on_seed_and_epoch_alone(pixels):
    first = pixels.draws(3, 1, True)
    assert all(torch.equal(a, b) for a, b in zip(first, pixels.draws(3, 1, True)))
    for other in (pixels.draws(4, 1, True), pixels.draws(3, 2, True)):
        assert not any(torch.equal(a, b) for a, b in zip(first, other))
    order, dy, dx, flip = pixels.draws(3, 1, False)  # without augmentation: the same order, centred, never flipped
    assert torch.equal(order, first[0]) and (dy == 4).all() and (dx == 4).all() and not flip.any()


def test_normalisation_and_probe_subset(pixels, blobs):
    """(x/255 - mean)/std per channel; over the training set that is mean 0 and variance 1; a subset is not augmented."""
    x = pixels.normalise(blobs.train_x)
    torch.testing.assert_close(x, TF.normalize(blobs.train_x / 255, blobs.mean, blobs.std), rtol=0, atol=2e-6)
    assert x.mean((0, 2, 3)).abs().max() < 1e-3 and (x.std((0, 2, 3)) - 1).abs().max() < 1e-3
    x, y = pixels.subset("test", 256)
    whole = pixels.normalise(blobs.test_x)
    position = [(whole == image).flatten(1).all(1).nonzero().item() for image in x]
    assert sorted(position) == list(range(256)) and torch.equal(blobs.test_y[position], y)
    assert torch.equal(pixels.subset("test", 100)[0], x[:100])


# -- sources ------------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns():
    """Every image of the source once, split 1437/360, intensities 0..16 as 0..240; constants are those of train."""
    from sklearn.datasets import load_digits

    digits, raw = data.load("digits"), load_digits()
    assert digits.train_x.shape == (1437, 1, 8, 8) and digits.test_x.shape == (360, 1, 8, 8) and len(digits.classes) == 10
    ours = torch.cat([digits.train_x, digits.test_x]).flatten(1)
    rows = [(*x.tolist(), y) for x, y in zip(ours, torch.cat([digits.train_y, digits.test_y]).tolist())]
    assert sorted(rows) == sorted((*(15 * x).astype(int).tolist(), int(y)) for x, y in zip(raw.data, raw.target))
    x = digits.train_x.double() / 255
    assert x.mean().item() == pytest.approx(digits.mean[0], abs=1e-3) and x.std().item() == pytest.approx(digits.std[0], abs=1e-3)


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
    assert found.train_x.shape == (6, 3, 8, 8) and found.test_y.tolist() == [0, 1]
    stored = {png(x.permute(1, 2, 0).numpy()): found.classes[y] for x, y in zip(found.train_x, found.train_y)}
    assert stored == {v: k.split("/")[1] for k, v in files.items() if k.startswith("train") and k.endswith("png")}
    flat = found.train_x.double().permute(1, 0, 2, 3).flatten(1) / 255
    assert found.mean == pytest.approx(flat.mean(1).tolist(), abs=1e-4)
    assert found.std == pytest.approx(flat.std(1).tolist(), abs=1e-3)


def test_fingerprint_is_of_the_images_and_not_of_their_container(elsewhere):
    write_folder(elsewhere / "folder", tree())
    a = data.register_images("a", elsewhere / "folder", progress=False)
    b = data.register_images("b", write_tar(elsewhere / "b.tar", tree()), progress=False)
    assert a.fingerprint == b.fingerprint
    seen = {a.fingerprint}
    for field in ("train_x", "train_y", "test_x", "test_y"):  # one pixel or one label, by the smallest step
        changed = {f: getattr(a, f).clone() for f in ("train_x", "train_y", "test_x", "test_y")}
        changed[field].view(-1)[0] ^= 1
        seen.add(data.Dataset("a", **changed, classes=a.classes, mean=a.mean, std=a.std).fingerprint)
    seen.add(data.Dataset("a", a.train_x, a.train_y, a.test_x, a.test_y, a.classes, (0.5,) * 3, a.std).fingerprint)
    assert len(seen) == 6


def test_images_of_mixed_sizes_need_a_size(elsewhere):
    files = tree() | {"train/yes/large.png": png(images(1, 12)[0])}
    source = write_tar(elsewhere / "mixed.tar", files)
    with pytest.raises(ValueError, match=r"train/yes/large.png is \(12, 12\), others are \(8, 8\); pass size"):
        data.register_images("mixed", source, progress=False)
    resized = data.register_images("mixed", source, size=6, progress=False)
    assert resized.train_x.shape == (7, 3, 6, 6)


def test_errors_of_registration_name_the_cause(elsewhere):
    def fails(files, message):
        with pytest.raises(ValueError, match=message):
            data.register_images("bad", write_tar(elsewhere / "bad.tar", files), progress=False)

    fails({k: v for k, v in tree().items() if k.startswith("train")}, "no images under test/<class>/")
    fails({k: v for k, v in tree().items() if k.startswith("test")}, "no images under train/<class>/")
    fails(tree() | {"test/maybe/0.png": png(images(1)[0])}, r"test has classes that train lacks: \['maybe'\]")
    fails(tree() | {"train/no/broken.png": b"not a picture"}, "train/no/broken.png .* is not a readable image")
    fails(tree() | {"train/no/cut.png": png(images(1)[0])[:-60]}, "train/no/cut.png .* is not a readable image")
    with pytest.raises(ValueError, match="belongs to a built-in dataset"):
        data.register_images("cifar10", elsewhere / "bad.tar")
    (elsewhere / "text").write_text("hello")
    for wrong in ("absent", "text"):
        with pytest.raises(ValueError, match="neither a folder nor a tar archive"):
            data.register_images("bad", elsewhere / wrong)
    assert set(data.known_datasets()) == {*data.BUILT_IN, *synthetic.NAMES}


def test_greyscale_and_palette_images_are_read_as_rgb(elsewhere):
    grey = images(1)[0][..., 0]
    for i, image in enumerate((Image.fromarray(grey), Image.fromarray(grey).convert("P"))):
        image.save(elsewhere / f"{i}.png")
    files = tree() | {f"train/yes/grey{i}.png": (elsewhere / f"{i}.png").read_bytes() for i in (0, 1)}
    found = data.register_images("grey", write_tar(elsewhere / "grey.tar", files), progress=False)
    wanted = torch.from_numpy(grey).expand(3, 8, 8)
    assert sum(torch.equal(x, wanted) for x in found.train_x) == 2


def test_a_damaged_decoded_copy_is_refused(elsewhere):
    data.register_images("pets", write_tar(elsewhere / "pets.tar", tree()), progress=False)
    path = data.data_home() / "pets.safetensors"
    whole = path.read_bytes()
    one_bit = whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]
    for content in (whole[:-1], one_bit, b""):
        path.write_bytes(content)
        data.load.cache_clear()
        with pytest.raises(data.DatasetMissing, match="pets.safetensors, is damaged .*register it again"):
            data.load("pets")


# -- torchvision --------------------------------------------------------------------------------------------------------


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
    """A small archive of the layout of CIFAR-10's own, and the class attributes that describe it."""
    path = folder / "cifar-10-python.tar.gz"
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (30, 3072), dtype=np.uint8), rng.integers(0, 10, 30).tolist()
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    parts = {
        "data_batch_1": {"data": x[:10], "labels": y[:10]}, "data_batch_2": {"data": x[10:20], "labels": y[10:20]},
        "test_batch": {"data": x[20:], "labels": y[20:]}, "batches.meta": {"label_names": names},
    }  # fmt: skip
    files = {k: pickle.dumps(v) for k, v in parts.items()}
    md5 = {k: hashlib.md5(v).hexdigest() for k, v in files.items()}
    write_tar(path, {f"cifar-10-batches-py/{k}": v for k, v in files.items()})
    attributes = {
        "url": f"{address}/{path.name}", "tgz_md5": hashlib.md5(path.read_bytes()).hexdigest(),
        "train_list": [[k, md5[k]] for k in ("data_batch_1", "data_batch_2")], "test_list": [["test_batch", md5["test_batch"]]],
        "meta": {"filename": "batches.meta", "key": "label_names", "md5": md5["batches.meta"]},
    }  # fmt: skip
    return x, y, names, attributes


def test_cifar10_through_torchvisions_downloader(served, monkeypatch):
    x, y, names, attributes = cifar_archive(*served)
    for k, v in attributes.items():
        monkeypatch.setattr(torchvision.datasets.CIFAR10, k, v)
    found = data.load("cifar10")
    assert torch.equal(found.train_x, torch.from_numpy(x[:20]).view(20, 3, 32, 32)) and found.train_y.tolist() == y[:20]
    assert torch.equal(found.test_x, torch.from_numpy(x[20:]).view(10, 3, 32, 32)) and found.test_y.tolist() == y[20:]
    assert found.classes == tuple(names) and found.mean == (0.4914, 0.4822, 0.4465) and found.std == (0.2470, 0.2435, 0.2616)
    assert found.train_x.is_contiguous() and found.fingerprint == data.load("cifar10").fingerprint


def test_a_download_with_a_wrong_checksum_is_refused(served, monkeypatch):
    *_, attributes = cifar_archive(*served)
    for k, v in (attributes | {"tgz_md5": "0" * 32}).items():
        monkeypatch.setattr(torchvision.datasets.CIFAR10, k, v)
    with pytest.raises(data.DatasetMissing, match="'cifar10' .*could not be downloaded"):
        data.load("cifar10")


def test_offline_the_message_names_the_ways_out(elsewhere, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    with pytest.raises(data.DatasetMissing) as e:
        data.load("cifar10")
    for part in ("'cifar10'", str(elsewhere / "home"), "Connect once", "--dataset digits", "data register NAME"):
        assert part in str(e.value)


def test_fashionmnist_from_files_in_place(elsewhere):
    """torchvision's raw idx files, already there: one channel, no download."""
    raw, rng = elsewhere / "home/FashionMNIST/raw", np.random.default_rng(0)
    raw.mkdir(parents=True)
    made = {}
    for part, n in (("train", 6), ("t10k", 4)):
        x, y = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8), rng.integers(0, 10, n, dtype=np.uint8)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 0x803, n, 28, 28) + x.tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 0x801, n) + y.tobytes())
        made[part] = x, y
    found = data.load("fashionmnist")
    assert torch.equal(found.train_x, torch.from_numpy(made["train"][0])[:, None]) and found.image_shape == (1, 28, 28)
    assert found.test_y.tolist() == made["t10k"][1].tolist() and found.test_y.dtype == torch.int64


def test_an_unknown_dataset_is_named_with_the_nearest(elsewhere):
    with pytest.raises(data.DatasetMissing, match="'cifar1O'; did you mean 'cifar10'.*data register cifar1O PATH"):
        data.load("cifar1O")


def test_a_store_refuses_other_images_of_the_same_name(blobs, tmp_path):
    store = Store(tmp_path)
    store.check_dataset(blobs)
    store.check_dataset(blobs)
    pixel = blobs.train_x.clone()
    pixel[0, 0, 0, 0] ^= 1
    other = dataclasses.replace(blobs, train_x=pixel)
    with pytest.raises(ValueError, match=f"'blobs' here has fingerprint {other.fingerprint}.*made on {blobs.fingerprint}"):
        store.check_dataset(other)
    store.check_dataset(data.load("digits"))
    with pytest.raises(ValueError, match="fingerprint"):
        Store(tmp_path).check_dataset(other)
