"""Tiles cover every pixel and fade into one another; where the tiling cannot matter, it does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from segshift.errors import ConfigError
from segshift.models.small import SmallNet
from segshift.prediction.tiles import Tiles, parts, tiled_label
from segshift.scan import Views, evaluating, predict_label
from segshift.types import Output

TILES = st.builds(Tiles, st.tuples(st.integers(1, 20), st.integers(1, 20)), st.floats(0, 0.9))
SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


class Pointwise(nn.Module):
    """Its logits are the colours of the pixel itself, or of `stride` x `stride` pixels; it keeps what it was shown."""

    def __init__(self, stride: int = 1, align_corners: bool = False) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(4.0))
        self.stride, self.align_corners = stride, align_corners
        self.seen: list[tuple[int, int]] = []

    def forward(self, image: Tensor) -> Output:
        self.seen.append((image.shape[2], image.shape[3]))
        return Output(self.gain * nn.functional.avg_pool2d(image, self.stride, ceil_mode=True))


def picture(size: tuple[int, int], seed: int, coarse: int | None = None) -> Tensor:
    """Random colours a pixel, or smooth ones."""
    rng = torch.Generator().manual_seed(seed)
    if coarse is None:
        return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=rng)
    few = torch.rand(1, 3, coarse, coarse, generator=rng) * 255
    return nn.functional.interpolate(few, size, mode="bilinear")[0].to(torch.uint8)


@given(tiles=TILES, length=st.integers(1, 60))
def test_tiles_reach_from_end_to_end_and_overlap_as_asked(tiles: Tiles, length: int) -> None:
    line = tiles.along(0, length)
    assert line.side == min(tiles.size[0], length)
    assert line.starts[0] == 0
    assert line.starts[-1] + line.side == length
    steps = [after - before for before, after in zip(line.starts, line.starts[1:])]
    most = max(1, line.side * (1 - tiles.overlap))
    assert all(0 < step <= most for step in steps)
    # One tile fewer could not do it.
    assert len(steps) == 0 or (len(steps) - 1) * int(most) < length - line.side


@given(tiles=TILES, length=st.integers(1, 60), output=st.integers(1, 90), align_corners=st.booleans())
def test_every_pixel_is_covered_by_shares_that_make_one(
    tiles: Tiles, length: int, output: int, align_corners: bool
) -> None:
    line = tiles.along(0, length)
    found = parts(line, output, align_corners)
    weights = torch.zeros(len(found), output)
    for number, part in enumerate(found):
        assert ((part.share > 0) & (part.share <= 1)).all()
        assert ((part.centre >= 0) & (part.centre <= line.side)).all()
        # A running mean: what stood there keeps the rest.
        weights[:number, part.span] *= 1 - part.share
        weights[number, part.span] = part.share
    torch.testing.assert_close(weights.sum(0), torch.ones(output))
    assert torch.equal(found[0].share, torch.ones_like(found[0].share))


def test_a_tile_fades_into_the_next() -> None:
    line = Tiles((8, 8), 0.5).along(0, 12)
    assert line.starts == (0, 4)
    first, second = parts(line, 12, align_corners=False)
    assert (first.span, second.span) == (slice(0, 8), slice(4, 12))
    # Centres of pixels 4 to 7 lie 3.5, 2.5, ... from the end of the one, 0.5, 1.5, ... from the start of the other.
    torch.testing.assert_close(second.share[:4], torch.tensor([0.5, 1.5, 2.5, 3.5]) / 4)
    assert (second.share[4:] == 1).all()


@settings(max_examples=60)
@given(
    size=SIZES,
    tiles=TILES,
    flip=st.booleans(),
    align_corners=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_network_that_sees_one_pixel_gives_the_same_labels(
    size: tuple[int, int], tiles: Tiles, flip: bool, align_corners: bool, seed: int
) -> None:
    model, image, views = Pointwise(align_corners=align_corners), picture(size, seed), Views(flip)
    with evaluating(model):
        assert torch.equal(
            tiled_label(model, image, size, None, views, tiles), predict_label(model, image, size, None, views)
        )


VIEWS = (Views(), Views(flip=True), Views(True, (0.5, 1.0)), Views(True, (0.75, 1.0, 1.25), "logits"))


@pytest.mark.parametrize("views", VIEWS)
@pytest.mark.parametrize("align_corners", [False, True])
def test_tiles_agree_with_the_whole_image(views: Views, align_corners: bool) -> None:
    """Other sizes than the image's, a working size, views: labels differ only where two classes are as good."""
    model, image, size = Pointwise(4, align_corners), picture((60, 100), 3, coarse=5), (90, 151)
    with evaluating(model):
        whole = predict_label(model, image, size, 48, views)
        found = tiled_label(model, image, size, 48, views, Tiles((32, 32), 0.5))
    assert found.shape == whole.shape and len(whole.unique()) == 3
    assert (found != whole).float().mean() < 0.04
    # A network of colours 4 pixels wide: what differs lies where a label meets another one.
    inner = nn.functional.max_pool2d(whole[None].float(), 13, 1, 6) == -nn.functional.max_pool2d(
        -whole[None].float(), 13, 1, 6
    )
    assert torch.equal(found[inner[0]], whole[inner[0]])


