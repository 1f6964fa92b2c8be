"""Shared fixtures and yardsticks: a small image set registered through the public path, an empty
store, float64.
"""

import inspect
import io
import os
import tarfile
from contextlib import contextmanager, nullcontext
from functools import cache

# of this process and of those that the tests start, before torch is loaded
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from PIL import Image

from faeval_core import RunConfig, Store, data
from faeval_core.ground.streams import stream
from faeval_core.measure import diagnostics
from faeval_core.owncode.outlines import nested
from faeval_core.training import build, initial, noise

# Tests on drawn cases draw the same ones each time and everywhere, and none of them fails for its
# time.
WITHOUT = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile(
    "everywhere", deadline=None, derandomize=True, database=None, suppress_health_check=WITHOUT
)
settings.load_profile("everywhere")


@pytest.hookimpl(tryfirst=True)  # before -m numerical chooses
def pytest_collection_modifyitems(items):
    """A test that holds a bound of rounding depends on the CPU's kernels, whatever its file.

    One that is about compiling is for the CPU that there is.
    """
    bounds = {"apart", "same", "ROUNDING", "ROUNDING32", "UNIT32", "UNIT64"}
    for item in items:
        test = inspect.unwrap(item.function)
        test = getattr(getattr(item.function, "hypothesis", None), "inner_test", test)
        names = {name for code in nested(test.__code__) for name in code.co_names}
        if bounds & names and not item.get_closest_marker("compiled"):
            item.add_marker(pytest.mark.numerical)


@pytest.fixture(autouse=True)
def every_float():
    """An ensemble lets its process count numbers below 1e-38 as zero, with which floats cannot be
    drawn.
    """
    torch.set_flush_denormal(False)


def drawn(cases):
    """Settings of a test on so many drawn cases, told as they are drawn."""
    return settings(max_examples=cases, phases=(Phase.explicit, Phase.generate))


CLASSES = ("ant", "bee", "cat", "dog")
TRAIN, TEST = 1024, 256  # 1024: eight disjoint batches of 128 for the stability diagnostic
UNIT32, UNIT64 = 2**-24, 2**-53  # largest relative error of one rounding
# What a float32 result may be off by that depends on fewer than ten thousand roundings.
ROUNDING32 = 1e4 * UNIT32
# What two ways to one float64 result may differ by: ten million roundings, far more than one
# depends on. A wrong factor or term shows from there on, a thousandth of what float32 would hide.
ROUNDING = 1e-9

SMALL = {  # options in size with `tiny`, of whose levels four steps of relaxation reach all
    "ep": {"steps": 4},
    "sb": {"hidden": 16},
    "cb": {"hidden": 16, "K": 3},
    "vec": {"hidden": 16, "M": 2},
}


@contextmanager
def float64():
    """What is made inside is float64: images of new Pixels; initial values, noise, moments and
    rates of new ensembles.
    """
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def apart(found, wanted):
    """Largest difference of two dictionaries of tensors, relative to the largest entry of its
    tensor.
    """
    pairs = [(found[k].double(), v.double()) for k, v in wanted.items()]
    return max(((a - b).abs().max() / b.abs().max().clamp_min(1e-9)).item() for a, b in pairs)


def same(found, wanted):
    """Assert that two float64 tensors, or two lists of them, are equal but for rounding."""
    pairs = (
        [(found, wanted)] if isinstance(wanted, torch.Tensor) else zip(found, wanted, strict=True)
    )
    for a, b in pairs:
        assert a.dtype == b.dtype == torch.float64
        torch.testing.assert_close(a, b, rtol=0, atol=ROUNDING * b.abs().max().item())


def tiny(method="bp", **changes):
    """A config that trains in a fraction of a second; 20 steps, since 1024 images make 10 whole
    batches of 100.
    """
    values = {
        "dataset": "blobs",
        "width": 12,
        "depth": 3,
        "epochs": 2,
        "batch_size": 100,
        "seed": 1,
    }
    return RunConfig(method, **{**values, **changes})


