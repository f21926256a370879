"""`segshift check` and the look before training: all that is wrong is named, not just the first."""

import io
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tests.fakes.folder import make_folder_pair

from segshift.data.dataset import Unlabelled
from segshift.data.doctor import LISTED, Findings, Problem, Reading, check, examine, validate
from segshift.data.doctor_folder import check_folder
from segshift.data.doctor_print import render
from segshift.data.folder import Folder, worker_threads
from segshift.errors import DataError
from segshift.taxonomy import unnamed

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture
def pair(tmp_path):
    return make_folder_pair(tmp_path, images=4, size=16)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def printed(findings, width: int = 60) -> str:
    text = io.StringIO()
    render(findings, Console(file=text, width=width, color_system=None))
    return text.getvalue()


@pytest.mark.parametrize(
    ("domain", "splits", "size"),
    [
        pytest.param("camvid/day", {"train": 305, "val": 101}, (360, 480), marks=pytest.mark.slow),
        ("camvid/dusk", {"test": 62, "train": 62}, (360, 480)),
        ("nuclei/histology", {"test": 15, "train": 92}, (256, 320)),
    ],
)
def test_real_data_are_sound(domain, splits, size):
    root = SHARED / "data" / domain
    if not root.is_dir():
        pytest.skip("the real data are not beside this checkout")
    findings = check_folder(root)
    assert findings.problems == []
    assert findings.splits == splits
    assert findings.images == findings.labels == sum(splits.values())
    assert findings.sizes == {size: findings.images}
    assert f"{findings.images} images" in printed(findings)


def test_histogram_counts_every_pixel_once(pair):
    findings = check_folder(pair[0])
    labels = [Folder(pair[0], split).label(i) for split in ("train", "test") for i in range(4)]
    expected = torch.stack(labels).flatten().bincount(minlength=256)
    assert findings.pixels.tolist() == expected.tolist()
    assert findings.occurs[2] == sum(bool((label == 2).any()) for label in labels)
    assert findings.pixels.sum() == 8 * 16 * 16
    assert (findings.images, findings.labels, findings.sizes) == (8, 8, {(16, 16): 8})
    text = printed(findings)
    assert "8 images (test 4, train 4)" in text
    assert f"{expected[0] / expected[:255].sum():.3%}" in text
    assert "no problems" in text


def spoil(train: Path) -> dict[str, str]:
    """Spoil a split in every way; file -> what is to be said of it."""
    for i in range(8):
        save(train / "images" / f"new_{i}.png", np.zeros((16, 16, 3), np.uint8))
        save(train / "labels" / f"new_{i}.png", np.zeros((16, 16), np.uint8))
    images, labels = train / "images", train / "labels"
    (images / "new_0.png").write_bytes(b"")
    (images / "new_1.png").write_bytes((images / "new_1.png").read_bytes()[:-30])
    (labels / "new_2.png").write_bytes(b"no picture")
    save(labels / "new_3.png", np.zeros((16, 16, 3), np.uint8))
    save(labels / "new_4.png", np.full((16, 16), 77, np.uint8))
    save(labels / "new_5.png", np.zeros((8, 16), np.uint8))
    (labels / "new_6.png").unlink()
    (images / "new_7.png").unlink()
    save(images / "day_000.bmp", np.zeros((16, 16, 3), np.uint8))
    save(labels / "new_6.jpg", np.zeros((16, 16), np.uint8))
    save(images / "new_8.png", np.zeros((16, 16, 3), np.uint8))
    save(labels / "New_8.png", np.zeros((16, 16), np.uint8))
    return {
        "images/new_0.png": "empty (0 bytes)",
        "images/new_1.png": "cannot be read as an image",
        "labels/new_2.png": "cannot be read as a label",
        "labels/new_3.png": "RGB colours",
        "labels/new_4.png": "holds ids [77]",
        "labels/new_5.png": "is 8x16 pixels",
        "images/new_6.png": "labels/new_6.png; new_6.jpg is not read, for labels are PNG",
        "images/new_8.png": "labels/new_8.png; New_8.png differs by case",
        "labels/New_8.png": "is a label without an image",
        "labels/new_7.png": "is a label without an image",
        "images/day_000.jpg": "shares its name with day_000.bmp",
    }


def test_every_fault_of_a_folder_is_named(pair):
    faults = spoil(pair[0] / "train")
    findings = check_folder(pair[0])
    assert {str(Path(p.file).relative_to(pair[0] / "train")) for p in findings.problems} == set(faults)
    lines = printed(findings, width=40).splitlines()
    for file, said in faults.items():
        line = [line for line in lines if line.startswith("problem: ") and str(pair[0] / "train" / file) in line]
        assert any(said in text for text in line), file
    assert lines[-1] == f"{len(faults)} problems"
    assert len(findings.problems) == len(faults)


