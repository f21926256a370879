"""What is written of a predicted image: maps, ids, run-length codes, coordinates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from safetensors import safe_open
from tests.fakes.trained import trained

from segshift import extras
from segshift.data.cityscapes import TRAIN_IDS
from segshift.data.folder import ImageFiles
from segshift.errors import ConfigError, DataError
from segshift.prediction.class_maps import Wanted, class_maps
from segshift.prediction.coco import segments
from segshift.prediction.inputs import Inputs, gather
from segshift.prediction.outputs import Outputs, id_map
from segshift.prediction.predicting import How, predict_image, predict_inputs
from segshift.prediction.tiles import Tiles
from segshift.scan import Views
from segshift.taxonomy import CITYSCAPES, LabelSpace

EVERY = Wanted(confidence=True, entropy=True, probabilities=True)
VIEWS = (Views(), Views(flip=True), Views(True, (0.5, 1.0)), Views(False, (0.75, 1.0), "logits"))
LABELS = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.sampled_from((0, 1, 7, 255))
)


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Blocks of random colours."""
    few = np.random.default_rng(seed).integers(0, 256, (-(-size[0] // 16), -(-size[1] // 16), 3), dtype=np.uint8)
    return few.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]]


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("tiles", [None, Tiles((24, 24)), Tiles((900, 900))])
def test_maps_are_those_of_the_label(views: Views, tiles: Tiles | None) -> None:
    """The label is the same whatever is asked for beside it, and confidence and entropy are of the probabilities."""
    model, image = trained(), torch.from_numpy(picture((61, 77))).permute(2, 0, 1).contiguous()
    with torch.no_grad():
        alone = class_maps(model.network, image, 48, views, tiles)
        found = class_maps(model.network, image, 48, views, tiles, EVERY)
    assert alone[1:] == (None, None, None)
    assert np.array_equal(alone.label, found.label) and len(np.unique(found.label)) > 1
    assert found.probabilities is not None and found.confidence is not None and found.entropy is not None
    prob = found.probabilities.double()
    assert prob.shape == (5, 61, 77)
    torch.testing.assert_close(prob.sum(0), torch.ones(61, 77).double(), atol=3e-3, rtol=0)
    assert np.abs(found.confidence / 65535 - prob.amax(0).numpy()).max() < 1e-3
    share = torch.special.entr(prob).sum(0) / np.log(5)
    assert np.abs(found.entropy / 65535 - share.numpy()).max() < 3e-3
    picked = prob.gather(0, torch.from_numpy(found.label)[None].long())[0]
    assert (prob.amax(0) - picked).max() < 1e-3


def test_one_class_is_certain() -> None:
    space = LabelSpace("one", ("all",), ((1, 2, 3),))
    found = predict_image(trained(space), picture((20, 20)), wanted=EVERY)
    assert found.confidence is not None and found.entropy is not None
    assert (found.confidence == 65535).all() and (found.entropy == 0).all() and (found.label == 0).all()


def test_an_image_in_memory() -> None:
    model, pixels = trained(), picture((40, 50))
    label = predict_image(model, pixels, How(short_side="native")).label
    assert label.shape == (40, 50)
    mirrored = predict_image(model, pixels[:, ::-1], How(Views(flip=True))).label
    assert np.array_equal(mirrored[:, ::-1], predict_image(model, pixels, How(Views(flip=True))).label)
    with pytest.raises(DataError, match="needs a shorter side of 9"):
        predict_image(model, pixels[:8])


@pytest.mark.usefixtures("wrong_shapes")
def test_arrays_that_are_no_image() -> None:
    model, pixels = trained(), picture((40, 50))
    wrong: Any = pixels[..., 0]
    with pytest.raises(ConfigError, match=r"shape \(40, 50\).*expected \(height, width, 3\)"):
        predict_image(model, wrong)
    with pytest.raises(ConfigError, match="float32"):
        predict_image(model, (pixels / 255).astype(np.float32))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"memory": 0}, "memory = 0 GiB"), ({"short_side": 0}, "short_side = 0"), ({"short_side": "own"}, "short_side")],
)
def test_wrong_ways_of_looking(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=f"{said}.*expected"):
        How(**options)


def test_cityscapes_ids_and_back() -> None:
    table = id_map(CITYSCAPES, "cityscapes")
    back = np.full(256, 255)
    for label, train in TRAIN_IDS.items():
        back[label] = train
    assert np.array_equal(back[table[: len(CITYSCAPES)]], np.arange(len(CITYSCAPES)))
    assert table[255] == 255
    few = LabelSpace("few", ("car", "road"), ((0, 0, 1), (0, 0, 2)))
    assert id_map(few, "cityscapes")[:2].tolist() == [26, 7]
    assert np.array_equal(id_map(few, "own"), np.arange(256))
    with pytest.raises(ConfigError, match=r"ids = cityscapes.*none: lava"):
        id_map(LabelSpace("odd", ("car", "lava"), ((0, 0, 1), (0, 0, 2))), "cityscapes")


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@given(label=LABELS)
def test_run_lengths_decode_to_the_label(label: np.ndarray) -> None:
    from pycocotools import mask

    found = np.full(label.shape, 255, np.uint8)
    for segment in segments(label):
        assert segment["area"] == (label == segment["category_id"]).sum()
        found[mask.decode(segment["segmentation"]) == 1] = segment["category_id"]
    assert np.array_equal(found, label)


def folder_of(tmp_path: Path, **images: np.ndarray) -> Inputs:
    (tmp_path / "in").mkdir()
    for name, pixels in images.items():
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
    return gather([tmp_path / "in"])


