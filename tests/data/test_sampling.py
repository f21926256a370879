"""What is drawn at step t is a function of (seed, t, slot): not of history, loader workers or processes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader

from segshift.data.sampling import Feed, Steps, Stream, generator, index_at, no_images, unchanged
from segshift.data.transforms import View
from segshift.errors import DataError
from segshift.types import IGNORE, Batch, Images


class Noise:
    """Images of random pixels; the label of a pixel is its red value modulo 5."""

    def __init__(self, count: int, sizes: tuple[tuple[int, int], ...] = ((20, 24),)) -> None:
        self.names = tuple(f"image_{i}" for i in range(count))
        self.sizes = sizes

    def image(self, index: int) -> Tensor:
        size = self.sizes[index % len(self.sizes)]
        return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(index))

    def label(self, index: int) -> Tensor:
        return self.image(index)[0] % 5

    def fingerprint(self) -> str:
        return ""


def feed(count: int = 7, batch: int = 4, seed: int = 0, stream: Stream = Stream.SOURCE, labelled: bool = True) -> Feed:
    data = Noise(count)
    view = View((16, 16), (0.8, 1.4))
    return Feed(data, data.label if labelled else None, view, None, batch, stream, seed)


def equal(a: Images, b: Images) -> bool:
    same = torch.equal(a.image, b.image) and torch.equal(a.label, b.label)
    return same and (a.name, a.geometry) == (b.name, b.geometry)


@given(
    seed=st.integers(0, 2**32), stream=st.sampled_from(Stream), epoch=st.integers(0, 10**6), count=st.integers(1, 50)
)
def test_an_epoch_is_a_permutation(seed: int, stream: Stream, epoch: int, count: int) -> None:
    drawn = [index_at(seed, stream, epoch * count + i, count) for i in range(count)]
    assert sorted(drawn) == list(range(count))


def test_orders_differ_by_epoch_stream_and_seed() -> None:
    def order(seed: int, stream: Stream, epoch: int) -> tuple[int, ...]:
        return tuple(index_at(seed, stream, epoch * 50 + i, 50) for i in range(50))

    orders = {order(s, stream, e) for s in range(2) for stream in (Stream.SOURCE, Stream.TARGET) for e in range(2)}
    assert len(orders) == 8
    draws = {generator(0, stream, *keys).random() for stream in Stream for keys in ((1,), (0, 1), (1, 0, 1), (2,))}
    assert len(draws) == 4 * len(Stream)


@settings(max_examples=25)
@given(t=st.integers(0, 10**6), batch=st.integers(1, 5), world=st.integers(1, 4), seed=st.integers(0, 99))
def test_processes_together_see_what_one_sees(t: int, batch: int, world: int, seed: int) -> None:
    batch *= world
    source, target = feed(batch=batch, seed=seed), feed(5, batch, seed, Stream.TARGET, labelled=False)
    alone = Steps(source, target, t, t + 1)[0]
    shares = [Steps(source, target, t, t + 1, rank, world)[0] for rank in range(world)]
    for one, parts in zip(alone, zip(*shares)):
        for slot in range(batch):
            part, i = parts[slot % world], slot // world
            assert part.geometry is not None and one.geometry is not None
            assert torch.equal(part.image[i], one.image[slot])
            assert torch.equal(part.label[i], one.label[slot])
            assert part.name[i] == one.name[slot]
            assert part.geometry[i] == one.geometry[slot]
            assert part.geometry[i].slot == slot


def test_no_history() -> None:
    steps = Steps(feed(), None, 0, 20)
    later = Steps(feed(), None, 13, 20)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state()
    for item in (5, 0, 3):
        assert equal(steps[13 + item].source, later[item].source)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(later) == 7
    assert not equal(steps[0].source, steps[1].source)


def test_each_slot_and_step_draws_its_own_crop() -> None:
    drawn = [feed(count=1).images(t, range(4)).geometry for t in range(5)]
    crops = {geometry[:5] for geometries in drawn if geometries for geometry in geometries}
    assert len(crops) == 20
    other = feed(count=1, seed=1).images(0, range(4)).geometry
    assert other is not None
    assert not {geometry[:5] for geometry in other} & crops


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(workers: int) -> None:
    steps = Steps(feed(), feed(5, 4, 0, Stream.TARGET), 2, 7)
    loader: DataLoader[Batch] = DataLoader(steps, batch_size=None, num_workers=workers, collate_fn=unchanged)
    loaded = list(loader)
    assert len(loaded) == 5
    for item, batch in enumerate(loaded):
        for ours, theirs in zip(batch, steps[item]):
            assert equal(ours, theirs)
            assert type(ours.name) is tuple
            assert type(ours.geometry) is tuple


def test_labels() -> None:
    images = feed().images(0, range(4))
    assert set(images.label.unique().tolist()) <= {0, 1, 2, 3, 4, IGNORE}
    assert images.label.dtype == torch.int64
    assert len(images.label.unique()) > 3
    unlabelled = feed(labelled=False).images(0, range(4))
    assert (unlabelled.label == IGNORE).all()
    assert torch.equal(unlabelled.image, images.image)
    nothing = no_images()
    assert len(nothing.image) == len(nothing.label) == len(nothing.name) == 0
    assert Steps(None, None, 0, 1)[0].target.name == ()


def test_a_translation_changes_pixels_and_nothing_that_is_drawn() -> None:
    asked: list[tuple[int, int]] = []

    def blue_to_red(image: Tensor, t: int, slot: int) -> Tensor:
        asked.append((t, slot))
        return image.flip(0)

    plain, other = feed(), replace(feed(), translate=blue_to_red)
    for t in range(3):
        before, after = plain.images(t, range(1, 4)), other.images(t, range(1, 4))
        assert torch.equal(after.image, before.image.flip(1))
        assert not torch.equal(after.image, before.image)
        assert torch.equal(after.label, before.label)
        assert (after.name, after.geometry) == (before.name, before.geometry)
    assert asked == [(t, slot) for t in range(3) for slot in range(1, 4)]
    assert equal(replace(feed(), translate=lambda image, _, __: image).images(0, range(4)), plain.images(0, range(4)))


def test_a_translated_image_may_have_another_size() -> None:
    data = Noise(3, ((40, 48),))
    whole = Feed(data, data.label, View((20, 24)), 20, 3, Stream.SOURCE, 0)
    before, after = (
        whole.images(1, range(3)),
        replace(whole, translate=lambda image, _, __: image[:, ::2, ::2]).images(1, range(3)),
    )
    assert after.image.shape == before.image.shape == (3, 3, 20, 24)
    assert torch.equal(after.label, before.label) and after.geometry == before.geometry


def test_what_was_drawn_before_there_were_translations_is_drawn_still() -> None:
    images = feed().images(3, range(4))
    assert images.name == ("image_6", "image_4", "image_0", "image_3")
    assert images.geometry is not None and [tuple(geometry) for geometry in images.geometry] == [
        ((19, 23), 0, 7, (16, 16), True, 0),
        ((28, 34), 9, 11, (16, 16), True, 1),
        ((25, 30), 4, 2, (16, 16), False, 2),
        ((24, 29), 5, 8, (16, 16), True, 3),
    ]


def test_images_of_several_sizes_need_a_crop() -> None:
    data = Noise(6, ((20, 24), (16, 30)))
    mixed = Feed(data, None, View(), None, 6, Stream.SOURCE, 0)
    with pytest.raises(DataError, match=r"sizes \[\(16, 30\), \(20, 24\)\]; set a crop"):
        mixed.images(0, range(6))
    cropped = Feed(data, None, View((18, 18)), None, 6, Stream.SOURCE, 0)
    assert cropped.images(0, range(6)).image.shape == (6, 3, 18, 18)