def test_what_is_odd_is_a_note(pair):
    train = pair[0] / "train"
    for name, image, label in (("blank", 7, 1), ("void", 90, 255), ("dark", 0, 1), ("DARK", 0, 2), ("again", 90, 2)):
        picture = np.full((40, 40, 3), image, np.uint8)
        picture[0, 0] += np.uint8((name != "blank") * 3)
        save(train / "images" / f"{name}.png", picture)
        save(train / "labels" / f"{name}.png", np.full((40, 40), label, np.uint8))
    save(train / "labels" / "blank.bmp", np.zeros((40, 40), np.uint8))
    for name in ("scene.gif", "sub/notes.txt", ".hidden.gif", ".cache/seen.gif"):
        (train / "images" / name).parent.mkdir(exist_ok=True)
        (train / "images" / name).write_bytes(b"")
    findings = check_folder(pair[0])
    assert findings.problems == []
    black = "is nearly black, all values are below 16 of 255 (10 or 12 bits stored as 16 look so)"
    clash = "differ by case, or by how accents are coded, alone"
    assert [note.replace(f"{train}/", "").replace(f"{pair[0]}/", "") for note in findings.notes] == [
        f"images: DARK, dark: {clash}: one overwrites the other where a file system takes them for the same name",
        "images/scene.gif: has no ending of an image, and is left aside; 2 such file(s) in all, such as "
        "images/sub/notes.txt",
        "labels/blank.bmp: is no PNG, and is not read as a label; 1 such file(s) in all",
        "test/images/day_000.jpg: is smaller than 32 pixels on a side; 8 such file(s) in all, such as "
        "test/images/day_001.jpg, test/images/day_002.jpg, test/images/day_003.jpg, images/day_000.jpg",
        f"images/DARK.png: {black}; 2 such file(s) in all, such as images/dark.png",
        "images/blank.png: is blank, every pixel has the same colour; 1 such file(s) in all",
        "labels/void.png: is 255 (ignored) everywhere; 1 such file(s) in all",
        "images/DARK.png: holds the same bytes as images/dark.png: the image counts 2 times",
        "images/again.png: holds the same bytes as images/void.png: the image counts 2 times",
    ]
    # A run says so too, of the images' names.
    told = validate(Folder(pair[0], "train")).notes
    assert [note.split("; ")[0].partition(": one")[0] for note in told] == [
        f"DARK: {black}",
        "blank: is blank, every pixel has the same colour",
        "day_000: is smaller than 32 pixels on a side",
        "void: is 255 (ignored) everywhere",
        f"DARK, dark: {clash}",
    ]


def test_reading_stays_a_few_files_ahead():
    threads, begun = worker_threads(), []

    def reading(i: int):
        begun.append(i)
        return torch.zeros(3, 4, 4, dtype=torch.uint8)

    items = [Reading(str(i), "", partial(reading, i), None) for i in range(200)]
    ahead = []

    def track(indices, _):
        for index in indices:
            ahead.append(len(begun) - index)
            yield index

    examine(items, Findings(""), track)
    assert sorted(begun) == list(range(200))
    assert max(ahead) <= 2 * threads + 2

    def stopping(indices, _):
        yield next(indices)
        raise KeyboardInterrupt

    begun.clear()
    with pytest.raises(KeyboardInterrupt):
        examine(items, Findings(""), stopping)
    assert len(begun) <= 2 * threads + 2


