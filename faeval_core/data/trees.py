"""Folders and tar archives of images: what lies where, and the bytes of what is wanted.

A tree is `train/<class>/…` beside `test/<class>/…` (or `validation/`, or `val/`), at the top or
below one folder of its own. Nothing is unpacked, and nothing but images is read.
"""

import lzma
import os
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
TESTS = ("test", "validation", "val")  # the first that is there holds the test images
SPLITS = ("train", *TESTS)
LARGEST_FILE = 2**30  # bytes of one image file
CUT = (EOFError, zlib.error, lzma.LZMAError)  # what a damaged compressed file raises
DAMAGES = (tarfile.TarError, OSError, *CUT)


@dataclass
class Listing:
    """Files by their path below a source: sizes in bytes. links: links to folders, followed."""

    files: dict[tuple, int] = field(default_factory=dict)
    links: list[tuple] = field(default_factory=list)


@dataclass
class Tree:
    """Images of one tree: rows (split, class, path), in order; notes: what was out of the plain."""

    rows: list[tuple[str, str, tuple]]
    notes: list[str] = field(default_factory=list)

    def classes(self, split: str) -> list[str]:
        return sorted({label for s, label, _ in self.rows if s == split})

    def note(self, paths, told: str) -> None:
        """Add `told`, with {n} for the number of `paths`, and an example, where there are any."""
        if paths:
            example = "/".join(min(paths))
            self.notes.append(f"{told.format(n=len(paths))}, such as {example}")


def is_archive(path: Path) -> bool:
    """Whether a file begins as a tar archive, compressed or not."""
    try:
        return tarfile.is_tarfile(path)
    except CUT:  # right at the beginning, as `listed` says
        return True


def listed(source: Path) -> Listing:
    """Every file below a folder or in a tar archive.

    ValueError for an archive that is damaged or cut, and for a link that may stand for images and
    leads nowhere, back to a folder that holds it, or anywhere inside an archive.
    """
    found = Listing()
    if source.is_dir():
        _walk(source, (), (source.resolve(),), found)
        return found
    with _opened(source) as archive:
        for member in archive:
            path = _path(member)
            if member.isfile():
                if path in found.files and _is_image(path):
                    told = f"{source} holds {'/'.join(path)} twice"
                    raise ValueError(f"{told}; unpack it and register the folder")
                found.files[path] = member.size
            elif (member.islnk() or member.issym()) and set(path) & set(SPLITS):
                told = f"{'/'.join(path)} in {source} is a link to {member.linkname}"
                way_out = "pack with tar --dereference --hard-dereference, or register the folder"
                raise ValueError(f"{told}, and links in archives are not followed; {way_out}")
        _check_end(archive)
    return found


@contextmanager
def _opened(source: Path) -> Iterator[tarfile.TarFile]:
    """A tar archive, whose damages end in a ValueError that names it."""
    try:
        with tarfile.open(source) as archive:
            yield archive
    except DAMAGES as e:
        if getattr(e, "errno", None) is not None:  # a fault of the disk, not of the archive
            raise
        told = f"archive {source} is damaged or cut short ({e})"
        raise ValueError(f"{told}; get it again, or pack it anew") from e


def _path(member: tarfile.TarInfo) -> tuple:
    return tuple(part for part in member.name.split("/") if part not in ("", "."))


def _check_end(archive: tarfile.TarFile) -> None:
    """ReadError unless an archive that was listed ends with its mark, two blocks of zeros.

    tarfile itself takes a damaged or cut header for the end, without a word.
    """
    archive.fileobj.seek(archive.offset)
    mark = archive.fileobj.read(2 * tarfile.BLOCKSIZE)
    if len(mark) < 2 * tarfile.BLOCKSIZE or any(mark):
        raise tarfile.ReadError("its mark of the end is missing")
    while rest := archive.fileobj.read(2**20):  # up to the checksum of a compressed file
        if any(rest):
            raise tarfile.ReadError("there is more after its mark of the end")


