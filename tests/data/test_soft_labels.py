"""Soft labels: what a crop is cut from are the scan's own probabilities, and no cell more is read than it needs."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save_file
from tests.fakes.damage import HITS, damaged
from torch import Tensor

from segshift.data.file_digests import FileDigests
from segshift.data.soft_labels import SoftLabels, to_half
from segshift.errors import DataError, RunError, TrainingError
from segshift.scan import average_views
from segshift.sealed import seal_tensors, text_of
from segshift.types import Features, Geometry

K = 3
WHOLE = Geometry((6, 8), 0, 0, (6, 8), False)


def features(name: str, maps: list[Tensor], align_corners: bool = False, average: Any = "probabilities") -> Features:
    return Features(name, maps, torch.zeros(1, 1, 1), (6, 8), align_corners, average)


def logits(*shapes: tuple[int, int], seed: int = 0, k: int = K) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [4 * torch.randn(k, *shape, generator=rng) for shape in shapes]


@pytest.fixture
def store(tmp_path: Path) -> SoftLabels:
    return SoftLabels(tmp_path / "soft-labels", K, 2)


def seen(full: Tensor, geometry: Geometry) -> Tensor:
    """A geometry's crop of a map at the resized size, pixel by pixel; 0 in padding."""
    height, width = geometry.size
    found = torch.zeros(len(full), height, width)
    for y in range(min(height, full.shape[1] - geometry.top)):
        for x in range(min(width, full.shape[2] - geometry.left)):
            place = width - 1 - x if geometry.flip else x
            found[:, y, place] = full[:, geometry.top + y, geometry.left + x]
    return found


SIDES = st.tuples(st.integers(1, 6), st.integers(1, 7))


@st.composite
def geometries(draw: Any) -> Geometry:
    height, width = draw(st.tuples(st.integers(1, 20), st.integers(1, 24)))
    crop = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))
    top, left = (draw(st.integers(0, max(side - cut, 0))) for side, cut in zip((height, width), crop))
    return Geometry((height, width), top, left, crop, draw(st.booleans()))


@settings(max_examples=60)
@given(
    shapes=st.lists(SIDES, min_size=1, max_size=3),
    geometry=geometries(),
    align_corners=st.booleans(),
    average=st.sampled_from(("probabilities", "logits")),
    seed=st.integers(0, 99),
)
def test_a_crop_is_the_scans_average_cropped_and_flipped(
    shapes: list[tuple[int, int]],
    geometry: Geometry,
    align_corners: bool,
    average: Literal["probabilities", "logits"],
    seed: int,
) -> None:
    maps = logits(*shapes, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        store = SoftLabels(Path(folder), K, 1)
        store.write(features("town/a", maps, align_corners, average))
        found = store.cut("town/a", geometry)
    full = average_views([m.half() for m in maps], geometry.resized, align_corners, average)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, seen(full, geometry), rtol=0, atol=1e-5)


@pytest.mark.parametrize("align_corners", [False, True])
def test_far_from_the_corner_places_are_as_exact(store: SoftLabels, align_corners: bool) -> None:
    """At the size of photographs, a place in float32 that is computed otherwise is wrong by far more than rounding."""
    maps, geometry = logits((129, 257)), Geometry((1024, 2048), 800, 1700, (224, 348), True)
    store.write(features("a", maps, align_corners))
    full = average_views([m.half() for m in maps], (1024, 2048), align_corners, "probabilities")
    expected = full[:, 800:, 1700:].flip(2)
    torch.testing.assert_close(store.cut("a", geometry), expected, rtol=0, atol=1e-5)


def test_padding_is_no_class_and_the_rest_sums_to_one(store: SoftLabels) -> None:
    store.write(features("a", logits((3, 4), (2, 2))))
    total = store.cut("a", Geometry((6, 8), 0, 0, (9, 10), True)).sum(0)
    torch.testing.assert_close(total[:6, 2:], torch.ones(6, 8))
    assert float(total[6:].abs().sum() + total[:, :2].abs().sum()) == 0