def network() -> Any:
    torch.manual_seed(0)
    model = SmallNet(width=4).build(5)
    nn.init.normal_(model.classifier.weight, std=1.5)
    return model


@pytest.mark.parametrize("views", VIEWS)
def test_one_tile_that_holds_the_image_is_the_image(views: Views) -> None:
    model, image = network(), picture((33, 41), 0, coarse=6)
    with evaluating(model):
        whole = predict_label(model, image, (66, 82), 24, views)
        assert torch.equal(tiled_label(model, image, (66, 82), 24, views, Tiles((40, 40))), whole)
        assert len(whole.unique()) > 1
        assert not torch.equal(tiled_label(model, image, (66, 82), 24, views, Tiles((12, 16))), whole)


def test_each_tile_is_seen_once_in_the_size_asked_for() -> None:
    model = Pointwise(2)
    with evaluating(model):
        tiled_label(model, picture((50, 90), 0), (50, 90), None, Views(flip=True), Tiles((20, 64), 0.25))
    down, across = Tiles((20, 64), 0.25).along(0, 50), Tiles((20, 64), 0.25).along(1, 90)
    assert (len(down.starts), len(across.starts)) == (3, 2)
    assert model.seen == [(20, 64)] * 3 * 2 * 2
    # Smaller than a tile in one direction: as long as the image there.
    model = Pointwise(2)
    with evaluating(model):
        tiled_label(model, picture((10, 90), 0), (10, 90), None, Views(), Tiles((20, 64), 0.25))
    assert model.seen == [(10, 64)] * 2


def test_rows_of_tiles_are_seen_as_the_output_reaches_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """And dropped: a tall image is never held as a whole."""
    import segshift.prediction.tiles as module

    monkeypatch.setattr(module, "_BAND_PIXELS", {"cpu": 16 * 8})  # 8 rows at a time
    model, held = Pointwise(), []
    scores = module._Look.scores

    def watched(look: Any, rows: slice) -> Tensor:
        held.append((len(model.seen), len(look._wide)))
        return scores(look, rows)

    monkeypatch.setattr(module._Look, "scores", watched)
    image = picture((160, 16), 0)
    with evaluating(model):
        found = tiled_label(model, image, (160, 16), None, Views(), Tiles((32, 16), 0.25))
        assert torch.equal(found, predict_label(model, image, (160, 16), None, Views()))
    seen = [count for count, _ in held]
    assert seen[0] == 1 and seen == sorted(seen) and seen[-1] == len(Tiles((32, 16), 0.25).along(0, 160).starts)
    assert max(rows for _, rows in held) == 2


@pytest.mark.parametrize(
    ("size", "overlap", "found"),
    [((0, 8), 0.25, "tile = "), ((8, 8), 0.95, "overlap = 0.95"), ((8, 8), -0.1, "overlap = -0.1")],
)
def test_wrong_tiles_are_errors(size: tuple[int, int], overlap: float, found: str) -> None:
    with pytest.raises(ConfigError, match=f"{found}.*expected"):
        Tiles(size, overlap)
