"""Images and archives that are not plain: each kind is read rightly and said, or refused by name
before anything is kept.
"""

import errno
import functools
import hashlib
import io
import json
import os
import string
import struct
import tarfile
import warnings

import numpy as np
import PIL.EpsImagePlugin
import pytest
import torch
from conftest import drawn, images, png, tree, write_folder, write_tar
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageFile

from faeval_core import data
from faeval_core.data import images as reader
from faeval_core.data import trees


def encoded(image, kind, **how):
    """The bytes of an image of Pillow, or of an array, in a file format."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **how)
    return buffer.getvalue()


def registered(folder, files, name="pets", **how):
    """(dataset, what was said) of a tar archive of {path: bytes}."""
    source = write_tar(folder / "pets.tar", files)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = data.register_images(name, source, progress=False, **how)
    assert len(said) <= 1 and (
        not said or str(said[0].message) == f"dataset {name!r}: {'; '.join(found.notes)}"
    )
    return found, "; ".join(found.notes)


def refused(source, message, **how):
    """Registering `source` ends in one error that says `message`, and keeps nothing."""
    with pytest.raises(ValueError, match=message):
        data.register_images("bad", source, progress=False, **how)
    assert not list(data.data_home().glob("*"))


def all_of(files, change):
    """The files with change(array of RGB) as the content of each."""
    return {k: change(np.asarray(Image.open(io.BytesIO(v)))) for k, v in files.items()}


PLAIN = "701547ceb919b7da"  # fingerprint of `tree`


# -- what must not change


def test_plain_images_give_the_tensors_and_the_fingerprint_that_they_always_gave(elsewhere):
    """The fingerprints were taken before images of other kinds were read; the hash is written out
    here once more.
    """
    files = tree()
    found, _ = registered(elsewhere, files)
    parts = []
    for split in ("train", "test"):
        rows = sorted((k.split("/")[1], k) for k in files if k.startswith(split))
        x = np.stack(
            [
                np.asarray(Image.open(io.BytesIO(files[k])).convert("RGB")).transpose(2, 0, 1)
                for _, k in rows
            ]
        )
        y = np.array([("no", "yes").index(label) for label, _ in rows])
        assert np.array_equal(getattr(found, f"{split}_x"), x) and found.train_x.is_contiguous()
        parts += [str(x.shape).encode(), x.tobytes(), str(y.shape).encode(), y.tobytes()]
    told = json.dumps([["no", "yes"], list(found.mean), list(found.std)]).encode()
    assert found.fingerprint == hashlib.sha256(b"".join([told, *parts])).hexdigest()[:16]
    constants = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.25, 0.3)}
    prints = [
        registered(elsewhere, files, **how)[0].fingerprint for how in ({}, {"size": 6}, constants)
    ]
    assert prints == [PLAIN, "8e219969f92dd628", "5d313d8da627db29"]


def test_the_committed_fingerprints_of_what_every_machine_has():
    wanted = {
        "digits": "484917122f6abb99",
        "gaussian64": "ba7c9ceaf4225939",
        "teacher-a1.0-L4": "f08299e7ed83fd18",
    }
    assert {name: data.load(name).fingerprint for name in wanted} == wanted


# -- pixels

WIDE = {"png": ("PNG", "<u2"), "tif": ("TIFF", "<u2"), "pgm": ("PPM", ">i4")}


@drawn(25)
@given(st.sampled_from(sorted(WIDE)), st.integers(0, 2**32 - 1))
def test_16_bits_of_grey_are_scaled_to_the_full_range(kind, seed):
    """Within one step of 8 bits of the intensity, black to black, white to white, and in order."""
    values = np.random.default_rng(seed).integers(0, 65536, (6, 7)).astype(np.uint16)
    values[0, :2] = 0, 65535
    if kind == "pgm":
        content = b"P5 7 6 65535\n" + values.astype(">u2").tobytes()
    else:
        content = encoded(values, WIDE[kind][0])
    done = reader.Done()
    (found,) = reader.decode(content, None, done).numpy()
    assert np.abs(found / 255 - values / 65535).max() <= 1 / 255 and found[0, :2].tolist() == [
        0,
        255,
    ]
    assert (np.diff(found.flatten()[values.flatten().argsort()].astype(int)) >= 0).all()
    assert done.told() == [
        "1 16-bit image scaled to 8 bits (their brightest pixel has 65535 of 65535)"
    ]


@drawn(25)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([-0.01, 1.01, 255.0, np.nan, np.inf]),
)
def test_floats_are_read_in_0_to_1_and_refused_elsewhere(seed, edge, wrong):
    values = np.random.default_rng(seed).random((5, 4)).astype(np.float32)
    values[0, 0] = edge
    found = reader.decode(encoded(values, "TIFF"), None, reader.Done())
    assert np.abs(found.numpy() / 255 - values).max() <= 0.51 / 255
    values[1, 1] = wrong
    with pytest.raises(
        reader.Refused, match="floating-point values .* outside of 0..1; scale them"
    ):
        reader.decode(encoded(values, "TIFF"), None, reader.Done())


def test_32_bit_integers_leave_open_what_white_is(elsewhere):
    values = np.arange(64, dtype=np.int32).reshape(8, 8)
    files = tree() | {"train/no/wide.tif": encoded(values, "TIFF")}
    refused(
        write_tar(elsewhere / "a.tar", files),
        "train/no/wide.tif .* has 32-bit integers; save it with 8 or 16 bits",
    )


def colourful():
    """{kind: (file name, bytes, the pixels that it must give)} of images that must be converted."""
    rgb = [Image.fromarray(x) for x in images(4)]
    alpha = Image.fromarray(images(1, seed=1)[0, ..., 0])
    palette, cmyk, transparent = rgb[0].quantize(16), rgb[1].convert("CMYK"), rgb[2].copy()
    transparent.putalpha(alpha)
    frames = [im.quantize(32) for im in rgb]
    keyed = encoded(palette, "PNG", transparency=3)
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    return {
        "palette": ("p.png", encoded(palette, "PNG"), palette.convert("RGB")),
        "alpha": ("a.png", encoded(transparent, "PNG"), rgb[2]),
        "palette and alpha": ("k.png", keyed, palette.convert("RGB")),
        "cmyk": ("c.tif", encoded(cmyk, "TIFF"), cmyk.convert("RGB")),
        "palette and frames": ("g.gif", animated, frames[0].convert("RGB")),
        "frames": ("w.png", encoded(rgb[3], "PNG", save_all=True, append_images=rgb[:2]), rgb[3]),
        "stack": ("s.tif", encoded(rgb[3], "TIFF", save_all=True, append_images=rgb[:2]), rgb[3]),
    }


WORDS = {  # what is told -> the kinds that it counts
    "{n} palette image{s} converted to RGB": ["palette", "palette and alpha", "palette and frames"],
    "{n} CMYK image{s} converted to RGB": ["cmyk"],
    "alpha dropped on {n}": ["alpha", "palette and alpha"],
    "first frame of {n} animation{s} taken": ["palette and frames", "frames", "stack"],
}


@drawn(5)
@given(st.dictionaries(st.sampled_from(sorted(colourful())), st.integers(1, 3)))
def test_what_is_converted_is_counted_by_kind_in_one_line(elsewhere, chosen):
    made, files = colourful(), tree()
    for kind, n in chosen.items():
        file, content, _ = made[kind]
        files |= {f"train/yes/{i}{file}": content for i in range(n)}
    found, said = registered(elsewhere, files)
    for kind, n in chosen.items():
        wanted = torch.from_numpy(np.asarray(made[kind][2]).copy()).permute(2, 0, 1)
        assert sum(torch.equal(x, wanted) for x in found.train_x[found.train_y == 1]) >= n, kind
    counts = {told: sum(chosen.get(kind, 0) for kind in kinds) for told, kinds in WORDS.items()}
    wanted = [told.format(n=n, s="s" * (n > 1)) for told, n in counts.items() if n]
    assert [part for part in said.split("; ") if not part.startswith("stability")] == wanted


GREYS = {
    "L": lambda grey: encoded(grey, "PNG"),
    "1": lambda grey: encoded(Image.fromarray(grey).convert("1"), "PNG"),
    "LA": lambda grey: encoded(Image.merge("LA", [Image.fromarray(grey)] * 2), "PNG"),
    "16": lambda grey: encoded(grey.astype(np.uint16) * 257, "PNG"),
    "jpeg": lambda grey: encoded(grey, "JPEG", quality=95),
    "gif": lambda grey: encoded(grey, "GIF"),
}


@pytest.mark.parametrize("kind", GREYS)
def test_a_greyscale_set_keeps_its_one_channel(elsewhere, kind):
    files = all_of(tree(), lambda rgb: GREYS[kind](rgb[..., 0]))
    found, said = registered(elsewhere, files)
    assert (
        found.image_shape == (1, 8, 8)
        and len(found.mean) == len(found.std) == 1
        and "channels" not in said
    )
    if kind in ("L", "16", "LA", "gif"):
        first = min(k for k in files if k.startswith("train"))
        assert np.array_equal(
            found.train_x[0, 0], np.asarray(Image.open(io.BytesIO(tree()[first])))[..., 0]
        )
    x, y = data.Pixels(found).subset("train", 128)
    assert x.shape == (128, 1, 8, 8) and x.isfinite().all() and abs(x.mean()) < 0.1
    one = registered(elsewhere, files, mean=[0.5], std=[0.25])[0]
    assert one.mean == (0.5,) and one.std == (0.25,)
    with pytest.raises(
        ValueError, match="3 values are given for mean and std, and the images have 1 channels"
    ):
        registered(elsewhere, files, mean=[0.5] * 3, std=[0.2] * 3)


def test_greyscale_among_colours_is_repeated_and_said(elsewhere):
    grey = images(1)[0][..., 0]
    greys = {f"train/{c}/grey.png": encoded(grey, "PNG") for c in ("yes", "no")}
    found, said = registered(elsewhere, tree() | greys)
    assert (
        found.image_shape == (3, 8, 8) and "2 greyscale images repeated over three channels" in said
    )
    assert sum(torch.equal(x, torch.from_numpy(grey).expand(3, 8, 8)) for x in found.train_x) == 2


@drawn(6)
@given(st.sampled_from([0, 1, 2, "grey"]), st.integers(0, 255), st.booleans())
def test_a_channel_without_spread_is_refused_by_name(elsewhere, channel, value, given_constants):
    """Every rule would divide by its std of 0, and diverge at the first step."""

    def flat(rgb):
        rgb = rgb.copy()
        if channel == "grey":
            return encoded(np.full_like(rgb[..., 0], value), "PNG")
        rgb[..., channel] = value
        return png(rgb)

    n = 1 if channel == "grey" else 3
    how = {"mean": [0.5] * n, "std": [0.2] * n} if given_constants else {}
    name = channel if channel == "grey" else ("red", "green", "blue")[channel]
    source = write_tar(elsewhere / "a.tar", all_of(tree(), flat))
    refused(source, f"the {name} channel of the training images is constant", **how)


# -- damage

FORMATS = {
    "png": ("PNG", {}),
    "gif": ("GIF", {}),
    "jpg": ("JPEG", {}),
    "bmp": ("BMP", {}),
    "webp": ("WEBP", {"lossless": True}),
    "tif": ("TIFF", {}),
    "lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "ppm": ("PPM", {}),
}


@functools.cache
def sound(kind):
    name, how = FORMATS[kind]
    content = encoded(images(1, 12)[0], name, **how)
    return content, reader.decode(content, None, reader.Done())


@drawn(80)
@given(st.sampled_from(sorted(FORMATS)), st.integers(0, 999))
def test_a_cut_image_is_refused_unless_every_pixel_is_there(kind, where):
    content, whole = sound(kind)
    try:
        found = reader.decode(content[: where * len(content) // 1000], None, reader.Done())
    except reader.Refused as e:
        assert str(e).startswith("is not a readable image (") and "0x" not in str(e)
    else:
        assert torch.equal(found, whole)


@drawn(100)
@given(
    st.sampled_from(sorted(set(FORMATS) - {"lzw"})),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
)
def test_no_damage_to_an_image_ends_in_anything_but_a_refusal(kind, bytes_):
    content = bytearray(sound(kind)[0])
    for place, value in bytes_:
        content[place % len(content)] = value
    try:
        found = reader.decode(bytes(content), None, reader.Done())
        assert found.dtype == torch.uint8 and len(found) in (1, 3)
    except reader.Refused as e:
        assert str(e).startswith(("is not a readable image (", "has "))


RAISED = [
    SyntaxError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
    MemoryError,
    IndexError,
    EOFError,
]


@pytest.mark.parametrize("error", RAISED)
def test_whatever_pillow_raises_the_file_is_named(elsewhere, monkeypatch, error):
    def fail(self):
        raise error("some text")

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    refused(
        write_tar(elsewhere / "a.tar", tree()), r"/0.png .* is not a readable image \(some text\)"
    )


@pytest.mark.parametrize("file", ["a.png", "a.jpg", "a.TIF"])
def test_postscript_under_an_images_name_never_reaches_ghostscript(elsewhere, monkeypatch, file):
    ran = []
    monkeypatch.setattr(PIL.EpsImagePlugin, "Ghostscript", lambda *args, **_: ran.append(args))
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) show\n%%EOF\n"
    refused(
        write_tar(elsewhere / "a.tar", tree() | {f"train/no/{file}": eps}),
        f"train/no/{file} .* .none of JPEG, PNG",
    )
    assert not ran


# -- trees


@drawn(6)
@given(
    st.sampled_from(["backup", "old/copy", "training", "backup/train", "no/test/no"]),
    st.integers(1, 256),
)
def test_a_second_tree_below_the_first_is_left_out_and_said(elsewhere, where, n):
    files = tree()
    # of another size, were it taken
    again = {f"{where}/{k}": png(images(1, 5)[0]) for k in list(files)[:n]}
    found, said = registered(elsewhere, files | again)
    assert found.fingerprint == PLAIN
    assert (
        f"images outside of train/<class>/ and test/<class>/ left out: {n}, such as {where}/"
        in said
    )


def test_images_deeper_in_a_class_are_taken_and_said(elsewhere):
    files = tree()
    moved = {
        k.replace("/yes/", "/yes/more/of/") if k.endswith("1.png") else k: v
        for k, v in files.items()
    }
    n = sum("/of/" in k for k in moved)
    found, said = registered(elsewhere, moved)
    assert f"images in folders inside a class's: {n}, such as test/yes/more/of/" in said
    flat = registered(elsewhere, files)[0]
    rows = [
        sorted(map(bytes, d.train_x[d.train_y == c].numpy())) for d in (found, flat) for c in (0, 1)
    ]
    assert rows[:2] == rows[2:]


def test_of_two_trees_as_high_neither_is_taken(elsewhere):
    files = {f"{top}/{k}": v for top in ("a", "b") for k, v in tree().items()}
    refused(
        write_tar(elsewhere / "two.tar", files), "holds 2 trees of images, a, b; pack one by itself"
    )
    folder = write_folder(elsewhere / "two", files)
    refused(folder, "holds 2 trees of images, a, b; register the folder of one")
    assert data.register_images("one", folder / "a", progress=False).train_x.shape == (128, 3, 8, 8)


@pytest.mark.parametrize(
    "there", ["test", "validation", "val", "test val", "validation val", "validation test"]
)
def test_validation_images_stand_in_for_test_images(elsewhere, there):
    there = there.split()
    files = tree()
    made = {k: v for k, v in files.items() if k.startswith("train")}
    for name in there:
        made |= {k.replace("test", name, 1): v for k, v in files.items() if k.startswith("test")}
    taken = next(name for name in ("test", "validation", "val") if name in there)
    found, said = registered(elsewhere, made)
    assert found.fingerprint == PLAIN
    assert (f"{taken}/ taken as test/" in said) == (taken != "test")
    for other in set(there) - {taken}:
        assert (
            f"images outside of train/<class>/ and {taken}/<class>/ left out: 128, such as {other}/"
            in said
        )


def test_classes_of_one_split_alone_are_named(elsewhere):
    extra = png(images(1)[0])
    found, said = registered(
        elsewhere, tree() | {"train/maybe/0.png": extra, "train/never/0.png": extra}
    )
    assert (
        "test/ lacks classes that train/ has: ['maybe', 'never']" in said
        and len(found.classes) == 4
    )
    (data.data_home() / "pets.safetensors").unlink()
    source = write_tar(elsewhere / "a.tar", tree() | {"test/maybe/0.png": extra})
    refused(source, r"test has classes that train lacks: \['maybe'\]")


@drawn(10)
@given(st.sampled_from(["train", "test"]), st.integers(1, 63))
def test_too_few_images_are_refused_before_any_is_decoded(elsewhere, split, n):
    files = {k: b"" for k in tree()}
    few = dict(list((k, v) for k, v in files.items() if k.startswith(split))[: 2 * n])
    others = {k: v for k, v in files.items() if not k.startswith(split)}
    few |= {f"{split}/{c}/last.png": b"" for c in ("no", "yes")} if 2 * n + 2 < 128 else {}
    counts = {split: len(few)} | {("test" if split == "train" else "train"): 128}
    told = (
        f"{counts['train']} training and {counts['test']} test images; diagnostics need at "
        "least 128 of each"
    )
    refused(write_tar(elsewhere / "a.tar", few | others), told)


def test_fewer_images_than_stability_needs_are_said(elsewhere, blobs):
    _, said = registered(elsewhere, tree())
    assert said == (
        "stability, one of the diagnostics, needs 1024 training images and will be "
        "undefined with 128"
    )
    assert not blobs.notes  # of 1024


def test_one_class_is_refused(elsewhere):
    files = {k.replace("/no/", "/yes/x"): v for k, v in tree().items()}
    refused(write_tar(elsewhere / "a.tar", files), "would have one class, 'yes'")


# -- links


@pytest.mark.parametrize("level", ["train", "train/no", "test/yes"])
def test_links_to_folders_are_followed_and_said(elsewhere, level):
    folder = write_folder(elsewhere / "pets", tree())
    plain = data.register_images("plain", folder, progress=False)
    (folder / level).rename(elsewhere / "far")
    (folder / level).symlink_to(elsewhere / "far", target_is_directory=True)
    found = data.register_images("linked", folder, progress=False)
    assert found.fingerprint == plain.fingerprint
    assert f"links to folders followed: 1, such as {level}" in found.notes


def test_links_that_lead_nowhere_or_round_in_circles_are_refused(elsewhere):
    folder = write_folder(elsewhere / "pets", tree())
    for link, target, message in (
        (
            "train/no/x.png",
            "absent.png",
            "train/no/x.png is a link that leads nowhere .absent.png.",
        ),
        ("train/maybe", "absent", "train/maybe is a link that leads nowhere"),
        ("train/maybe", "../..", "train/maybe is a link to a folder that holds it"),
        ("train/no/up", ".", "train/no/up is a link to a folder that holds it"),
    ):
        (folder / link).symlink_to(target)
        refused(folder, message)
        (folder / link).unlink()


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
@pytest.mark.parametrize("name", ["train/no/link.png", "pets/test/yes/x.png", "train/maybe"])
def test_links_in_an_archive_are_refused_by_name(elsewhere, kind, name):
    source = write_tar(elsewhere / "a.tar", tree())
    with tarfile.open(source, "a") as tar:
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = kind, "train/no/0.png"
        tar.addfile(entry)
    refused(
        source,
        (
            f"{name} .* is a link to train/no/0.png, and links in archives are not followed; pack "
            "with tar --dereference"
        ),
    )


# -- archives

SUFFIXES = ["tar", "tar.gz", "tar.xz", "tar.bz2"]


@functools.cache
def archive(suffix):
    """Bytes of an archive, and where its mark of the end is over if it is not compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{suffix[4:]}") as tar:
        for name, content in tree().items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        end = tar.offset + 2 * tarfile.BLOCKSIZE
    return buffer.getvalue(), end