def test_everything_that_can_be_kept(tmp_path: Path) -> None:
    inputs, out = folder_of(tmp_path, a=picture((30, 40)), b=picture((33, 20), 1)), tmp_path / "out"
    street = LabelSpace("few", ("road", "car", "sky"), ((128, 64, 128), (0, 0, 142), (70, 130, 180)))
    kept = Outputs(("labels", "confidence", "entropy", "entropy-colors", "probabilities", "coco"), "cityscapes")
    done = predict_inputs(trained(street), inputs, out, outputs=kept)
    assert (done.images, done.left_out, dict(done.tiled)) == (2, {}, {})
    assert not (out / "overlays").exists()
    for name, size in (("a", (30, 40)), ("b", (33, 20))):
        with Image.open(out / "labels" / f"{name}.png") as label:
            ids = np.asarray(label)
            assert ids.shape == size and set(np.unique(ids)) <= {7, 26, 23}
            assert (
                label.convert("RGB").getpixel((0, 0))
                == {7: (128, 64, 128), 26: (0, 0, 142), 23: (70, 130, 180)}[int(ids[0, 0])]
            )
        with Image.open(out / "confidence" / f"{name}.png") as confidence:
            assert np.asarray(confidence).min() >= 65535 // 3 and confidence.mode.startswith("I")
        with Image.open(out / "entropy-colors" / f"{name}.png") as shown:
            assert shown.mode == "RGB"
        with safe_open(out / "probabilities" / f"{name}.safetensors", "pt") as file:
            assert tuple(file.get_tensor("probabilities").shape) == (3, *size)
            assert json.loads(file.metadata()["classes"]) == ["road", "car", "sky"]
        assert (out / "probabilities" / f"{name}.safetensors").stat().st_mode & 0o044 == 0o044
    content = json.loads((out / "coco.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.png"]
    assert [category["id"] for category in content["categories"]] == [7, 26, 23]
    for image in content["images"]:
        of_image = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert sum(a["area"] for a in of_image) == image["height"] * image["width"]


def test_large_images_are_cut_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segshift.prediction.tile_size.SMALL", 64 * 64)
    inputs = folder_of(tmp_path, large=picture((200, 330)), small=picture((64, 64)))
    model = trained()
    done = predict_inputs(model, inputs, tmp_path / "cut", How(memory=3 << 20))
    (tiles,) = done.tiled
    assert done.tiled[tiles] == 1 and done.images == 2
    side = tuple(map(int, tiles.split("x")))
    predict_inputs(model, inputs, tmp_path / "whole", How(memory=1 << 30))
    predict_inputs(model, inputs, tmp_path / "asked", How(tiles=Tiles((side[0], side[1]))))
    written = {
        (kind, name): (tmp_path / kind / "labels" / f"{name}.png").read_bytes()
        for kind in ("cut", "whole", "asked")
        for name in ("large", "small")
    }
    assert written["cut", "large"] == written["asked", "large"] != written["whole", "large"]
    assert written["cut", "small"] == written["whole", "small"]


def test_geotiff_carries_its_place(tmp_path: Path) -> None:
    import rasterio

    place = rasterio.Affine(0.5, 0, 500000, 0, -0.5, 4600000)
    bands = picture((40, 36)).transpose(2, 0, 1)

    def written(name: str, count: int, kind: str, crs: str | None) -> Path:
        with rasterio.open(
            tmp_path / name, "w", driver="GTiff", height=40, width=36, count=count, dtype=kind, crs=crs, transform=place
        ) as file:
            file.write(bands[:count].astype(kind))
        return tmp_path / name

    whole = written("whole.tif", 3, "uint8", "EPSG:32633")
    done = predict_inputs(trained(), gather([whole]), tmp_path / "out", outputs=Outputs(("geotiff", "labels")))
    assert done.images == 1
    with rasterio.open(tmp_path / "out" / "geotiff" / "whole.tif") as file:
        assert (file.crs, file.transform, file.count, file.dtypes) == ("EPSG:32633", place, 1, ("uint8",))
        with Image.open(tmp_path / "out" / "labels" / "whole.png") as label:
            assert np.array_equal(file.read(1), np.asarray(label))
    assert predict_inputs(trained(), gather([whole]), tmp_path / "plain").images == 1
    for name, count, kind, said in (("one", 1, "uint8", "1 band"), ("deep", 3, "uint16", "of uint16")):
        path = written(f"{name}.tif", count, kind, "EPSG:32633")
        with pytest.raises(DataError, match=rf"{name}.tif: is a GTiff of .*{said}.*expected a GeoTIFF of 3 bands"):
            predict_inputs(trained(), gather([path]), tmp_path / "out", outputs=Outputs(("geotiff",)))
    (tmp_path / "text.tif").write_text("no image")
    with pytest.raises(DataError, match=r"text.tif: cannot be read as a GeoTIFF"):
        predict_inputs(trained(), gather([tmp_path / "text.tif"]), tmp_path / "out", outputs=Outputs(("geotiff",)))


@pytest.mark.parametrize(
    ("kind", "module", "extra"), [("coco", "pycocotools", "coco"), ("geotiff", "rasterio", "geotiff")]
)
def test_a_missing_library_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any, module: str, extra: str
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(extras, "import_module", missing)
    with pytest.raises(ConfigError, match=rf"--keep {kind} needs the library {module}.*segshift\[{extra}\]"):
        predict_inputs(trained(), Inputs(ImageFiles({}), {}), tmp_path, outputs=Outputs((kind,)))


@pytest.mark.parametrize("options", [{"keep": ()}, {"keep": ("masks",)}, {"ids": "voc"}])
def test_wrong_outputs(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        Outputs(**options)