def test_only_the_cells_under_the_crop_are_read(store: SoftLabels) -> None:
    """Cells elsewhere may hold anything: these are no numbers, and would show."""
    maps = logits((8, 8))
    store.write(features("a", maps))
    clean = store.cut("a", Geometry((32, 32), 0, 0, (8, 12), False))
    tensors, how = load(store.path("a").read_bytes()), text_of(store.path("a").read_bytes())
    tensors["0"][:, 3:] = torch.nan
    tensors["0"][:, :, 4:] = torch.nan
    store.path("a").write_bytes(seal_tensors(tensors, how))
    store = SoftLabels(store.folder, K, 2)
    assert torch.equal(store.cut("a", Geometry((32, 32), 0, 0, (8, 12), False)), clean)
    with pytest.raises(RunError, match=r"a\.safetensors: holds logits that are no finite numbers; expected the soft"):
        store.cut("a", Geometry((32, 32), 0, 0, (12, 12), False))


def test_what_is_on_disk_is_half_a_float_a_cell_and_the_same_each_time(store: SoftLabels, tmp_path: Path) -> None:
    maps = logits((5, 7), (2, 3))
    store.write(features("a", maps, average="logits"))
    assert store.path("a").stat().st_size <= 2 * K * (5 * 7 + 2 * 3) + 576
    again = SoftLabels(tmp_path / "again", K, 2)
    again.write(features("a", [m.half() for m in maps], average="logits"))
    assert again.path("a").read_bytes() == store.path("a").read_bytes()
    how = json.loads(text_of(store.path("a").read_bytes()))
    assert how == {"size": [6, 8], "align_corners": False, "average": "logits"}
    assert not list(store.folder.rglob("*.tmp"))


def test_the_index_says_that_all_are_there(store: SoftLabels) -> None:
    assert not store.complete
    store.finish(FileDigests())
    assert not store.complete
    store.write(features("a", logits((2, 2))))
    assert store.written == {"a"}
    assert not store.complete
    digests = store.digests
    store.finish(digests)
    assert store.complete
    assert (store.written, store.digests) == (set(), FileDigests())
    index = json.loads((store.folder / "index.json").read_text())
    assert len(index.pop("sha256")) == 64
    assert index == {"round": 2, "images": 1, "classes": K, "files": digests.to_json()}
    # Written again, they are another set until that is closed.
    store.write(features("a", logits((2, 2), seed=1)))
    assert not store.complete


def spoil(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(path.read_bytes()))


def foreign(path: Path) -> None:
    save_file({"weight": torch.zeros(2, 2)}, path)


def other_classes(path: Path) -> None:
    path.write_bytes(seal_tensors({"0": torch.zeros(K + 1, 2, 2)}, text_of(path.read_bytes())))


def no_views(path: Path) -> None:
    path.write_bytes(seal_tensors({}, text_of(path.read_bytes())))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (Path.unlink, "does not exist"),
        (spoil(lambda content: content[:0]), r"cannot be read \("),
        (spoil(lambda content: content[:-2]), r"cannot be read \("),
        (spoil(lambda content: content[:20]), r"cannot be read \("),
        (spoil(lambda content: b"\xff" + content[1:]), r"cannot be read \("),
        (foreign, r"cannot be read \("),
        (other_classes, r"cannot be read \(has 4 classes, expected 3\)"),
        (no_views, r"cannot be read \(has no logits\)"),
    ],
)
def test_a_lost_or_damaged_file_is_named_with_the_cure(
    store: SoftLabels, damage: Callable[[Path], object], found: str
) -> None:
    store.write(features("town/a", logits((3, 4))))
    assert store.cut("town/a", WHOLE).shape == (K, 6, 8)
    damage(store.path("town/a"))
    with pytest.raises(
        RunError, match=rf"town/a\.safetensors: {found}.*expected the soft .*Resume the run from the start of round 2"
    ):
        SoftLabels(store.folder, K, 2).cut("town/a", WHOLE)


