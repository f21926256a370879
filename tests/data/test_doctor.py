"""`segshift check` and the look before training: all that is wrong is named, not just the first."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from tests.fakes.folder import make_folder_pair

from segshift.data.dataset import Unlabelled
from segshift.data.doctor import LISTED, Problem, check, check_folder, render, validate
from segshift.data.folder import Folder
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
        ("camvid/day", {"train": 305, "val": 101}, (360, 480)),
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
    return {
        "images/new_0.png": "empty (0 bytes)",
        "images/new_1.png": "cannot be read as an image",
        "labels/new_2.png": "cannot be read as a label",
        "labels/new_3.png": "RGB colours",
        "labels/new_4.png": "holds ids [77]",
        "labels/new_5.png": "is 8x16 pixels",
        "images/new_6.png": "has no label",
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
    with pytest.raises(DataError, match="Data sets inside it: day, dusk"):
        check_folder(tmp_path)
    for path in (pair[0] / "train" / "images").iterdir():
        path.unlink()
    findings = check_folder(pair[0])
    assert any("holds no image" in problem.text for problem in findings.problems)
