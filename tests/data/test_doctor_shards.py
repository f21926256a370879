"""`segshift check shards:DIR`: every member read once, faults by SHARD:MEMBER, leaks between splits."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fakes.shards import CLASSES, image, label, write_shard

from segshift.cli import main
from segshift.data.doctor_layout import check_data
from segshift.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, split in enumerate(("train", "val")):
        members = {f"k{i}.{end}": make(10 * number + i, (40, 40)) for i in range(2) for end, make in ENDINGS}
        write_shard(tmp_path / split / "s.tar", members)
    (tmp_path / "classes.yaml").write_text(CLASSES, encoding="utf-8")
    return tmp_path


ENDINGS = (("png", image), ("seg.png", label))


def test_sound_shards(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = check_data(f"shards:{root}")
    assert (findings.images, findings.labels, findings.splits) == (4, 4, {"train": 2, "val": 2})
    assert findings.problems == findings.notes == []
    assert findings.pixels.sum() == 4 * 1600
    assert main(["check", f"shards:{root}", "--sheet", str(root / "sheets")]) == 0
    assert f"shards {root}: 4 images (train 2, val 2)" in capsys.readouterr().out
    assert main(["check", str(root)]) == 1
    said = capsys.readouterr().err
    assert f"It holds shards: segshift check shards:{root}" in said


def test_all_that_is_wrong_is_named(root: Path) -> None:
    write_shard(root / "train" / "cut.tar", {"a.png": image(5)})
    content = (root / "train" / "cut.tar").read_bytes()
    (root / "train" / "cut.tar").write_bytes(content[:700])
    members = {
        "copy.png": image(10, (40, 40)),
        "copy.seg.png": label(0, (40, 40), ids=5),
        "bare.png": image(6, (40, 40)),
    }
    broken = {"x.png": b"broken", "x.seg.png": label(1), "lost.seg.png": label(2), "y.png": image(7), "y.jpg": b""}
    write_shard(root / "train" / "t.tar", members | broken | {"COPY.json": b""})
    findings = check_data(f"shards:{root}")
    texts = {str(problem) for problem in findings.problems}
    folder = root / "train"
    for start in (
        f"{folder}/cut.tar: cannot be read as a tar file up to its end",
        f"{folder}/t.tar:y.jpg: is the second image of the key y",
        f"{folder}/t.tar:bare.png: has no label; expected a member KEY.seg.png",
        f"{folder}/t.tar:lost.seg.png: is a label without an image",
        f"{folder}/t.tar:x.png: cannot be read as an image",
        f"{folder}/t.tar:copy.seg.png: holds ids",
        f"{root}/val/s.tar:k0.png: in split val, holds the same bytes as {folder}/t.tar:copy.png in split train",
    ):
        assert [text for text in texts if text.startswith(start)], (start, texts)
    assert len(texts) == 7
    assert f"{folder}/t.tar: 1 member(s) in all are neither image nor label, and left aside (.json)" in findings.notes


def test_without_labels_and_classes(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", {"a.png": image(1, (40, 40)), "A.png": image(2, (40, 40))})
    findings = check_data(f"shards:{tmp_path}")
    assert (findings.images, findings.labels, findings.problems) == (2, 0, [])
    assert findings.notes[0].startswith(f"{tmp_path}/a.tar: A, a: differ by case")
    with pytest.raises(DataError, match="none: does not exist"):
        check_data(f"shards:{tmp_path}/none")


def test_bad_classes_are_a_problem(root: Path) -> None:
    (root / "classes.yaml").write_text("classes: 3", encoding="utf-8")
    (problem, again) = check_data(f"shards:{root}").problems
    assert "classes.yaml" in str(problem)
    assert str(again) == str(problem)
