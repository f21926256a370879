"""Which classes are rare, and that crops go where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segshift.data.mining import Miner, Mining, rare_classes
from segshift.data.sampling import Feed, Stream, subset_at
from segshift.data.transforms import View, draw_geometry
from segshift.errors import ConfigError

GOLDEN = Path(__file__).resolve().parents[2].parent / "shared" / "golden"


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="reference vectors are not here")
@pytest.mark.parametrize("stride", [1, 4])
def test_rare_classes_equal_the_reference(stride: int) -> None:
    with np.load(GOLDEN / "cbst.npz") as golden:
        found, _ = rare_classes(golden["pred_count"].astype(int).tolist(), Mining())
        assert list(found) == golden[f"stride{stride}_p20_mine_id"].tolist()


def test_priority_and_fallback() -> None:
    predicted = [5000, 4, 0, 30, 6, 4960]
    assert rare_classes(predicted, Mining()) == ((1, 2, 4), ())
    assert rare_classes(predicted, Mining(fallback=3)) == ((1, 2, 4), (1, 4, 3))
    assert rare_classes(predicted, Mining(share=0, classes=(5,), fallback=1)) == ((5,), (1,))
    # Exactly the share is not less than it.
    assert rare_classes([999, 1], Mining()) == ((), ())


def label(_: int) -> Tensor:
    ids = torch.zeros(20, 40, dtype=torch.uint8)
    ids[3, 30:32] = 1
    ids[15:18, 5] = 2
    ids[0] = 255
    return ids


def places(mining: Mining, predicted: list[int], draws: int = 200) -> list[tuple[int, int] | None]:
    miner = Miner(mining, predicted, label)
    found = (miner.place(0, np.random.default_rng(seed)) for seed in range(draws))
    return [None if at is None else (int(at[0] * 20), int(at[1] * 40)) for at in found]


def test_a_random_pixel_of_a_random_rare_class() -> None:
    found = places(Mining(share=0.1, chance=1), [900, 20, 30, 50])
    assert set(found) == {(3, 30), (3, 31), (15, 5), (16, 5), (17, 5)}
    # The class is drawn first, so the one with fewer pixels is not disadvantaged.
    assert 60 < sum(at[0] == 3 for at in found if at) < 140


def test_the_fallback_waits_for_an_image_without_priority() -> None:
    assert set(places(Mining(share=0.025, chance=1, fallback=2), [900, 20, 30, 50])) == {(3, 30), (3, 31)}
    only_elsewhere = Mining(share=0, classes=(3,), chance=1, fallback=2)
    assert set(places(only_elsewhere, [900, 20, 30, 50])) >= {(3, 30), (16, 5)}
    assert set(places(Mining(share=0, classes=(3,), chance=1), [900, 20, 30, 50])) == {None}


def test_the_chance() -> None:
    found = places(Mining(share=0.1, chance=0.8), [900, 20, 30, 50], 500)
    assert 0.15 < sum(at is None for at in found) / 500 < 0.25
    assert set(places(Mining(share=0.1, chance=0), [900, 20, 30, 50])) == {None}


@given(
    st.tuples(st.integers(8, 60), st.integers(8, 60)),
    st.tuples(st.integers(4, 70), st.integers(4, 70)),
    st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
    st.integers(0, 1000),
)
@settings(max_examples=100)
def test_a_crop_holds_its_centre_and_stays_inside(
    size: tuple[int, int], crop: tuple[int, int], centre: tuple[float, float], seed: int
) -> None:
    view = View(crop, (0.7, 1.3))
    mined = draw_geometry(size, view, None, np.random.default_rng(seed), 3, centre)
    plain = draw_geometry(size, view, None, np.random.default_rng(seed), 3)
    assert (mined.resized, mined.size, mined.flip, mined.slot) == (plain.resized, plain.size, plain.flip, 3)
    for corner, length, place, side in zip((mined.top, mined.left), mined.resized, centre, crop):
        assert 0 <= corner <= max(length - side, 0)
        assert corner <= place * length + 0.5
        assert place * length <= corner + side + 0.5


class Marked:
    """Grey images with one white pixel."""

    names = ("a", "b", "c")

    def image(self, index: int) -> Tensor:
        image = torch.full((3, 40, 60), 100, dtype=torch.uint8)
        image[:, 30, 10 + 20 * index] = 255
        return image

    def fingerprint(self) -> str:
        return ""


def feed(**options: Any) -> Feed:
    return Feed(Marked(), None, View((9, 9)), None, 4, Stream.TARGET, 0, **options)


def test_crops_of_a_feed_show_the_rare_pixel() -> None:
    def prediction(index: int) -> Tensor:
        return (Marked().image(index)[0] == 255).to(torch.uint8)

    miner = Miner(Mining(chance=1), [2399, 1], prediction)
    mined = torch.cat([feed(miner=miner).images(t, range(4)).image for t in range(5)])
    assert bool((mined.amax((1, 2, 3)) == 1).all())
    # One chance in thirty or so by luck.
    plain = torch.cat([feed().images(t, range(4)).image for t in range(5)])
    assert (plain.amax((1, 2, 3)) == 1).float().mean() < 0.5


@given(st.integers(1, 300), st.floats(0.01, 0.99), st.integers(1, 9), st.integers(0, 9))
@settings(max_examples=40)
def test_a_share_of_the_source(count: int, share: float, key: int, seed: int) -> None:
    kept = subset_at(seed, Stream.SOURCE, key, count, share)
    assert kept == subset_at(seed, Stream.SOURCE, key, count, share)
    assert kept is not None
    assert len(set(kept)) == len(kept) == max(1, round(share * count))
    assert set(kept) <= set(range(count))
    assert subset_at(seed, Stream.SOURCE, key, count, 1.0) is None


def test_a_share_is_drawn_anew_each_round_and_fed() -> None:
    one, two = (subset_at(0, Stream.SOURCE, n, 100, 0.1) for n in (1, 2))
    assert one != two
    drawn = {name for t in range(6) for name in feed(indices=(0, 2)).images(t, range(4)).name}
    assert drawn == {"a", "c"}


@pytest.mark.parametrize(
    "options", [{"share": -0.1}, {"chance": 1.1}, {"fallback": -1}, {"classes": (255,)}, {"where": "labels"}]
)
def test_bad_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))} = .*expected"):
        Mining(**options)
