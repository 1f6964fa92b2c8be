"""Locks that leave no file behind, and what is said where the file system refuses."""

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import tiny
from filelock import FileLock

from faeval_core import Store, run
from faeval_core.ground import files


def test_no_lock_is_left(store):
    run([tiny("bp", seed=s) for s in (1, 2)], store, progress=False)
    assert store.root.joinpath("checkpoints").is_dir() and not list(store.root.rglob("*.lock"))


def test_a_lock_whose_file_goes_with_each_holder_still_has_one_at_a_time(store):
    """Who has opened the file that a holder then takes away must not think it held."""
    inside, crowd, turns = threading.Semaphore(1), [], []

    def take(turn):
        with store.lock("run") as held:
            assert held
            if not inside.acquire(blocking=False):
                crowd.append(turn)
            for _ in range(2000):  # time for others to come
                os.getpid()
            inside.release()
            turns.append(turn)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(take, range(36)))
    assert sorted(turns) == list(range(36)) and not crowd and not store.lock_path("run").exists()


def test_looking_at_a_lock_leaves_nothing(store, monkeypatch):
    assert store.is_locked("run") is False and not store.root.exists()
    with store.lock("run"):
        assert store.is_locked("run") is True
    assert store.is_locked("run") is False and not store.lock_path("run").exists()
    store.lock_path("run").write_text("")  # of a process that was killed
    assert store.is_locked("run") is False
    store.lock_path("run").write_text("")
    monkeypatch.setattr(
        FileLock,
        "acquire",
        lambda *_: (_ for _ in ()).throw(PermissionError(errno.EACCES, "denied")),
    )
    assert store.is_locked("run") is None  # a store that is read-only here


@pytest.mark.parametrize(
    "number", [errno.ENOLCK, errno.ENOSYS, errno.EROFS, errno.EACCES, errno.ENOSPC]
)
def test_a_lock_that_cannot_be_had_says_where_and_what_to_do(store, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(OSError) as found, store.lock("run"):
        pass
    told = str(found.value)
    assert (
        found.value.errno == number
        and str(store.lock_path("run")) in told
        and files.WAYS_OUT[number] in told
    )


@pytest.mark.parametrize("number", sorted(files.WAYS_OUT))
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_file_that_cannot_be_written_says_where_and_what_to_do(
    tmp_path, monkeypatch, number, call
):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    path = files.publish(tmp_path / "a.json", "old")
    monkeypatch.setattr(os, call, refuse)
    with pytest.raises(OSError) as found:
        files.publish(path, "new")
    told = str(found.value)
    assert found.value.errno == number and str(path) in told and files.WAYS_OUT[number] in told
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "place, told", [("folder", "is a folder"), ("file/page.html", "in each other's place")]
)
def test_what_cannot_be_written_is_found_before(tmp_path, place, told):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=told):
        files.check_writable(tmp_path / place)
    files.check_writable(tmp_path / "new" / "page.html")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder", "new"]


@pytest.mark.parametrize(
    "asked, told", [("resuts", "did you mean '.*results'"), ("far/mine", "no folder '.*mine'$")]
)
def test_a_folder_that_is_not_there_is_named_with_the_nearest(tmp_path, asked, told):
    Store(tmp_path / "results").root.mkdir()
    files.check_folder(tmp_path / "results")
    with pytest.raises(ValueError, match=told):
        files.check_folder(tmp_path / asked)