def test_folders_and_links_that_lead_nowhere(pair, monkeypatch):
    train = pair[0] / "train"
    (train / "images" / "round").symlink_to(train / "images")
    (train / "images" / "loop.png").symlink_to(train / "images" / "loop.png")
    (train / "images" / "gone.png").symlink_to(train / "nowhere.png")
    findings = check_folder(pair[0])
    assert findings.splits == {"test": 4, "train": 6}
    told = [str(problem).replace(f"{train}/", "") for problem in findings.problems]
    assert [text.split("; expected")[0] for text in told] == [
        "images/gone.png: has no label",
        "images/loop.png: has no label",
        "images/gone.png: is a symbolic link to nowhere.png, which does not exist",
        "images/loop.png: is a symbolic link that leads back to itself",
    ]
    scandir = os.scandir

    def refuse(path):
        if str(path) == str(train / "images"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    findings = check_folder(pair[0])
    (problem,) = findings.problems
    assert str(problem).startswith(f"{train / 'images'}: may not be read (Permission denied)")
    assert findings.splits == {"test": 4, "train": 0}


def test_validate_lists_all_before_training(pair):
    train = pair[0] / "train"
    dataset = Folder(pair[0], "train")
    assert validate(dataset).images == 4
    dataset.image_paths[0].write_bytes(b"")
    save(dataset.label_paths[1], np.full((16, 16), 200, np.uint8))
    save(dataset.label_paths[2], np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError) as caught:
        validate(dataset, "source")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("source: 3 of the data set's files cannot be used")
    assert [line.split(": ")[0].strip() for line in lines[1:]] == [
        str(train / file) for file in ("images/day_000.jpg", "labels/day_001.png", "labels/day_002.png")
    ]


def test_validate_names_twenty_and_counts_the_rest(tmp_path):
    for i in range(LISTED + 3):
        save(tmp_path / "images" / f"{i:02d}.png", np.zeros((2, 2, 3), np.uint8))
        save(tmp_path / "labels" / f"{i:02d}.png", np.full((2, 2), 9, np.uint8))
    with pytest.raises(DataError) as caught:
        validate(Folder(tmp_path, space=unnamed(2)))
    assert str(caught.value).count("holds ids [9]") == LISTED
    assert str(caught.value).endswith("and 3 more")
    assert len(check(Folder(tmp_path, space=unnamed(2))).problems) == LISTED + 3


def test_a_target_is_checked_without_its_labels(pair):
    dataset = Folder(pair[1], "train")
    for path in dataset.label_paths:
        path.write_bytes(b"")
    findings = validate(Unlabelled(dataset), "target")
    assert (findings.images, findings.labels, findings.space) == (4, 0, None)
    assert "no labels" in printed(findings)


def test_any_data_set_can_be_checked():
    """One drawn on demand has no files: its own words and names are what is reported."""

    image_sizes = ((4, 5), (4, 6))
    label_sizes = ((4, 5), (4, 5))

    class Drawn:
        names = ("a", "b")
        space = unnamed(2)

        def image(self, index):
            return torch.zeros(3, *image_sizes[index], dtype=torch.uint8)

        def label(self, index):
            return torch.ones(label_sizes[index], dtype=torch.uint8)

        def fingerprint(self):
            return "drawn"

    done = []

    def track(items, total):
        for item in items:
            yield item
            done.append((item, total))

    findings = check(Drawn(), "drawn", track=track)
    assert done == [(0, 2), (1, 2)]
    assert [problem.file for problem in findings.problems] == ["b"]
    assert "4x5 pixels" in str(findings.problems[0])
    assert str(Problem("b", "is odd")) == "b: is odd"
    assert findings.pixels[1] == 40


def test_without_classes_any_id_is_a_class(pair):
    (pair[0] / "classes.yaml").unlink()
    findings = check_folder(pair[0])
    assert findings.problems == []
    assert findings.space == unnamed(5)
    assert "class_4" in printed(findings)


def test_a_bad_classes_file_is_one_fault_and_the_rest_is_still_read(pair):
    (pair[0] / "classes.yaml").write_text("classes: [")
    findings = check_folder(pair[0])
    assert [Path(problem.file).name for problem in findings.problems] == ["classes.yaml"]
    assert findings.labels == 8
    assert findings.pixels.sum() == 8 * 16 * 16


def test_a_split_with_other_classes_is_a_fault(pair):
    text = (pair[0] / "classes.yaml").read_text()
    (pair[0] / "train" / "classes.yaml").write_text(text.replace("hill", "mount"))
    findings = check_folder(pair[0])
    assert [Path(problem.file).parent.name for problem in findings.problems] == ["train"]


def test_images_without_labels_are_no_fault(pair):
    train = pair[1] / "train"
    (train / "labels").rename(train / "elsewhere")
    findings = check_folder(pair[1])
    assert (findings.images, findings.labels, findings.problems) == (8, 4, [])
    direct = check_folder(train)
    assert (direct.images, direct.labels, direct.splits) == (4, 0, {})


def test_markup_in_a_name_is_printed_as_it_is(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "[red]a[bold].png").write_bytes(b"")
    assert "[red]a[bold].png: the file is empty" in printed(check_folder(tmp_path))


def test_what_is_no_data_set(pair, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        check_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match=f"Data sets inside it: day, dusk: segshift check {pair[0]} {pair[1]}$"):
        check_folder(tmp_path)
    for path in (pair[0] / "train" / "images").iterdir():
        path.unlink()
    findings = check_folder(pair[0])
    assert any("holds no image" in problem.text for problem in findings.problems)
