"""Checkpoints and snapshots: tensors in files, verified when read, and the locks of runs."""

import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ..config import RunConfig
from ..ground.files import UNREADABLE, digest, explained, publish_tensors, read_tensors
from .record import checksum_of

_WHOLE = set()  # stamps of the tensor files that this process has read and found whole


class TensorFiles:
    """Checkpoints, snapshots and locks under root/checkpoints."""

    def __init__(self, root="results"):
        self.root = Path(root)

    def checkpoint_path(self, cfg: RunConfig) -> Path:
        return self.root / "checkpoints" / f"{cfg.id}.safetensors"

    def snapshot_path(self, cfg: RunConfig, epoch: int) -> Path:
        return self.root / "checkpoints" / f"{cfg.id}@{epoch}.safetensors"

    def save_tensors(self, path: Path, tensors: dict, meta: dict) -> None:
        meta = {**meta, "digest": _digest(tensors)}
        publish_tensors(path, tensors, {**meta, "header": checksum_of(meta)})

    def load_tensors(self, path: Path, only_meta=False):
        """(tensors, meta) of a checkpoint or snapshot, or None where it is missing or, with a
        warning, damaged.

        only_meta: read and check the header alone, without the tensors and without comparing their
        digest.
        """
        try:
            before = _stamp(path)
            tensors, meta = read_tensors(path, only_meta)
            told = {k: v for k, v in meta.items() if k != "header"}
            # a snapshot from before headers were covered says nothing there that is used
            if "header" in meta or "progress" in meta:
                if checksum_of(told) != meta.get("header"):
                    raise ValueError("its header does not match its digest")
            if not only_meta:
                if _digest(tensors) != meta["digest"]:
                    raise ValueError("its digest does not match its content")
                _WHOLE.add(before)
            return tensors, meta
        except UNREADABLE as e:
            if not isinstance(e, FileNotFoundError):
                warnings.warn(f"checkpoint {path} is damaged and is made anew ({e})", stacklevel=2)
            return None

    def has_tensors(self, path: Path) -> bool:
        """Whether a checkpoint or snapshot is there whole; each file, as it stands, is read for
        this once in a process.
        """
        with suppress(OSError):
            return _stamp(path) in _WHOLE or self.load_tensors(path) is not None
        return False

    @contextmanager
    def lock(self, name: str, wait=True):
        """Hold the lock `name` among the processes on this store, of which it outlives none; False
        where another has it.

        wait: for the other, rather than yield False.
        """
        path = self.lock_path(name)
        held = FileLock(path, timeout=-1 if wait else 0, fallback_to_soft=False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(Timeout):
                held.acquire()
        except (OSError, NotImplementedError) as e:
            raise explained(e, path) from e
        try:
            yield held.is_locked
        finally:
            if held.is_locked:  # then only may it go: who waits for it sees that, and makes another
                with suppress(OSError):
                    path.unlink()
            held.release()

    def lock_path(self, name: str) -> Path:
        return self.root / "checkpoints" / f"{name}.lock"

    def is_locked(self, name: str) -> bool | None:
        """Whether another process holds the lock `name`; None where this one may not find out.
        Leaves no file behind.
        """
        if not self.lock_path(name).exists():
            return False
        try:
            with self.lock(name, wait=False) as free:
                return not free
        except OSError:
            return None


def _stamp(path) -> tuple:
    """What changes when a file is replaced."""
    now = path.stat()
    return str(path.resolve()), now.st_ino, now.st_mtime_ns, now.st_size


def _digest(tensors) -> str:
    return digest(
        part for k, t in sorted(tensors.items()) for part in (f"{k}{tuple(t.shape)}{t.dtype}", t)
    )
