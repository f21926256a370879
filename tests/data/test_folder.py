"""The Folder layout: what loads, and the message each bad input earns."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fakes.folder import make_folder_pair

from segshift.data.dataset import ImageDataset, LabelledDataset, Unlabelled
from segshift.data.folder import Folder, ImageFolder, infer_space, require_same_space, splits_of
from segshift.errors import DataError
from segshift.taxonomy import CAMVID, unnamed

SHARED = Path(__file__).resolve().parents[2].parent / "shared"


def png(array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


def bomb() -> bytes:
    """A PNG of 60 bytes whose header promises 400 million pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def pair(tmp_path):
    return make_folder_pair(tmp_path, images=3, size=16)


@pytest.mark.parametrize(
    ("domain", "split", "count", "classes"),
    [
        ("camvid/day", "train", 305, CAMVID.classes),
        ("camvid/day", "val", 101, CAMVID.classes),
        ("camvid/dusk", "train", 62, CAMVID.classes),
        ("camvid/dusk", "test", 62, CAMVID.classes),
        ("nuclei/fluorescence", "train", 160, ("background", "nucleus")),
        ("nuclei/fluorescence", "test", 95, ("background", "nucleus")),
        ("nuclei/histology", "train", 92, ("background", "nucleus")),
        ("nuclei/histology", "test", 15, ("background", "nucleus")),
    ],
)
def test_real_data_load_without_code(domain, split, count, classes):
    root = SHARED / "data" / domain
    if not root.is_dir():
        pytest.skip("the real data are not beside this checkout")
    folder = Folder(root, split)
    assert len(folder.names) == count
    assert folder.space.classes == classes
    for i in (0, count - 1):
        image, label = folder.image(i), folder.label(i)
        assert image.dtype == label.dtype == torch.uint8
        assert image.shape == (3, *label.shape)
        assert ((label < len(classes)) | (label == 255)).all()
        assert (label < len(classes)).any()
        # The same file, decoded by the plain call: nothing is shifted, swapped or transposed.
        with Image.open(folder.image_paths[i]) as stored:
            plain = np.asarray(stored.convert("RGB"))
        assert torch.equal(image.permute(1, 2, 0), torch.from_numpy(plain.copy()))


def test_is_a_labelled_dataset_in_name_order(pair):
    folder = Folder(pair[0], "train")
    assert isinstance(folder, LabelledDataset)
    assert isinstance(ImageFolder(pair[1], "train"), ImageDataset)
    assert not hasattr(ImageFolder(pair[1], "train"), "label")
    assert not hasattr(Unlabelled(folder), "label")
    assert folder.names == ("day_000", "day_001", "day_002")
    assert folder.space.name == "day"
    assert folder.image(1).shape == (3, 16, 16)
    assert set(folder.label(1).unique().tolist()) <= {0, 1, 2, 3, 4, 255}


def test_the_folder_of_images_itself_serves(pair):
    whole, direct = Folder(pair[0], "train"), Folder(pair[0] / "train")
    assert direct.names == whole.names
    assert direct.space == whole.space
    assert torch.equal(direct.label(2), whole.label(2))


def test_subfolders_suffixes_and_hidden_files(tmp_path):
    images = tmp_path / "images"
    (images / "ulm").mkdir(parents=True)
    (images / ".cache").mkdir()
    picture = Image.new("RGB", (4, 3), (9, 8, 7))
    for file in ("b.PNG", "a.v2.JpG", "ulm/c.tiff", ".hidden.png", ".cache/d.png"):
        picture.save(images / file, format={"G": "png", "g": "png", "f": "tiff"}[file[-1]])
    (images / "notes.txt").write_text("no image")
    folder = ImageFolder(tmp_path)
    assert folder.names == ("a.v2", "b", "ulm/c")
    assert folder.image(2).shape == (3, 3, 4)