def cuts():
    """(suffix, bytes left) at any place, and close to the borders of the blocks of a plain
    archive.
    """
    numbers = st.integers(1, archive("tar")[1] // 512), st.integers(-1, 1)
    blocks = st.builds(lambda block, more: ("tar", 512 * block + more), *numbers)
    places = [st.tuples(st.just(s), st.integers(0, len(archive(s)[0]) - 1)) for s in SUFFIXES]
    return st.one_of(blocks, *places)


@example(("tar.gz", len(archive("tar.gz")[0]) - 4))  # what holds the checksum, cut
@example(("tar.xz", len(archive("tar.xz")[0]) - 4))
@example(("tar.bz2", len(archive("tar.bz2")[0]) - 4))
@drawn(80)
@given(cuts())
def test_a_cut_archive_is_refused(elsewhere, cut):
    """But for the padding after the end's mark of a plain one."""
    (suffix, kept), source = cut, elsewhere / f"a.{cut[0]}"
    content, end = archive(suffix)
    source.write_bytes(content[:kept])
    if suffix == "tar" and kept >= end:
        assert len(trees.listed(source).files) == 256
    else:
        refused(
            source,
            f"{source} is damaged or cut short|{source} is neither a folder nor a tar archive",
        )


@drawn(25)
@given(st.integers(1, 255), st.integers(0, 511), st.integers(1, 255))
def test_a_damaged_header_is_not_taken_for_the_end(elsewhere, member, place, change):
    content, _ = archive("tar")
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        offset = tar.getmembers()[member].offset
    damaged = bytearray(content)
    damaged[offset + place] ^= change
    source = elsewhere / "a.tar"
    source.write_bytes(damaged)
    try:
        found = trees.listed(source)
    except ValueError as e:
        assert str(source) in str(e)
    else:  # bytes of its checksum's own field that say the same number
        assert len(found.files) == 256 and 148 <= place < 156


def test_archives_joined_or_with_an_image_twice_are_refused(elsewhere):
    content, _ = archive("tar")
    (elsewhere / "joined.tar").write_bytes(content + content)
    refused(
        elsewhere / "joined.tar",
        "joined.tar is damaged or cut short .there is more after its mark of the end",
    )
    source = write_tar(elsewhere / "a.tar", tree())
    with tarfile.open(source, "a") as tar:
        tar.add(__file__, "./train/no/0.png")
    refused(source, "a.tar holds train/no/0.png twice")


@pytest.mark.parametrize("is_folder", [True, False])
def test_large_files_beside_the_images_are_not_read(elsewhere, monkeypatch, is_folder):
    """A file with holes of a tebibyte, which no memory holds; under an image's name it is refused
    unread.
    """
    folder = write_folder(elsewhere / "pets", tree())
    wanted = data.register_images("plain", folder, progress=False).fingerprint
    (data.data_home() / "plain.safetensors").unlink()
    for name in ("train/no/notes.bin", "train/no/huge.png"):
        source = folder
        if is_folder:
            with open(folder / name, "wb") as f:
                f.truncate(2**40)
        else:
            source = elsewhere / "pets.tar"
            entry = tarfile.TarInfo(name)
            entry.size = 2**40
            with open(source, "wb") as f:
                f.write(entry.tobuf(tarfile.GNU_FORMAT))
                f.seek(2**40, 1)
                f.write(archive("tar")[0])
        if name.endswith("png"):
            refused(source, "huge.png .* has 1,099,511,627,776 bytes, too many for an image")
        else:
            found = data.register_images("pets", source, progress=False)
            assert (
                found.fingerprint == wanted
                and "other files left out: 1, such as train/no/notes.bin" in found.notes
            )
            (data.data_home() / "pets.safetensors").unlink()
            if is_folder:
                (folder / name).unlink()


# -- names

INNER = string.ascii_letters + string.digits + "-_."
OUTER = string.ascii_letters + string.digits + "_"
GOOD = st.builds(
    lambda a, b, c: a + b + c,
    st.sampled_from(OUTER),
    st.text(INNER, max_size=62),
    st.sampled_from(OUTER),
)
FORBIDDEN = st.sampled_from(
    ["/", "\\", "\n", "\0", " ", "..", ":", "é", "\u202e", "*", "\r", "٣", "$"]
)
SYNTHETIC = st.from_regex(r"teacher-a[0-9]\.[0-9]-L[0-9]{1,2}(-small)?", fullmatch=True)
BAD = st.one_of(
    st.sampled_from(
        [
            "",
            ".",
            "..",
            "../evil",
            "/tmp/evil",
            "a/b",
            "a\n",
            "\na",
            "~",
            "-x",
            "x-",
            ".x",
            "x.",
            "a" * 65,
            "CON:",
        ]
    ),
    st.sampled_from(
        [*data.BUILT_IN, "gaussian64", "gaussian64-small", "teacher-a1.0-L4", None, 3, b"x", ("x",)]
    ),
    st.builds(lambda a, f, b: f"{a}/{f}{b}" if f == ".." else a + f + b, GOOD, FORBIDDEN, GOOD),
    SYNTHETIC,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_tar(tmp_path_factory.mktemp("small") / "a.tar", tree())


@drawn(60)
@given(BAD)
def test_a_name_that_is_none_is_refused_and_writes_nothing(elsewhere, small, name):
    arrays = (np.eye(2).repeat(64, 0), [0, 1] * 64) * 2
    for register in (
        lambda: data.register_images(name, small, progress=False),
        lambda: data.register_arrays(name, *arrays),
    ):
        with pytest.raises(
            ValueError,
            match="the name of a dataset is up to 64 letters|belongs to a built-in dataset",
        ):
            register()
    assert not list(elsewhere.iterdir())
    if not isinstance(name, str) or (
        name not in data.BUILT_IN and not name.startswith(("gaussian", "teacher"))
    ):
        with pytest.raises(ValueError, match="the name of a dataset is"):
            data.load(name)


@drawn(5)
@given(GOOD.filter(lambda name: not name.startswith(("teacher", "gaussian"))))
def test_a_good_name_is_that_of_a_file_in_the_data_folder(elsewhere, small, name):
    if name in data.BUILT_IN:
        return
    made = data.register_images(name, small, progress=False)
    home = data.data_home()
    assert (home / f"{name}.safetensors").is_file() and name in data.known_datasets()
    assert {p.name for p in elsewhere.iterdir()} == {"home"} and data.load(
        name
    ).fingerprint == made.fingerprint
    assert {p.suffix for p in home.iterdir()} == {".safetensors"}
    (home / f"{name}.safetensors").unlink()


@pytest.mark.parametrize("name", ["gaussian64", "teacher-a1.0-L4", "digits", "my set", ".hidden"])
def test_a_file_under_another_sets_name_is_not_listed(elsewhere, small, name):
    data.register_images("pets", small, progress=False)
    home = data.data_home()
    (home / "pets.safetensors").rename(home / f"{name}.safetensors")
    assert sorted(data.known_datasets()) == sorted([*data.BUILT_IN, *data.synthetic.NAMES])


@pytest.mark.parametrize(
    "name",
    ["teacher-a1.5-L4", "teacher-a9.0-L1-small", "teacher-a0.5-L0", "teacher-a0.5-L99999999"],
)
def test_a_teacher_outside_of_its_family_is_refused(name):
    with pytest.raises(ValueError, match=f"{name}.*α in 0..1 and depth 1..1000"):
        data.load(name)


# -- constants and size


@drawn(40)
@given(
    st.sampled_from(["mean", "std"]),
    st.integers(0, 2),
    st.one_of(
        st.sampled_from([np.nan, np.inf, -np.inf, 1.001]),
        st.integers(2, 10**6).map(float),
        st.integers(1, 10**6).map(lambda n: -n / 1000),
    ),
)
def test_constants_outside_of_0_to_1_are_refused(elsewhere, what, channel, wrong):
    values = {"mean": [0.5] * 3, "std": [0.2] * 3}
    values[what][channel] = wrong
    with pytest.raises(ValueError, match=f"{what} must lie in .*1, not be") as e:
        data.register_images("bad", elsewhere, **values)
    assert ("divide what is on the scale of 0..255 by 255" in str(e.value)) == (1 < wrong <= 255)


HALF, FIFTH = [0.5] * 3, [0.2] * 3


@pytest.mark.parametrize(
    "mean, std",
    [
        (None, FIFTH),
        (HALF, None),
        (0.5, 0.2),
        (HALF[:2], FIFTH[:2]),
        (HALF[:1], []),
        (HALF, FIFTH[:1]),
        (HALF, [0.2, 0.2, 0]),
        ([None] * 3, FIFTH),
    ],
)
def test_constants_that_are_not_one_per_channel_are_refused(elsewhere, mean, std):
    with pytest.raises(ValueError, match="^(mean and std|std must lie)"):
        data.register_images("bad", elsewhere, mean, std)


@pytest.mark.parametrize("size", [0, -1, 1025, 10**9, 2.5, True, "8"])
def test_a_size_that_is_none_is_refused(elsewhere, size):
    with pytest.raises(ValueError, match=f"size must be 1 to 1024 pixels, not {size!r}"):
        data.register_images("bad", elsewhere, size=size)


# -- writing

FAULTS = [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO]


@pytest.mark.parametrize("code", FAULTS)
@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_fault_while_writing_names_path_and_way_out_and_leaves_the_old_copy(
    elsewhere, small, monkeypatch, place, code
):
    before = data.register_images("pets", small, progress=False).fingerprint

    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(f"faeval_core.ground.files.os.{place}", fail)
    for register in (
        lambda: data.register_images("pets", small, size=6, progress=False),
        lambda: data.register_arrays(
            "pets", np.eye(2).repeat(64, 0), [0, 1] * 64, np.eye(2).repeat(64, 0), [0, 1] * 64
        ),
    ):
        with pytest.raises(
            OSError,
            match=f"'pets' is not kept: .*pets.safetensors .*{os.strerror(code)}.*set FAEVAL_DATA",
        ):
            register()
    monkeypatch.undo()
    monkeypatch.setenv("FAEVAL_DATA", str(elsewhere / "home"))
    data.load.cache_clear()
    assert [p.name for p in data.data_home().iterdir()] == ["pets.safetensors"] and data.load(
        "pets"
    ).fingerprint == before


def test_a_data_folder_that_cannot_be_written_is_found_before_decoding(
    elsewhere, small, monkeypatch
):
    (elsewhere / "home").write_text("a file")
    monkeypatch.setattr(reader, "decode", None)
    with pytest.raises(
        OSError, match="'pets' is not kept: .*pets.safetensors cannot be written .*set FAEVAL_DATA"
    ):
        data.register_images("pets", small, progress=False)


def test_without_a_home_folder_the_variable_is_named(monkeypatch):
    def fail(_):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.expanduser", fail)
    for value in ("", None):
        monkeypatch.setenv("FAEVAL_DATA", value) if value is not None else monkeypatch.delenv(
            "FAEVAL_DATA"
        )
        with pytest.raises(ValueError, match="home folder.*set HOME, and FAEVAL_DATA"):
            data.data_home()
