"""The batches of a round: the same to the bit whether images are decoded each time or lie decoded in a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.fakes.folder import make_folder_pair
from tests.fakes.tiny import tiny
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from segshift.data.domains import Domains
from segshift.data.pseudo_labels import PseudoLabels
from segshift.data.sampling import Feed, PackedBatch, Steps, Stream
from segshift.data.transforms import View
from segshift.data.translation import Translation
from segshift.feeding import batches
from segshift.phase import Phase, Settings
from segshift.run_data import open_all
from segshift.snapshot import Position
from segshift.types import Batch

FIXED = View((32, 32))
VIEWS = {
    "scaled": View((32, 32), (0.7, 1.3)),
    "fixed": FIXED,
    "fixed and larger": View((60, 40)),
    "whole": View(),
    "window": View((24, 32), window=(20, 40)),
}


@pytest.fixture(scope="module")
def drawn_from(tmp_path_factory: pytest.TempPathFactory) -> tuple[Domains, Domains, Path]:
    """The same domains without and with a folder of decoded images, and a folder for labels."""
    folder = tmp_path_factory.mktemp("drawn")
    pair = make_folder_pair(folder, images=3, size=70)
    recipe = tiny("oracle", *pair)
    fixed = {name: replace(phase, source_view=FIXED, target_view=FIXED) for name, phase in recipe.phases()}
    kept = replace(recipe, **fixed, settings=replace(recipe.settings, cache=str(folder / "cache")))
    return open_all(recipe).domains, open_all(kept).domains, folder


def drawn(phase: Phase, data: Domains, folder: Path, workers: int = 0) -> list[Batch]:
    store, settings = PseudoLabels(folder / "round-1", len(data.space)), Settings(workers=workers, accelerator="cpu")
    return list(batches(phase, settings, data, store, Position(0, 1, 0, 0), 5, 0, 1))


def assert_same_batches(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected) == 5
    for one, other in zip(found, expected):
        for a, b in zip(one, other):
            assert torch.equal(a.image, b.image)
            assert a.image.is_contiguous()
            assert torch.equal(a.label, b.label)
            assert a.label.dtype == torch.long
            assert (a.name, a.geometry) == (b.name, b.geometry)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("translation", [None, Translation("lab", chance=0.5)])
def test_the_same_is_drawn_to_the_bit(
    drawn_from: tuple[Domains, Domains, Path], view: View, translation: Translation | None
) -> None:
    plain, cached, folder = drawn_from
    phase = tiny("adaptsegnet", folder, folder).warmup
    method = tiny("adaptsegnet", folder, folder).last[1].method
    phase = replace(phase, method=method, batch=2, source_view=view, target_view=view, translation=translation)
    assert set(method.domains) == {"source", "target"}
    assert_same_batches(drawn(phase, cached, folder), drawn(phase, plain, folder))


@pytest.mark.slow
def test_loading_processes_draw_the_same(drawn_from: tuple[Domains, Domains, Path]) -> None:
    plain, cached, folder = drawn_from
    phase = replace(tiny("cbst", folder, folder).last[1], source_view=FIXED)
    expected = drawn(phase, plain, folder)
    for workers in (1, 2):
        assert_same_batches(drawn(phase, cached, folder, workers), expected)


def test_images_at_the_working_size_are_taken_where_a_view_needs_no_other(
    drawn_from: tuple[Domains, Domains, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, cached, folder = drawn_from
    phase = replace(tiny("source-only", folder, folder).warmup, source_view=FIXED)
    assert cached.source is not None

    def refuse(index: int) -> Tensor:
        raise AssertionError(f"image {index} was asked for at its own size")

    monkeypatch.setattr(cached.source, "image", refuse)
    assert len(drawn(phase, cached, folder)) == 5
    with pytest.raises(AssertionError, match="at its own size"):
        drawn(replace(phase, source_view=VIEWS["scaled"]), cached, folder)


def test_pinning_changes_nothing_but_where_tensors_lie(
    drawn_from: tuple[Domains, Domains, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's own function would make lists of names, and of the sizes in a geometry. Pinning itself needs a GPU."""
    data, pinned = drawn_from[0].source, list[Tensor]()
    assert data is not None
    feed = Feed(
        data, data.label, FIXED, None, 2, Stream.SOURCE, 0, soft=lambda _, geometry: torch.ones(1, *geometry.size)
    )
    batch = Steps(feed, None, 0, 1).packed(0)

    def kept(tensor: Tensor) -> Tensor:
        pinned.append(tensor)
        return tensor.clone()

    monkeypatch.setattr(Tensor, "pin_memory", kept)
    found = pin_memory(batch)
    assert isinstance(found, PackedBatch)
    assert {id(tensor) for tensor in pinned} >= {
        id(t) for t in (batch.source.image, batch.source.label, batch.source.soft)
    }
    assert (found.source.name, found.source.geometry) == (batch.source.name, batch.source.geometry)
    assert torch.equal(found.unpacked().source.image, batch.unpacked().source.image)