@settings(max_examples=30)
@given(hits=HITS, seed=st.integers(0, 9))
def test_no_damage_reads_as_other_probabilities(hits: list[tuple[int, int]], seed: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = SoftLabels(Path(folder), K, 1)
        store.write(features("a", logits((2, 3), (1, 1), seed=seed)))
        expected = store.cut("a", WHOLE)
        for content in damaged(store.path("a").read_bytes(), hits):
            store.path("a").write_bytes(content)
            try:
                found = SoftLabels(Path(folder), K, 1).cut("a", WHOLE)
            except RunError as error:
                assert "a.safetensors" in str(error)
            else:
                assert torch.equal(found, expected)


def test_soft_labels_from_before_they_were_sealed_are_read(store: SoftLabels) -> None:
    store.write(features("a", logits((2, 3))))
    content, expected = store.path("a").read_bytes(), store.cut("a", WHOLE)
    save_file(load(content), store.path("a"), {"segshift": text_of(content)})
    (store.folder / "index.json").write_text(json.dumps({"round": 2, "images": 1, "classes": K}))
    old = SoftLabels(store.folder, K, 2)
    assert torch.equal(old.cut("a", WHOLE), expected)
    old.verify(["a"])


def finished(folder: Path, *names: str) -> SoftLabels:
    store = SoftLabels(folder, K, 2)
    for i, name in enumerate(names):
        store.write(features(name, logits((2, 3), seed=i)))
    store.finish(store.digests)
    return store


def test_verify_names_the_file_that_is_not_the_rounds_own(tmp_path: Path) -> None:
    store = finished(tmp_path / "soft-labels", "a", "town/b", "c")
    names = ["a", "c", "town/b"]
    for given_names in (names, None):
        store.verify(given_names)
    path, content = store.path("town/b"), store.path("town/b").read_bytes()
    other = finished(tmp_path / "other", "town/b").path("town/b").read_bytes()
    path.write_bytes(other)
    for given_names in (names, None):
        with pytest.raises(
            RunError, match=r"town/b\.safetensors: is not the file that the round wrote.*Resume the run"
        ):
            store.verify(given_names)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError, match=r"town/b\.safetensors: cannot be read \(its SHA-256 is not .*start of round 2"):
        store.verify(names)
    path.unlink()
    with pytest.raises(RunError, match=r"town/b\.safetensors: does not exist"):
        store.verify(names)
    with pytest.raises(RunError, match=r"soft-labels: 2 files; expected the 3 that the round wrote"):
        store.verify()


def test_verify_reads_the_index_with_care(tmp_path: Path) -> None:
    store = finished(tmp_path / "soft-labels", "a")
    index = tmp_path / "soft-labels" / "index.json"
    text = index.read_text()
    for other in ("[]", "{", text.replace('"images": 1', '"images": 2'), '{"files": {}}', "[" * 100_000):
        index.write_text(other)
        with pytest.raises(RunError, match=r"index\.json: cannot be read .*Resume the run from the start of round 2"):
            store.verify()
    index.unlink()
    with pytest.raises(RunError, match=r"index\.json: does not exist"):
        store.verify()


def test_a_name_stays_in_the_folder(store: SoftLabels) -> None:
    for name in ("../a", "/a", "a/../../b"):
        with pytest.raises(DataError, match="soft-labels"):
            store.write(features(name, logits((2, 2))))
    assert not store.folder.exists()


def test_wrong_logits_are_refused(store: SoftLabels) -> None:
    store.write(features("a", logits((2, 2))))
    with pytest.raises(ValueError, match="soft labels of 'a' are written twice in round 2"):
        store.write(features("a", logits((2, 2))))
    with pytest.raises(ValueError, match=r"logits of 'b' have shapes \[\(4, 2, 2\)\]; expected \(3, h, w\) each"):
        store.write(features("b", logits((2, 2), k=4)))
    with pytest.raises(ValueError, match=r"'b' have shapes \[\]"):
        store.write(features("b", []))
    with pytest.raises(TrainingError, match=r"image b: largest logit 70000; expected finite numbers below 65504"):
        store.write(features("b", [torch.full((K, 1, 1), 7e4)]))
    assert not store.path("b").exists()


def test_float16_holds_what_it_can() -> None:
    assert to_half(torch.full((1, 1, 1), 65504.0), "x").item() == 65504
    for value in (65520.0, float("nan"), float("inf")):
        with pytest.raises(TrainingError, match="the_name"):
            to_half(torch.full((1, 1, 1), value), "the_name")


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "soft-labels").write_text("a file where the folder should be")
    with pytest.raises(RunError, match=r"soft-labels"):
        SoftLabels(tmp_path / "soft-labels", K, 1).write(features("a", logits((2, 2))))