def _walk(folder: Path, path: tuple, holders: tuple, found: Listing) -> None:
    """Add what lies below `folder`, at `path` in the source; holders: real folders it lies in."""
    for entry in os.scandir(folder):
        inside, here, is_link = (*path, entry.name), Path(entry.path), entry.is_symlink()
        if entry.is_dir():
            real = here.resolve() if is_link else Path(holders[-1], entry.name)
            if any(holder.is_relative_to(real) for holder in holders):
                raise ValueError(f"{here} is a link to a folder that holds it; remove the link")
            if is_link:
                found.links.append(inside)
            _walk(here, inside, (*holders, real), found)
        elif entry.is_file():
            found.files[inside] = entry.stat().st_size
        elif is_link and set(inside) & set(SPLITS):
            told = f"{here} is a link that leads nowhere ({os.readlink(here)})"
            raise ValueError(f"{told}; mend or remove it")


def _is_image(path: tuple) -> bool:
    """Whether a path names an image: not a `._x.png` of macOS, or a copy in a hidden folder."""
    hidden = path[-1].startswith("._") or any(part.startswith(".") for part in path[:-1])
    return path[-1].lower().endswith(SUFFIXES) and not hidden


def find_tree(source: Path, found: Listing) -> Tree:
    """The images below `train/<class>/` and `test/<class>/` (or `validation/`, or `val/`).

    They may lie in folders inside a class's. ValueError where there is no such tree, or more than
    one as high, and where test has classes that train lacks.
    """
    images = [path for path in found.files if _is_image(path)]
    root, tested = _root(source, images)
    names, depth = {"train": "train", tested: "test"}, len(root)  # folder -> split

    def below(paths, parts):
        """Those of `paths` in one of the two folders, with at least so many parts."""
        long = [p for p in paths if len(p) >= depth + parts]
        return [p for p in long if p[:depth] == root and p[depth] in names]

    taken = below(images, 3)
    rows = [(names[p[depth]], p[depth + 1], p) for p in taken]
    tree = Tree(sorted(rows, key=lambda row: (*row[:2], "/".join(row[2]))))
    train, test = tree.classes("train"), tree.classes("test")
    if extra := [label for label in test if label not in train]:
        told = f"{tested} has classes that train lacks: {extra}"
        raise ValueError(f"{told}; both need the same class folders in {source}")
    if tested != "test":
        tree.notes.append(f"{tested}/ taken as test/")
    if untested := [label for label in train if label not in test]:
        tree.notes.append(f"{tested}/ lacks classes that train/ has: {untested}")
    tree.note(below(found.links, 1), "links to folders followed: {n}")
    tree.note([p for p in taken if len(p) > depth + 3], "images in folders inside a class's: {n}")
    elsewhere = f"images outside of train/<class>/ and {tested}/<class>/ left out: "
    tree.note(set(images) - set(taken), elsewhere + "{n}")
    tree.note(set(below(found.files, 2)) - set(images), "other files left out: {n}")
    return tree


def _root(source: Path, images: list[tuple]) -> tuple[tuple, str]:
    """(path of the highest folder with train/<class>/ and test images, name of the latter's)."""
    splits = defaultdict(set)  # folder -> names of splits in it
    for path in images:
        for i, part in enumerate(path[:-2]):
            if part in SPLITS:
                splits[path[:i]].add(part)
    roots = [root for root, names in splits.items() if "train" in names and len(names) > 1]
    if not roots:
        has_train = any("train" in names for names in splits.values())
        lacking = "test/<class>/ (nor validation/, nor val/)" if has_train else "train/<class>/"
        raise ValueError(f"{source} holds no images under {lacking}")
    height = min(map(len, roots))
    root, *others = sorted(root for root in roots if len(root) == height)
    if others:
        told = ", ".join("/".join(r) for r in (root, *others))
        way_out = "register the folder of one" if source.is_dir() else "pack one by itself"
        raise ValueError(f"{source} holds {1 + len(others)} trees of images, {told}; {way_out}")
    return root, next(name for name in TESTS if name in splits[root])


def contents(source: Path, found: Listing, wanted: set[tuple]) -> Iterator[tuple[tuple, bytes]]:
    """(path, bytes) of the `wanted` files of a folder or, in its order, of a tar archive."""
    for path in sorted(wanted):
        if found.files[path] > LARGEST_FILE:
            told = f"{'/'.join(path)} in {source} has {found.files[path]:,} bytes"
            raise ValueError(f"{told}, too many for an image; remove it")
    if source.is_dir():
        yield from ((path, source.joinpath(*path).read_bytes()) for path in sorted(wanted))
        return
    with _opened(source) as archive:
        for member in archive:
            if member.isfile() and (path := _path(member)) in wanted:
                yield path, archive.extractfile(member).read()