def member(cfg, image_shape=(3, 8, 8), classes=4, double=True, batch=32):
    """(method, model, params, state) of an untrained member, in float64 unless told otherwise;
    noise for `batch` samples.
    """
    method, model = build(cfg, image_shape, classes)
    with float64() if double else nullcontext():
        p, s = initial(cfg, method)
        s |= noise(method, cfg, batch, stream(0, "test.noise"))
    return method, model, p, s


def probe(pixels, size=256):
    """(x, y) of training images, float64."""
    x, y = pixels.subset("train", size)
    return x.double(), y


def full(method, p, s, pixels):
    """All diagnostics of one member, in the precision of the images."""
    x, y = pixels.subset("test", 256)
    p, s = ({k: v.to(x.dtype) for k, v in part.items()} for part in (p, s))
    return diagnostics.diagnose(
        method, p, s, (x, y), pixels.subset("train", 1024), stream(0, "rho")
    )


def png(array):
    """An array (H, W, 3) of uint8 as the bytes of a PNG file, which keeps every pixel."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, files):
    """A tar archive of {name: bytes}; compressed where the suffix says so."""
    suffix = path.suffix[1:]
    with tarfile.open(path, f"w:{suffix}" if suffix in ("gz", "tgz", "xz") else "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def write_folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def images(n, size=8, seed=0):
    """Random colour images, uint8 (n, size, size, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@cache
def _tree(size):
    pixels, where = (
        iter(images(256, size)),
        [(s, c) for s in ("train", "test") for c in ("yes", "no")],
    )
    return {f"{s}/{c}/{i}.png": png(next(pixels)) for s, c in where for i in range(64)}


def tree(size=8):
    """{path: PNG}: 64 images of each of two classes in train and in test, the fewest that may be
    registered.
    """
    return dict(_tree(size))


def blob_images():
    """{path: PNG} of four classes of 3x8x8 images: a colour pattern per class under strong
    noise.
    """
    rng = np.random.default_rng(0)
    pattern = rng.uniform(60, 190, (len(CLASSES), 8, 8, 3))
    files = {}
    for split, size in (("train", TRAIN), ("test", TEST)):
        for i in range(size):
            c = i % len(CLASSES)
            pixels = np.clip(pattern[c] + rng.normal(0, 40, (8, 8, 3)), 0, 255).astype(np.uint8)
            files[f"blobs/{split}/{CLASSES[c]}/{i:04d}.png"] = png(pixels)
    return files


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """$FAEVAL_DATA for the whole session, with the dataset 'blobs' registered in it from a tar
    archive.
    """
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    folder = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAEVAL_DATA", str(folder / "home"))
        patch.delenv("FAEVAL_TRAIN", raising=False)
        patch.setenv("FAEVAL_DEVICE", "cpu")  # what is tested on CUDA says so
        data.register_images(
            "blobs", write_tar(folder / "blobs.tar", blob_images()), progress=False
        )
        yield folder / "home"


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty $FAEVAL_DATA, and no dataset loaded."""
    monkeypatch.setenv("FAEVAL_DATA", str(tmp_path / "home"))
    data.load.cache_clear()
    yield tmp_path
    data.load.cache_clear()


@pytest.fixture(autouse=True)
def same_draws():
    """What a test draws without a generator of its own does not depend on the tests before it."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def blobs(home):
    return data.load("blobs")


@pytest.fixture(scope="session")
def pixels(blobs):
    return data.Pixels(blobs)


@pytest.fixture
def pixels64(blobs):
    """The same images in float64, and so all that a test with this fixture makes: its ensembles
    train in float64.
    """
    with float64():
        yield data.Pixels(blobs)


@pytest.fixture
def batch(pixels):
    """(x, y) of 32 images, float64."""
    x, y = pixels.subset("train", 32)
    return x.double(), y


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "results")


def scramble(p, seed=0, scale=0.3):
    """Parameters far from the special values of an initial net: every entry moved by N(0,
    scale²).
    """
    g = stream(seed, "scramble")
    return {k: v + scale * torch.randn(v.shape, generator=g, dtype=v.dtype) for k, v in p.items()}
