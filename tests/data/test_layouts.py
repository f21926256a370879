"""Public data sets: each opens in its own layout, and the ids that come out are the classes that were drawn."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from tests.fakes.layouts import FAKES, Drawn, colour, make_bdd, make_gta5

from segshift.data.dataset import ImageDataset, LabelledDataset, OracleTarget, Unlabelled
from segshift.data.layout import LayoutImages, LayoutLabelled, id_reader
from segshift.data.layouts import LAYOUTS, layout, parse
from segshift.errors import ConfigError
from segshift.taxonomy import CITYSCAPES, LabelSpace

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "formats"
IMAGES = 2


@pytest.fixture(scope="module")
def fakes(tmp_path_factory) -> dict[str, tuple[Path, Drawn]]:
    root = tmp_path_factory.mktemp("layouts")
    return {name: (root / name, make(root / name, IMAGES)) for name, make in FAKES.items()}


def ids_by_name(names: np.ndarray, space: LabelSpace) -> np.ndarray:
    """The ids that names drawn should be read as."""
    known, index = np.unique(names, return_inverse=True)
    ids = [space.classes.index(name) if name in space.classes else 255 for name in known]
    return np.array(ids, np.uint8)[index.reshape(names.shape)]


def test_every_layout_has_a_fake_and_a_docstring_with_its_facts():
    assert set(LAYOUTS) == set(FAKES)
    for name in LAYOUTS:
        text = sys.modules[f"segshift.data.{name}"].__doc__ or ""
        assert [word for word in ("images", "pixels", "Licence: ", "From", "Paper") if word not in text] == [], name


@pytest.mark.parametrize("name", FAKES)
def test_images_names_and_pixels(fakes, name):
    root, drawn = fakes[name]
    for split, of_split in drawn.items():
        dataset = LayoutImages(layout(name), root, split or None)
        assert isinstance(dataset, ImageDataset)
        assert list(dataset.names) == sorted(of_split)
        assert not hasattr(dataset, "label")
        for i, image_name in enumerate(dataset.names):
            painted = np.stack([colour(c) for c in of_split[image_name].ravel()]).reshape(
                *of_split[image_name].shape, 3
            )
            # The square's middle, where JPEG and noise do little.
            off = np.abs(dataset.image(i).permute(1, 2, 0).numpy()[4::8, 4::8] - painted[4::8, 4::8])
            assert off.mean() < 6, (split, image_name)


@pytest.mark.parametrize("name", FAKES)
def test_labels_are_the_classes_drawn(fakes, name):
    root, drawn = fakes[name]
    one = layout(name)
    labelled = [split for split in drawn if not split or split in one.labelled_splits]
    assert labelled
    for split in labelled:
        dataset = LayoutLabelled(one, root, split or None)
        assert isinstance(dataset, LabelledDataset)
        assert dataset.space is one.space
        assert list(dataset.names) == sorted(drawn[split])
        for i, image_name in enumerate(dataset.names):
            label = dataset.label(i)
            assert label.dtype == torch.uint8
            np.testing.assert_array_equal(label.numpy(), ids_by_name(drawn[split][image_name], one.space))


@pytest.mark.parametrize("name", FAKES)
def test_the_drawn_splits_are_the_layouts_and_its_test_split_has_labels(fakes, name):
    root, drawn = fakes[name]
    one = layout(name)
    assert set(one.splits) == {split for split in drawn if split}
    assert set(one.splits_in(root)) == set(one.splits)
    assert one.test_split is None or one.test_split in one.labelled_splits


def test_classes_that_a_protocol_leaves_out_are_ignored(fakes):
    classes = {
        name: set(torch.cat([data.label(i).unique() for i in range(IMAGES)]).tolist())
        for name, data in (
            ("synthia", LayoutLabelled(layout("synthia"), fakes["synthia"][0])),
            ("nthu", LayoutLabelled(layout("nthu"), fakes["nthu"][0], "Rome/Test")),
        )
    }
    assert classes["synthia"] == {*CITYSCAPES.subsets["synthia16"], 255}
    assert classes["nthu"] == {*range(19), 255} - {CITYSCAPES.classes.index("train")}


def test_split_is_found_in_any_case_and_train_is_all_of_a_set_without_splits(fakes):
    loveda, gta5 = fakes["loveda"][0], fakes["gta5"][0]
    assert LayoutImages(layout("loveda"), loveda, "train/urban").names == ("Urban/0", "Urban/1")
    assert LayoutImages(layout("gta5"), gta5, "train").names == LayoutImages(layout("gta5"), gta5).names


def test_cityscapes_train_ids_serve_where_label_ids_are_missing(fakes, tmp_path):
    root, drawn = fakes["cityscapes"]
    copy = tmp_path / "cityscapes"
    shutil.copytree(root, copy)
    for path in copy.rglob("*_gtFine_labelIds.png"):
        ids = ids_by_name(drawn[path.parts[-3]][_cityscapes_name(path)], CITYSCAPES)
        Image.fromarray(ids).save(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    both = LayoutLabelled(layout("cityscapes"), copy, "val")
    assert all(path.stem.endswith("_labelIds") for path in both.label_paths)
    from_label_ids = both.label(1)
    for path in copy.rglob("*_labelIds.png"):
        path.unlink()
    only = LayoutLabelled(layout("cityscapes"), copy, "val")
    assert all(path.stem.endswith("_labelTrainIds") for path in only.label_paths)
    assert torch.equal(only.label(1), from_label_ids)


def _cityscapes_name(path: Path) -> str:
    return f"{path.parent.name}/{path.name.partition('_gtFine')[0]}"


def test_first_release_of_bdd(tmp_path):
    drawn = make_bdd(tmp_path, images=2, first_release=True)
    dataset = LayoutLabelled(layout("bdd"), tmp_path, "val")
    for i, name in enumerate(dataset.names):
        np.testing.assert_array_equal(dataset.label(i).numpy(), ids_by_name(drawn["val"][name], CITYSCAPES))


def test_mapillary_labels_beside_the_images(fakes, tmp_path):
    root, _ = fakes["mapillary"]
    copy = tmp_path / "vistas"
    shutil.copytree(root / "validation" / "images", copy / "validation" / "images")
    shutil.copytree(root / "validation" / "v1.2" / "labels", copy / "validation" / "labels")
    new, old = LayoutLabelled(layout("mapillary"), root, "val"), LayoutLabelled(layout("mapillary"), copy, "val")
    assert torch.equal(new.label(0), old.label(0))


def test_a_label_of_another_size_is_resized_and_noted_where_the_layout_says_so(fakes):
    root, drawn = fakes["gta5"]
    dataset = LayoutLabelled(layout("gta5"), root)
    with Image.open(dataset.label_paths[1]) as stored:
        assert stored.size == (72, 48)
    assert dataset.notes == []
    for _ in range(2):
        assert dataset.label(0).shape == dataset.label(1).shape == (64, 96)
    (note,) = dataset.notes
    assert "00002.png: is 48x72 pixels (height x width), 00002.png is 64x96" in note
    np.testing.assert_array_equal(dataset.label(1).numpy(), ids_by_name(drawn[""]["00002"], CITYSCAPES))


def test_a_resized_label_is_not_shifted(tmp_path):
    """Each pixel takes the one of the file that its centre falls on."""
    make_gta5(tmp_path, images=1)
    dataset = LayoutLabelled(layout("gta5"), tmp_path)
    # Pixel x of the file is of column x % 3: road, sidewalk, building.
    file = np.tile(np.array([7, 8, 11], np.uint8), (33, 65))[:, :195]
    Image.fromarray(file).save(dataset.label_paths[0])
    label = dataset.label(0)
    centres = ((np.arange(96) + 0.5) * 195 / 96).astype(int) % 3
    np.testing.assert_array_equal(label.numpy(), np.tile(centres, (64, 1)))


def test_labels_without_an_image_are_noted_and_left_aside(tmp_path):
    make_gta5(tmp_path, images=3)
    (tmp_path / "images" / "00001.png").unlink()
    dataset = LayoutLabelled(layout("gta5"), tmp_path)
    assert dataset.names == ("00002", "00003")
    (note,) = dataset.notes
    assert note.startswith(f"{tmp_path / 'labels' / '00001.png'}: has no image; 1 such label")


def test_fingerprint_changes_with_files_and_the_unlabelled_view_ignores_labels(tmp_path):
    make_gta5(tmp_path, images=2)

    def prints() -> tuple[str, str]:
        gta5 = layout("gta5")
        return LayoutImages(gta5, tmp_path).fingerprint(), LayoutLabelled(gta5, tmp_path).fingerprint()

    images, labelled = prints()
    assert prints() == (images, labelled)
    Image.new("L", (96, 64), 7).save(tmp_path / "labels" / "00001.png")
    assert prints()[0] == images
    assert prints()[1] != labelled


def test_a_layout_serves_as_every_view_of_a_data_set(fakes):
    dataset = LayoutLabelled(layout("camvid"), fakes["camvid"][0], "test")
    assert not hasattr(Unlabelled(dataset), "label")
    assert torch.equal(OracleTarget(dataset).label(0), dataset.label(0))
    assert repr(dataset) == f"LayoutLabelled(camvid:{fakes['camvid'][0]}, split='test')"


@hypothesis_settings(max_examples=25)
@given(
    ids=st.lists(st.integers(0, 65535), min_size=1, max_size=12, unique=True),
    to=st.lists(st.integers(0, 254), min_size=12, max_size=12),
)
def test_id_reader_maps_every_known_id_and_keeps_255(ids, to):
    meaning = dict(zip(ids, to))
    file = torch.tensor([[*ids, 255]], dtype=torch.int32)
    label = id_reader(meaning, "these", lambda *_, **__: file)(Path("x.png"))
    assert label.tolist() == [[*(meaning[i] for i in ids), meaning.get(255, 255)]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gta5:/x", ("gta5", "/x")),
        ("cityscapes:data/cs", ("cityscapes", "data/cs")),
        ("folder:/x:y", ("folder", "/x:y")),
        ("/data/gta5", ("folder", "/data/gta5")),
        ("minicity", ("folder", "minicity")),
        ("C:\\data", ("folder", "C:\\data")),
        ("out/gta:5", ("folder", "out/gta:5")),
        ("camvid:~/camvid", ("camvid", str(Path.home() / "camvid"))),
    ],
)
def test_parse(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(("text", "meant"), [("cityscape:/x", "cityscapes:/x"), ("DarkZurich:/x", "dark_zurich:/x")])
def test_parse_refuses_what_is_nearly_a_data_set(text, meant):
    with pytest.raises(ConfigError, match=f"did you mean {meant}"):
        parse(text)


def test_layout_names_the_nearest():
    assert layout("gta5").name == "gta5"
    with pytest.raises(ConfigError, match=r"'gta' is not known; expected one of gta5, .*Did you mean gta5\?"):
        layout("gta")


def test_the_fakes_are_written_by_a_command_and_always_alike(fakes, tmp_path):
    script = Path(__file__).resolve().parents[1] / "fakes" / "layouts.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), "--images", str(IMAGES)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert f"gta5:{tmp_path / 'gta5'}" in done.stdout
    for name, (root, _) in fakes.items():
        files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
        again = sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*") if path.is_file())
        assert files == again
        assert all((root / file).read_bytes() == (tmp_path / name / file).read_bytes() for file in files[::7])


@pytest.mark.parametrize(
    ("name", "folder", "split", "names", "size", "largest", "classes"),
    [
        (
            "cityscapes", "cityscapes", "val", ("frankfurt/frankfurt_000000_000294",), (128, 256), "building",
            {"road", "sidewalk", "building", "fence", "pole", "traffic sign", "vegetation", "sky", "person", "car"},
        ),
        (
            "bdd", "bdd100k", "train", ("0004a4c0-d4dff0ad", "00054602-3bf57337", "00067cfb-e535423e"), (8, 8),
            "vegetation", {"building", "vegetation"},
        ),
        (
            "bdd", "bdd100k", "val", ("7d06fefd-f7be05a6", "7d128593-0ccfea4c", "7d15b18b-1e0d6e3f"), (8, 8),
            "building", {"building"},
        ),
        ("mapillary", "mapillary", "train", ("__CRyFzoDOXn6unQ6a3DnQ",), (100, 100), "building", {"building", "pole"}),
        (
            "camvid", "camvid", "train", ("0001TP_006690",), (360, 480), "building",
            {"sky", "building", "pole", "road", "sidewalk", "tree", "sign", "car", "pedestrian"},
        ),
        (
            "loveda", "loveda", "Train/Urban", ("Urban/0",), (1024, 1024), "agriculture",
            {"background", "building", "road", "water", "agriculture"},
        ),
    ],
)  # fmt: skip
def test_genuine_files(name, folder, split, names, size, largest, classes):
    if not (SHARED / folder).is_dir():
        pytest.skip("the genuine files are not beside this checkout")
    dataset = LayoutLabelled(layout(name), SHARED / folder, split)
    assert dataset.names == names
    image, label = dataset.image(0), dataset.label(0)
    assert image.shape == (3, *size)
    assert label.shape == size
    pixels = np.bincount(label.numpy().ravel(), minlength=256)[:255]
    assert {dataset.space.classes[i] for i in np.flatnonzero(pixels)} == classes
    assert dataset.space.classes[int(pixels.argmax())] == largest


def test_genuine_cityscapes_label_ids_and_train_ids_agree():
    gt = SHARED / "cityscapes" / "gtFine" / "val" / "frankfurt" / "frankfurt_000000_000294_gtFine"
    if not gt.parent.is_dir():
        pytest.skip("the genuine files are not beside this checkout")
    read = layout("cityscapes").read
    label_ids, train_ids = (read(Path(f"{gt}_{end}.png")) for end in ("labelIds", "labelTrainIds"))
    # Both were shrunk apart from each other, so that edges may differ by a pixel.
    assert (label_ids == train_ids).float().mean() > 0.98
    # Where it lies: road in the lower half, under the cars; sky above them.
    rows = {c: np.flatnonzero((label_ids == CITYSCAPES.classes.index(c)).any(1)).mean() for c in ("road", "car", "sky")}
    assert rows["road"] > rows["car"] > rows["sky"]