def test_fingerprint_follows_the_content(pair):
    before = Folder(pair[0], "train").fingerprint()
    assert before == Folder(pair[0], "train").fingerprint()
    assert before != Folder(pair[0], "test").fingerprint()
    seen = {before}
    label = pair[0] / "train" / "labels" / "day_000.png"
    label.write_bytes(png(np.zeros((16, 16), np.uint8)))
    seen.add(Folder(pair[0], "train").fingerprint())
    classes = pair[0] / "classes.yaml"
    classes.write_text(classes.read_text().replace("ball", "balloon"))
    seen.add(Folder(pair[0], "train").fingerprint())
    assert len(seen) == 3
    images = ImageFolder(pair[0], "train")
    before = images.fingerprint()
    (pair[0] / "train" / "images" / "day_001.jpg").unlink()
    with pytest.raises(DataError, match=r"day_001\.jpg: is gone"):
        images.fingerprint()
    assert ImageFolder(pair[0], "train").fingerprint() != before


def test_the_files_own_ignore_id_becomes_255(pair):
    classes = pair[0] / "classes.yaml"
    classes.write_text(classes.read_text().replace("ignore: 255", "ignore: 17"))
    path = pair[0] / "train" / "labels" / "day_000.png"
    ids = np.zeros((16, 16), np.uint8)
    ids[0], ids[1] = 17, 255
    path.write_bytes(png(ids))
    label = Folder(pair[0], "train").label(0)
    assert (label[:2] == 255).all()
    assert (label[2:] == 0).all()


def test_without_classes_the_source_labels_decide(pair):
    source, target = pair
    for root in pair:
        (root / "classes.yaml").unlink()
    for path in (target / "test" / "labels").iterdir():
        path.write_bytes(png(np.zeros((16, 16), np.uint8)))
    folder = Folder(source, "train")
    assert folder.space == unnamed(5) == infer_space(folder.label_paths)
    test = Folder(target, "test", space=folder.space)
    assert test.space == folder.space
    assert test.label(0).max() == 0
    # On its own the target would have one class: that the two differ is said, not passed over.
    with pytest.raises(DataError, match="1 classes, the source has 5"):
        require_same_space(folder.space, Folder(target, "test").space)


def test_infer_space_passes_over_ignored_pixels(tmp_path):
    for name, value in (("a", 255), ("b", 3)):
        (tmp_path / f"{name}.png").write_bytes(png(np.full((2, 2), value, np.uint8)))
    assert infer_space([tmp_path / "a.png", tmp_path / "b.png"]) == unnamed(4)
    with pytest.raises(DataError, match="every pixel is 255"):
        infer_space([tmp_path / "a.png"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: hill", "name: mount", r"id 1 is 'mount', in the source it is 'hill'"),
        ("  - {id: 4, name: ball, color: [240, 215, 70]}\n", "", "4 classes, the source has 5"),
    ],
)
def test_another_label_space_is_refused(pair, old, new, message):
    source, target = pair
    classes = target / "classes.yaml"
    assert old in classes.read_text()
    classes.write_text(classes.read_text().replace(old, new))
    space = Folder(source, "train").space
    with pytest.raises(DataError, match=message) as caught:
        Folder(target, "test", space=space)
    assert str(classes) in str(caught.value)
    with pytest.raises(DataError, match=f"target: {message}"):
        require_same_space(space, Folder(target, "test").space)


def gone(path: Path) -> None:
    path.unlink()


def write(content: bytes):
    return lambda path: path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"IDAT") + 12] ^= 1
    path.write_bytes(bytes(content))


