"""Atomic publication of files: a reader sees the old file or the whole new one, never a part."""

import hashlib
import json
import os
import tempfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

# what reading a damaged file may raise
UNREADABLE = (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def publish(path: Path, content: bytes | str) -> Path:
    """Write `content` to `path` by way of a temporary folder beside it, flushed to disk before the rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        temporary = Path(folder, path.name)
        with open(temporary, "wb") as f:
            f.write(content.encode() if isinstance(content, str) else content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
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
        return "[\n" + ",\n".join(pad + dump_json(v, indent + 1) for v in value) + "\n" + " " * indent + "]"
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
    """(tensors, meta) of such a file; only_meta reads its header alone. Raises one of UNREADABLE."""
    with safe_open(path, "pt") as f:
        return {} if only_meta else {k: f.get_tensor(k) for k in f.keys()}, json.loads(f.metadata()["faeval"])


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
