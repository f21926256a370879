"""Automatic tiles keep the estimate within the budget, and are as large as it lets them be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.fakes.trained import saved, trained

from segshift.errors import ConfigError
from segshift.models.deeplab import DeepLabV3Plus
from segshift.prediction.tile_size import SMALL, STEP, Footprint, automatic, estimate, footprint, tiles_for
from segshift.prediction.tiles import Tiles, working_sizes
from segshift.scan import Views

FOOTPRINTS = st.builds(
    Footprint,
    st.floats(1, 3000),
    st.sampled_from((0.0, 1e-6, 1e-3)),
    st.floats(0.1, 80),
    st.sampled_from((1.0, 4.0, 8.0)),
)
VIEWS = st.builds(Views, st.booleans(), st.sampled_from(((1.0,), (0.5, 1.0), (0.75, 1.0, 1.5))))


@given(
    found=FOOTPRINTS,
    size=st.tuples(st.integers(1, 9000), st.integers(1, 9000)),
    short_side=st.none() | st.integers(1, 4000),
    views=VIEWS,
    overlap=st.floats(0, 0.6),
    budget=st.integers(10 << 20, 8 << 30),
)
def test_the_estimate_is_never_above_the_budget(
    found: Footprint,
    size: tuple[int, int],
    short_side: int | None,
    views: Views,
    overlap: float,
    budget: int,
) -> None:
    sizes = working_sizes(size, short_side, views)
    try:
        tiles = automatic(found, size, short_side, views, overlap, budget)
    except ConfigError as error:
        assert "memory = " in str(error)
        assert estimate(found, sizes, size[1], Tiles((STEP, STEP), overlap), views.flip) > budget
        return
    assert estimate(found, sizes, size[1], tiles, views.flip) <= budget
    if tiles is None:
        return
    assert tiles.overlap == overlap
    assert tiles.size[0] == tiles.size[1] and tiles.size[0] % STEP == 0
    assert estimate(found, sizes, size[1], None, views.flip) > budget
    assert not all(map(tiles.holds, sizes))


@given(
    found=FOOTPRINTS, size=st.tuples(st.integers(64, 4000), st.integers(64, 4000)), budget=st.integers(1 << 28, 1 << 32)
)
def test_more_memory_gives_no_smaller_tiles(found: Footprint, size: tuple[int, int], budget: int) -> None:
    try:
        few = automatic(found, size, None, Views(), budget=budget)
    except ConfigError:
        return
    many = automatic(found, size, None, Views(), budget=2 * budget)
    assert many is None or (few is not None and many.size[0] >= few.size[0])


def test_the_footprint_of_a_network() -> None:
    model = trained().network
    found = footprint(model, model.minimum_size)
    # 3 colours, 8 channels at stride 2 and 4, 16 at 8, in floats: at least the image and its first map at once.
    assert 4 * (3 + 4 / 4) < found.linear < 1000
    assert found.square < 1e-5
    assert (found.stride, found.logits) == (4.0, pytest.approx(4 * 5 / 16))
    assert all(not module.training for module in model.modules())


def test_attention_is_seen_to_grow_with_the_square() -> None:
    class Attention(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, image: torch.Tensor):
            from segshift.types import Output

            low = torch.nn.functional.avg_pool2d(image, 8).flatten(2)
            mixed = low @ (low.mT @ low).softmax(-1)
            side = round(mixed.shape[2] ** 0.5)
            return Output((self.weight * mixed).unflatten(2, (side, side)))

    found = footprint(Attention())
    # Every place of a map of stride 8 against every other one, twice (before the softmax and after).
    assert found.square > 2 * 4 / 64**2
    assert found.of(1024 * 1024) > 2 * 4 * (1024 * 1024 / 64) ** 2


def test_small_images_ask_no_network() -> None:
    class Asked(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> None:
            raise AssertionError("the network was asked")

    assert tiles_for(Asked(), (1024, 1024), None, Views(), None, budget=1) == (None, None)
    assert tiles_for(Asked(), (9000, 9000), 1000, Views(), None, budget=1) == (None, None)
    known = Footprint(100, 0, 1, 4)
    tiles, _ = tiles_for(Asked(), (1025, 1024), None, Views(), known, budget=60 << 20)
    assert tiles is not None and SMALL < 1025 * 1024


@pytest.mark.slow
@pytest.mark.parametrize(("size", "cut"), [((1024, 2048), False), ((4000, 6000), True)])
def test_large_images_take_less_than_four_gigabytes(tmp_path: Path, size: tuple[int, int], cut: bool) -> None:
    """The whole process, at the image's own size, with everything kept that is an image."""
    run = saved(tmp_path / "run", network=DeepLabV3Plus("mobilenetv2_100"))
    pixels = np.random.default_rng(0).integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(tmp_path / "large.jpg")
    words = ["predict", str(run), str(tmp_path / "large.jpg"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    words += ["--short-side", "native", "--keep", "labels", "overlays", "confidence", "entropy"]
    program = (
        "import resource, sys\n"
        "from segshift.cli import main\n"
        f"code = main({words!r})\n"
        "print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600, check=True)
    code, kilobytes = map(int, done.stdout.splitlines()[-1].split())
    assert code == 0
    assert kilobytes * 1024 < 4e9
    assert ("predicted in tiles of" in done.stdout) == cut
    with Image.open(tmp_path / "out" / "entropy" / "large.png") as entropy:
        assert (entropy.height, entropy.width) == size