IDS = np.zeros((16, 16), np.uint8)
BAD_LABELS = [
    (cut, "cannot be read as a label"),
    (flip_a_bit, "cannot be read as a label"),
    (write(b""), r"empty \(0 bytes\)"),
    (write(b"GIF89a nonsense"), "is a GIF; expected BMP, JPEG, PNG, PPM, TIFF, WEBP. Save it in one"),
    (write(b"nonsense"), "no known image format"),
    (gone, "does not exist"),
    (write(png(np.zeros((16, 16, 3), np.uint8))), "RGB colours; expected class ids"),
    (write(png(np.zeros((16, 16, 4), np.uint8))), "RGB colours with transparency"),
    (write(png(np.zeros((16, 16), np.uint16))), "I;16; expected class ids"),
    (write(png(np.zeros((16, 16), bool))), "1-bit"),
    (write(png(IDS + np.eye(16, dtype=np.uint8) * 40)), r"holds ids \[40\]; expected 0 to 4 \(day\), or 255"),
    (write(png(IDS[:, :12])), "is 16x12 pixels .* is 16x16"),
    (
        write(bomb()),
        "too large, 20000x20000 .* at most 89478485. Cut it .*, or raise the limit with --max-pixels 400000000",
    ),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_LABELS)
def test_bad_label(pair, spoil, message):
    folder = Folder(pair[0], "train")
    spoil(folder.label_paths[1])
    with pytest.raises(DataError, match=message) as caught:
        folder.label(1)
    assert str(caught.value).startswith(str(folder.label_paths[1]))
    assert folder.label(0).shape == (16, 16)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "cannot be read as an image"),
        (write(b""), r"empty \(0 bytes\)"),
        (write(b"\xff\xd8\xff nonsense"), "cannot be read as an image"),
        (gone, "does not exist"),
        (write(bomb()), "too large"),
    ],
)
def test_bad_image(pair, spoil, message):
    folder = Folder(pair[0], "train")
    spoil(folder.image_paths[1])
    with pytest.raises(DataError, match=message) as caught:
        folder.image(1)
    assert str(folder.image_paths[1]) in str(caught.value)


def two_of_a_stem(root: Path) -> None:
    Image.new("RGB", (16, 16)).save(root / "train" / "images" / "day_001.PNG")


def two_labels(root: Path) -> None:
    (root / "train" / "labels" / "day_001.PNG").write_bytes(png(IDS))


def no_label(root: Path) -> None:
    (root / "train" / "labels" / "day_002.png").unlink()


def no_labels(root: Path) -> None:
    (root / "train" / "labels").rename(root / "train" / "masks")


def no_image(root: Path) -> None:
    for path in (root / "train" / "images").iterdir():
        path.rename(path.with_suffix(".txt"))


def no_split(root: Path) -> None:
    (root / "train").rename(root / "training")


def no_root(root: Path) -> None:
    root.rename(root.with_name("elsewhere"))


def classes(text: str):
    return lambda root: (root / "classes.yaml").write_text(text)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (two_of_a_stem, r"day_001\.PNG, day_001\.jpg share the name day_001"),
        (two_labels, r"day_001\.PNG, day_001\.png share the name day_001"),
        (no_label, r"labels/day_002\.png: the label of image day_002 is missing"),
        (no_labels, "labels: is missing"),
        (no_image, "images: holds no image; expected at least 1"),
        (no_split, r"has no split 'train' .*Splits found: test, training"),
        (no_root, "day: does not exist"),
        (classes("classes: [road"), "classes.yaml: cannot be read as YAML"),
        (classes("- road"), "classes.yaml: expected a mapping"),
        (classes("classes: [{id: 1, name: road}]"), "ids are 1; expected 0 to 0"),
    ],
)
def test_bad_folder(pair, spoil, message):
    spoil(pair[0])
    with pytest.raises(DataError, match=message):
        Folder(pair[0], "train")


def test_a_split_must_be_named_where_there_are_some(pair):
    assert splits_of(pair[0]) == ("test", "train")
    with pytest.raises(DataError, match="Splits found: test, train"):
        Folder(pair[0])
    with pytest.raises(DataError, match="holds images/ itself: name no split"):
        Folder(pair[0] / "train", "train")
