"""Image files as bytes per pixel, with a word on all that had to be converted."""

import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from .trees import Listing, Tree, contents

# Pillow tries these alone; among its others is EPS, a program, which it hands to Ghostscript.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
CONVERTED = {"P": "palette", "CMYK": "CMYK", "YCbCr": "YCbCr"}  # Pillow's mode -> word for it
CHANNELS = {1: ("grey",), 3: ("red", "green", "blue")}
LARGEST_SIZE = 1024  # pixels of a side that one may ask for


class Refused(ValueError):
    """Why an image cannot be taken: what follows its name in a sentence."""


@dataclass
class Done:
    """What was done to images: how often each, and the largest value among 16-bit pixels."""

    counts: Counter = field(default_factory=Counter)
    brightest: int = 0

    def told(self) -> list[str]:
        n = self.counts
        converted = [counted(n[mode], kind) for mode, kind in CONVERTED.items() if n[mode]]
        out = [f"{told} converted to RGB" for told in converted]
        if n["greys"]:
            out.append(f"{counted(n['greys'], 'palette')} of greys converted to greyscale")
        if n["16 bits"]:
            told = f"{counted(n['16 bits'], '16-bit')} scaled to 8 bits"
            out.append(f"{told} (their brightest pixel has {self.brightest} of 65535)")
        if n["floats"]:
            out.append(f"{counted(n['floats'], 'floating-point')} scaled from 0..1 to 8 bits")
        if n["alpha"]:
            out.append(f"alpha dropped on {n['alpha']}")
        if n["frames"]:
            out.append(f"first frame of {n['frames']} animation{'s' * (n['frames'] > 1)} taken")
        return out


def counted(n: int, kind: str) -> str:
    return f"{n} {kind} image{'s' * (n != 1)}"


def decode(content: bytes, size: int | None, done: Done) -> torch.Tensor:
    """An image file as uint8 (channels, height, width): one channel if greyscale, else three.

    size: resize to (size, size). Adds to `done`. Raises Refused for what is no image, is damaged,
    or leaves open which values are black and white.
    """
    from PIL import Image, UnidentifiedImageError
    from torchvision.transforms.functional import pil_to_tensor

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            done.counts["frames"] += getattr(opened, "n_frames", 1) > 1
            opened.load()
            image = _in_bytes(opened, done)
        return pil_to_tensor(image.resize((size, size)) if size else image)
    except Refused:
        raise
    except UnidentifiedImageError as e:
        raise Refused(f"is not a readable image (none of {', '.join(FORMATS)})") from e
    except Exception as e:  # damaged files raise SyntaxError, TypeError, struct.error, what not
        raise Refused(f"is not a readable image ({str(e) or type(e).__name__})") from e


def _in_bytes(image, done: Done):
    """An image of Pillow in its mode L or RGB."""
    mode = image.mode
    done.counts["alpha"] += image.has_transparency_data
    has_16_bits = mode == "I" and image.format in ("PNG", "PPM")  # which have no more
    if has_16_bits or mode.startswith("I;16"):
        return _from_16_bits(image, done)
    if mode == "I":
        raise Refused("has 32-bit integers; save it with 8 or 16 bits, scaled to their full range")
    if mode == "F":
        return _from_floats(image, done)
    if mode == "P":
        return _from_palette(image, done)
    done.counts[mode] += 1
    return image.convert("L" if mode in ("1", "L", "LA", "La") else "RGB")


def _from_palette(image, done: Done):
    from PIL import Image

    if image.has_transparency_data:
        image = image.convert("RGBA")  # else Pillow warns of each
    colours = image.convert("RGB")
    values = np.asarray(colours)
    is_grey = bool((values == values[..., :1]).all())
    done.counts["greys" if is_grey else "P"] += 1
    return Image.fromarray(values[..., 0]) if is_grey else colours


def _from_16_bits(image, done: Done):
    """Its upper bytes, which Pillow itself takes of 16-bit colours."""
    from PIL import Image

    values = np.asarray(image).astype(np.uint16)
    done.counts["16 bits"] += 1
    done.brightest = max(done.brightest, int(values.max()))
    return Image.fromarray((values >> 8).astype(np.uint8))


def _from_floats(image, done: Done):
    from PIL import Image

    values = np.asarray(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # so that NaN is refused
        told = f"has floating-point values in {low:g}..{high:g}, outside of 0..1"
        raise Refused(f"{told}; scale them, or save it with 8 or 16 bits")
    done.counts["floats"] += 1
    return Image.fromarray(np.rint(values * 255).astype(np.uint8))


def read(source: Path, found: Listing, tree: Tree, size=None, progress=True):
    """({train_x, train_y, test_x, test_y}, what was done to the images) of a tree.

    Images are uint8 (N, channels, height, width), with one channel where all are greyscale and
    else three; labels index the sorted classes. size: resize to (size, size). ValueError names
    the first file that cannot be read, or has another shape than those before it.
    """
    from tqdm.auto import tqdm

    decoded, done, shape = {}, Done(), None
    wanted = {path for *_, path in tree.rows}
    how = {"unit": " images", "disable": not progress, "mininterval": 2}
    files = tqdm(contents(source, found, wanted), f"decoding {source.name}", len(wanted), **how)
    for path, content in files:
        told = "/".join(path)
        try:
            image = decoded[path] = decode(content, size, done)
        except Refused as e:
            raise ValueError(f"{told} in {source} {e}") from e
        here = (image.shape[2], image.shape[1])
        shape = shape or here
        if here != shape:
            way_out = "pass size to resize all images"
            raise ValueError(f"{told} is {here}, others are {shape}; {way_out}")
    channels = max(map(len, decoded.values()))
    notes, grey = done.told(), sum(len(image) < channels for image in decoded.values())
    if grey:
        notes.append(f"{counted(grey, 'greyscale')} repeated over three channels")
    classes, tensors = tree.classes("train"), {}
    for split in ("train", "test"):
        rows = [(label, path) for s, label, path in tree.rows if s == split]
        images = [decoded[path].expand(channels, -1, -1) for _, path in rows]
        tensors[f"{split}_x"] = torch.stack(images)
        tensors[f"{split}_y"] = torch.tensor([classes.index(label) for label, _ in rows])
    return tensors, notes


def measured(x) -> tuple[list[float], list[float]]:
    """(mean, std) of each channel of images, in [0, 1] units; ValueError where one is constant."""
    flat = [x[:, c].double() / 255 for c in range(x.shape[1])]
    mean, std = ([round(measure(f).item(), 4) for f in flat] for measure in (torch.mean, torch.std))
    for channel, sd in zip(CHANNELS[len(std)], std):
        if sd == 0:
            told = f"the {channel} channel of the training images is constant"
            way_out = "save them as greyscale, or with values over the whole range"
            raise ValueError(f"{told}, so that it cannot be normalised; {way_out}")
    return mean, std
