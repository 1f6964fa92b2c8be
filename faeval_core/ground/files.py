"""Atomic publication of files: a reader sees the old file or the whole new one, never a part."""

import difflib
import errno
import hashlib
import json
import os
import tempfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

# what reading a damaged file may raise
UNREADABLE = (
    SafetensorError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
)

FULL = "make room there; what has been published is whole, and the same command goes on"
READ_ONLY = "name a folder that you may write to"
LOCKS = (
    "its file system has no working locks; use one that has, as local disks and most NFS mounts do"
)
WAYS_OUT = {errno.ENOSPC: FULL, errno.EDQUOT: FULL, errno.EFBIG: FULL}
WAYS_OUT |= dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), READ_ONLY)
WAYS_OUT |= dict.fromkeys(
    (errno.ENOTDIR, errno.EISDIR, errno.EEXIST), "a file and a folder are in each other's place"
)
WAYS_OUT |= dict.fromkeys((errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP), LOCKS)


def explained(error: OSError | NotImplementedError, path) -> OSError:
    """`error` as an OSError that names the path and, where there is one, the way out."""
    number = getattr(error, "errno", None) or errno.ENOSYS
    told = getattr(error, "strerror", None) or str(error)
    way_out = f"; {WAYS_OUT[number]}" if number in WAYS_OUT else ""
    return OSError(number, f"{told}{way_out}", str(path))


def check_writable(path) -> None:
    """Raise OSError, naming the way out, where a file `path` could not be published now. Makes its
    folder.
    """
    path = Path(path)
    if path.is_dir():
        raise explained(IsADirectoryError(errno.EISDIR, "is a folder"), path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as e:
        raise explained(e, path) from e


def check_folder(path) -> None:
    """Raise ValueError, with the nearest of its neighbours, where a folder does not exist."""
    path = Path(path)
    if path.is_dir():
        return
    beside = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, beside, n=1)
    hint = f"; did you mean {str(path.with_name(near[0]))!r}?" if near else ""
    raise ValueError(f"there is no folder {str(path)!r}{hint}")


def publish(path: Path, content: bytes | str) -> Path:
    """Write `content` to `path` by way of a temporary folder beside it, flushed to disk before the
    rename.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            temporary = Path(folder, path.name)
            with open(temporary, "wb") as f:
                f.write(content.encode() if isinstance(content, str) else content)
                f.flush()
                os.fsync(f.fileno())
            os.replace(temporary, path)
    except OSError as e:
        raise explained(e, path) from e
    return path


def publish_json(path: Path, value) -> Path:
    """Readable JSON, lists on one line each; NaN and infinities are refused (ValueError)."""
    return publish(path, dump_json(value) + "\n")


def dump_json(value, indent=0) -> str:
    pad = " " * (indent + 1)
    if isinstance(value, dict) and value:
        rows = (f"{pad}{json.dumps(str(k))}: {dump_json(v, indent + 1)}" for k, v in value.items())
        return "{\n" + ",\n".join(rows) + "\n" + " " * indent + "}"
    if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
        return (
            "[\n"
            + ",\n".join(pad + dump_json(v, indent + 1) for v in value)
            + "\n"
            + " " * indent
            + "]"
        )
    return json.dumps(value, allow_nan=False)


def digest(parts) -> str:
    """SHA-256 of texts and of the bytes of tensors, one after another."""
    h = hashlib.sha256()
    for part in parts:
        h.update(part.encode() if isinstance(part, str) else part.contiguous().numpy().tobytes())
    return h.hexdigest()


def publish_tensors(path: Path, tensors: dict, meta: dict) -> Path:
    """A safetensors file with `meta`, plain data, in its header."""
    return publish(path, save(tensors, {"faeval": json.dumps(meta)}))


def read_tensors(path: Path, only_meta=False) -> tuple[dict, dict]:
    """(tensors, meta) of such a file; only_meta reads its header alone. Raises one of
    UNREADABLE.
    """
    with safe_open(path, "pt") as f:
        return {} if only_meta else {k: f.get_tensor(k) for k in f.keys()}, json.loads(
            f.metadata()["faeval"]
        )


def read_json(path: Path, lists=()) -> dict:
    """The JSON object in a committed file. ValueError, naming the file and the way out, where it
    holds none, or one without the lists that are wanted of it."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__} where an object belongs")
        if lacking := [k for k in lists if not isinstance(found.get(k), list)]:
            raise ValueError(f"it lacks its {', '.join(lacking)}")
    except (ValueError, RecursionError) as e:
        told = f"{path} is damaged or holds the marks of a merge conflict ({e})"
        raise ValueError(f"{told}; resolve it, or restore it: git checkout -- {path}") from e
    return found


def studies(results, lists=("runs",)) -> dict[str, dict]:
    """Notebook -> the summary that it wrote to results/studies/<notebook>.json, in the order of
    their names; `lists` of it are made sure of, as in `read_json`."""
    paths = sorted(Path(results, "studies").glob("*.json"))
    return {p.stem: read_json(p, lists) for p in paths}
