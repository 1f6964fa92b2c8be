"""Atomic publication of files: a reader sees the old file or the whole new one, never a part."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path


def publish(path: Path, content: bytes | str) -> Path:
    """Write `content` to `path` by way of a temporary neighbour, flushed to disk before the rename."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(content.encode() if isinstance(content, str) else content)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
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
