"""What stands among images and is no file: pipes, devices, sockets, what may not be read. Nothing waits for them."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.faults.apart import run_apart
from tests.faults.bad_inputs import Place, Row, Said, assert_refused, fresh

NOBODY = 65534
FILE = "{day}/train/images/day_000.png"
LABEL = "{day}/train/labels/day_000.png"


def instead(of: str, put: Callable[[Path], object], name: str | None = None) -> Callable[[Place], object]:
    def make(place: Place) -> None:
        path = place.root / of
        path.unlink()
        put(path if name is None else path.with_name(name))

    return make


def image(put: Callable[[Path], object]) -> Callable[[Place], object]:
    return instead("day/train/images/day_000.jpg", put, "day_000.png")


def sock(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        # The name of a socket may have a hundred letters.
        os.chdir(path.parent)
        server.bind(path.name)
        os.chdir(before)


NO_FILE = "cannot be read as an image (it is no regular file). Restore it, or delete it"
ROWS = (
    Row("a pipe", image(os.mkfifo), f"problem: {FILE}: {NO_FILE}"),
    Row("an endless device", image(lambda path: path.symlink_to("/dev/zero")), f"problem: {FILE}: {NO_FILE}"),
    Row("a device that is empty", image(lambda path: path.symlink_to("/dev/null")), f"problem: {FILE}: {NO_FILE}"),
    Row("a socket", image(sock), f"problem: {FILE}: {NO_FILE}"),
    Row(
        "a pipe as a label",
        instead("day/train/labels/day_000.png", os.mkfifo),
        f"problem: {LABEL}: cannot be read as a label (it is no regular file)",
    ),
    Row(
        "a device as a label",
        instead("day/train/labels/day_000.png", lambda path: path.symlink_to("/dev/zero")),
        f"problem: {LABEL}: cannot be read as a label (it is no regular file)",
    ),
)


@pytest.fixture(scope="module")
def said(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Place, Said]]:
    """Every row's place and answer: one process for all, as its start takes the longest."""
    places, commands = {}, {}
    for row in ROWS:
        places[row.name] = fresh(pair, tmp_path_factory.mktemp("special"))
        row.make(places[row.name])
        commands[row.name] = ["check", str(places[row.name].day), "--sheet", "none"]
    return {name: (places[name], answer) for name, answer in run_apart(commands).items()}


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_refused(row: Row, said: dict[str, tuple[Place, Said]]) -> None:
    place, answer = said[row.name]
    assert_refused(answer, place.fill(row.expected))


@pytest.fixture
def readable_by_all() -> Iterator[Path]:
    """A folder that another user may enter: pytest's own are closed."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    yield root
    shutil.rmtree(root)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with the eyes of a user who may read nothing")
def test_what_may_not_be_read(pair: Path, readable_by_all: Path) -> None:
    files = {
        "an image": ("day/train/images/day_000.jpg", "problem: {day}/train/images/day_000.jpg: may not be read"),
        "a label": ("day/train/labels/day_000.png", "problem: {day}/train/labels/day_000.png: may not be read"),
        "the classes": ("day/classes.yaml", "problem: {day}/classes.yaml: cannot be read (Permission denied)"),
        "the images": ("day/train/images", "problem: {day}/train/images: may not be read"),
        "the labels": ("day/train/labels", "problem: {day}/train/labels: may not be read"),
        "all of it": ("day", "{day}: may not be read (Permission denied)"),
    }
    commands = {}
    for name, (file, _) in files.items():
        place = fresh(pair, readable_by_all / name.replace(" ", "-"))
        (place.root / file).chmod(0)
        commands[name] = ["check", str(place.day), "--sheet", "none"]
    for name, answer in run_apart(commands, NOBODY).items():
        place = Place(readable_by_all / name.replace(" ", "-"))
        assert_refused(answer, place.fill(files[name][1]))
