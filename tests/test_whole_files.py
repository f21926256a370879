"""A file is whole or absent: a failed write leaves the old one, and what a kill leaves is swept away."""

import errno
import os
import resource
from pathlib import Path

import pytest

from segshift import whole_files
from segshift.errors import RunError
from segshift.whole_files import atomic_write, discard, refused, sweep


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_write_replaces_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    for content in (b"one", b"two"):
        atomic_write(path, content)
        assert path.read_bytes() == content
    assert names(path.parent) == ["a.bin"]


@pytest.mark.parametrize(("code", "cure"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "another folder")])
def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, cure: str
) -> None:
    path = tmp_path / "a.bin"
    atomic_write(path, b"old")

    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(whole_files.os, "fsync", refuse)
    with pytest.raises(RunError, match=rf"a\.bin: .*{cure}"):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_an_interrupt_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.bin"
    atomic_write(path, b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(whole_files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_a_path_through_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunError, match="is a file: choose another folder"):
        atomic_write(tmp_path / "file" / "a.bin", b"x")


def test_a_file_that_may_not_grow_as_large_leaves_the_old_one(tmp_path: Path) -> None:
    """A real refusal in the middle of the write, by the system itself."""
    path = tmp_path / "a.bin"
    atomic_write(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"a\.bin: cannot be written \(File too large\); .*ulimit -f"):
            atomic_write(path, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_new_folders_are_made_to_last_like_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is not yet in its parent on disk goes with a power failure, and the file with it."""
    synced: list[Path] = []
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    monkeypatch.setattr(whole_files.os, "fsync", watched)
    atomic_write(tmp_path / "new" / "folder" / "a.bin", b"x")
    assert synced[1:] == [tmp_path / "new" / "folder", tmp_path / "new", tmp_path]
    synced.clear()
    atomic_write(tmp_path / "new" / "folder" / "a.bin", b"y")
    assert synced[1:] == [tmp_path / "new" / "folder"]


def test_sweep_takes_temporary_files_and_nothing_else(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    half = ".0123456789abcdef.tmp"
    for folder in (elsewhere, tmp_path / "run", tmp_path / "run" / "round-1" / "pseudo-labels" / "town"):
        folder.mkdir(parents=True)
        (folder / half).write_bytes(b"half")
    run = tmp_path / "run"
    for name in ("notes.tmp", ".0123.tmp", ".0123456789ABCDEF.tmp", f"{half}.png"):
        (run / name).write_text("kept")
    (run / "link").symlink_to(elsewhere, target_is_directory=True)
    (run / "loop").symlink_to(run, target_is_directory=True)
    (run / ".fedcba9876543210.tmp").symlink_to(elsewhere / half)
    (run / "round-1" / half).mkdir()
    sweep(run)
    assert (elsewhere / half).exists()
    found = {str(path.relative_to(run)) for path in run.rglob("*")}
    assert found == {
        "notes.tmp", ".0123.tmp", ".0123456789ABCDEF.tmp", f"{half}.png", "link", "loop", ".fedcba9876543210.tmp",
        "round-1", f"round-1/{half}", "round-1/pseudo-labels", "round-1/pseudo-labels/town",
    }  # fmt: skip
    sweep(tmp_path / "missing")


def test_discard(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    for path in (tmp_path / "missing", file / "below", file):
        discard(path)
        assert not path.exists()
    file.mkdir()
    with pytest.raises(RunError, match="file: cannot be removed"):
        discard(file)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG, errno.EIO])
def test_every_refusal_comes_with_a_cure(tmp_path: Path, code: int) -> None:
    error = refused(tmp_path / "a", "written", OSError(code, os.strerror(code)))
    start = f"{tmp_path / 'a'}: cannot be written ({os.strerror(code)}); "
    assert str(error).startswith(start)
    assert len(str(error)) > len(start) + 20
