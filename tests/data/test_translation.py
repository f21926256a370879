"""Training-free translation: against direct formulations, in its limits, and as a function of (seed, t, slot)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes.tiny import tiny, watched, weights
from torch import Tensor

from segshift import recipe as recipe_file
from segshift import tables
from segshift.data.resizing import resize_image
from segshift.data.translation import Translation, Translator, fourier, lab_statistics, translate
from segshift.errors import ConfigError
from segshift.methods.iast import IASTConfig
from segshift.methods.source_only import SourceOnlyConfig
from segshift.options import TableOptions
from segshift.overrides import AdaptOptions, apply
from segshift.phase import Phase
from segshift.recipe import Recipe
from segshift.recipes import find
from segshift.runs import resume, start
from segshift.tables.declare import Row
from segshift.tables.plan import plan


def noise(seed: int, size: tuple[int, int], low: int = 0, high: int = 256) -> Tensor:
    """Random pixels of [low, high), uint8 (3, h, w)."""
    return torch.randint(low, high, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def scene(seed: int, size: tuple[int, int], mean: tuple[float, float, float], spread: float) -> Tensor:
    """A smooth scene, well inside 0 .. 255 in all three channels."""
    h, w = size
    y, x = torch.meshgrid(torch.linspace(0, 6, h), torch.linspace(0, 6, w), indexing="ij")
    waves = torch.stack([torch.sin(x * (i + 1) + seed) * torch.cos(y + i * seed) for i in range(3)])
    return (torch.tensor(mean)[:, None, None] + spread * waves).round().to(torch.uint8)


def centred(image: Tensor) -> np.ndarray:
    """The spectrum with zero frequency in the middle, as FDA is usually written."""
    return np.fft.fftshift(np.fft.fft2(image.double().numpy()), axes=(1, 2))


# --- Fourier ------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    beta=st.floats(0, 0.5),
    seed=st.integers(0, 99),
)
def test_amplitudes_in_the_window_are_the_references_and_phases_stay(
    size: tuple[int, int], beta: float, seed: int
) -> None:
    image, reference = noise(seed, size), noise(seed + 100, size)
    (h, w), b = size, int(np.floor(beta * min(size)))
    ours, theirs = centred(image), centred(reference)
    y, x = np.mgrid[:h, :w]
    window = (abs(y - h // 2) <= b) & (abs(x - w // 2) <= b)
    mixed = np.where(window, abs(theirs), abs(ours)) * np.exp(1j * np.angle(ours))
    inverse = np.fft.ifft2(np.fft.ifftshift(mixed, axes=(1, 2)))
    assert abs(inverse.imag).max() < 1e-6
    expected = inverse.real.clip(0, 255)
    # Within half a level of what is stored, and the error of single precision.
    assert abs(fourier(image, reference, beta).double().numpy() - expected).max() <= 0.5 + 1e-3


@given(size=st.tuples(st.integers(1, 20), st.integers(1, 20)), beta=st.floats(0, 0.5), seed=st.integers(0, 99))
@settings(max_examples=20)
def test_an_image_in_its_own_style_is_itself(size: tuple[int, int], beta: float, seed: int) -> None:
    image = noise(seed, size)
    assert fourier(image, image, beta).equal(image)
    assert (lab_statistics(image, image).int() - image.int()).abs().max() <= 1


def test_a_window_of_half_width_zero_swaps_the_means_alone() -> None:
    image, reference = noise(0, (24, 40), 90, 120), noise(1, (24, 40), 110, 160)
    # 0.04 of 24 pixels is less than one.
    moved = fourier(image, reference, 0.04)
    assert moved.equal(fourier(image, reference, 0.0))
    shift = reference.double().mean((1, 2)) - image.double().mean((1, 2))
    assert (moved.double() - image - shift[:, None, None]).abs().max() <= 0.5 + 1e-3
    wider = fourier(image, reference, 0.05)
    assert not wider.equal(moved)


def test_all_frequencies_of_a_square_are_swapped_at_one_half() -> None:
    image, reference = noise(2, (16, 16), 100, 150), noise(3, (16, 16), 100, 150)
    swapped = fourier(image, reference, 0.5)
    assert np.allclose(abs(centred(swapped)), abs(centred(reference)), atol=0.5 * 16 * 16 / 4)
    assert not np.allclose(abs(centred(image)), abs(centred(reference)), atol=0.5 * 16 * 16 / 4)


def test_a_reference_of_another_size_is_resized() -> None:
    image, reference = noise(4, (20, 30)), noise(5, (33, 47))
    resized = resize_image(reference, (20, 30))
    assert fourier(image, reference, 0.1).equal(fourier(image, resized, 0.1))
    assert lab_statistics(image, reference).equal(lab_statistics(image, resized))


# --- LAB ----------------------------------------------------------------------------------------------------------


def lab(image: Tensor) -> np.ndarray:
    """CIELAB by another library, (h * w, 3)."""
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy().astype(np.float32) / 255)
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB).reshape(-1, 3)


def test_means_and_spreads_of_lab_become_the_references() -> None:
    image = scene(1, (40, 60), (140.0, 120.0, 100.0), 40.0)
    reference = scene(5, (40, 60), (90.0, 100.0, 115.0), 15.0)
    moved = lab_statistics(image, reference)
    assert moved.min() > 0 and moved.max() < 255
    before, after, wanted = lab(image), lab(moved), lab(reference)
    assert abs(before.mean(0) - wanted.mean(0)).min() > 2 and abs(before.std(0) - wanted.std(0)).min() > 2
    assert np.allclose(after.mean(0), wanted.mean(0), atol=0.2)
    assert np.allclose(after.std(0), wanted.std(0), atol=0.2)


def test_a_grey_image_stays_without_structure_in_its_colours() -> None:
    ramp = torch.arange(40, 200, 4, dtype=torch.uint8).expand(3, 20, 40)
    reference = scene(5, (20, 40), (90.0, 110.0, 140.0), 30.0)
    found, wanted = lab(lab_statistics(ramp, reference)), lab(reference)
    # Its own colours have no spread: they take the mean of the reference's, and are not noise blown up.
    assert np.allclose(found[:, 1:].mean(0), wanted[:, 1:].mean(0), atol=0.3)
    assert found[:, 1:].std(0).max() < 0.6 < wanted[:, 1:].std(0).min()
    assert abs(found[:, 0].std() - wanted[:, 0].std()) < 0.3


def test_a_constant_image_becomes_the_references_mean_colour() -> None:
    grey, reference = torch.full((3, 12, 12), 77, dtype=torch.uint8), scene(2, (12, 12), (60.0, 90.0, 120.0), 20.0)
    for moved, mean in (
        (lab_statistics(grey, reference), lab(reference).mean(0)),
        (lab_statistics(reference, grey), lab(grey).mean(0)),
    ):
        assert len(moved.reshape(3, -1).unique(dim=1)[0]) == 1
        assert np.allclose(lab(moved)[0], mean, atol=0.5)
    assert (fourier(grey, reference, 0.0).double() - reference.double().mean((1, 2))[:, None, None]).abs().max() <= 0.51


# --- both ---------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    kind=st.sampled_from(["fourier", "lab"]),
    size=st.tuples(st.integers(2, 16), st.integers(2, 16)),
    other=st.tuples(st.integers(1, 16), st.integers(1, 16)),
    low=st.integers(0, 255),
    seed=st.integers(0, 99),
)
def test_images_of_any_size_and_range_stay_images(
    kind: Any, size: tuple[int, int], other: tuple[int, int], low: int, seed: int
) -> None:
    image, reference = noise(seed, size, low), noise(seed + 1, other, 0, low + 1)
    before = image.clone()
    moved = translate(image, reference, Translation(kind, beta=0.1))
    assert moved.dtype == torch.uint8 and moved.shape == image.shape and moved.is_contiguous()
    assert image.equal(before)


@settings(max_examples=20)
@given(size=st.tuples(st.integers(2, 16), st.integers(2, 16)), low=st.integers(0, 250), flat=st.integers(0, 255))
def test_towards_one_colour_nothing_but_that_colour_is_left_in_lab(size: tuple[int, int], low: int, flat: int) -> None:
    moved = lab_statistics(noise(1, size, low), torch.full((3, 5, 5), flat, dtype=torch.uint8))
    assert (moved.int() - flat).abs().max() <= 1


@pytest.mark.parametrize("kind", ["fourier", "lab"])
def test_the_number_of_threads_changes_nothing(kind: Any) -> None:
    image, reference = noise(6, (121, 163)), noise(7, (121, 163))
    alone = translate(image, reference, Translation(kind))
    torch.set_num_threads(2)
    try:
        assert translate(image, reference, Translation(kind)).equal(alone)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"kind": "wavelet"}, "kind = 'wavelet'; expected fourier or lab"),
        ({"beta": -0.1}, r"beta = -0.1; expected 0 .* to 0.5"),
        ({"beta": 0.6}, r"beta = 0.6; expected 0 .* to 0.5"),
        ({"beta": float("nan")}, "beta = nan; expected"),
        ({"chance": 0.0}, "chance = 0.0; expected a share above 0 and at most 1"),
        ({"chance": 1.1}, "chance = 1.1; expected"),
    ],
)
def test_options_out_of_range(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Translation(**wrong)


def test_fourier_refuses_a_beta_out_of_range() -> None:
    with pytest.raises(ConfigError, match=r"beta = 0\.7"):
        fourier(noise(0, (4, 4)), noise(1, (4, 4)), 0.7)


# --- what is drawn ------------------------------------------------------------------------------------------------


class Constants:
    """Image i is of the colour 10 * i + 5."""

    names = tuple("abcdefgh")

    def image(self, index: int) -> Tensor:
        return torch.full((3, 9, 13), 10 * index + 5, dtype=torch.uint8)

    def fingerprint(self) -> str:
        return ""


def drawn(seed: int, steps: int = 40, chance: float = 1.0) -> list[int | None]:
    """The reference of each (t, slot); None where the image stayed as it was."""
    translator = Translator(Translation(chance=chance), Constants(), None, seed)
    image = torch.full((3, 10, 12), 200, dtype=torch.uint8)
    found = [int(translator(image, t, slot)[0, 0, 0]) for t in range(steps) for slot in range(2)]
    return [None if value == 200 else (value - 5) // 10 for value in found]


def test_the_reference_is_a_function_of_seed_step_and_slot() -> None:
    every = drawn(0)
    assert every == drawn(0) != drawn(1)
    assert set(every) == set(range(8))
    assert every[0::2] != every[1::2]
    half = drawn(0, chance=0.5)
    assert 20 < half.count(None) < 60
    # Which reference it is does not depend on how many are translated.
    assert all(ours is None or ours == whole for ours, whole in zip(half, every, strict=True))


def test_an_image_is_translated_at_its_working_size() -> None:
    image = noise(8, (40, 60))
    references = Constants()
    assert Translator(Translation(), references, 20, 0)(image, 3, 1).shape == (3, 20, 30)
    # What chance passes over stays at its own size: it is the image that a run without translation sees.
    never = Translator(Translation(chance=1e-12), references, 20, 0)
    assert never(image, 3, 1) is image
    resized = resize_image(image, (20, 30))
    moved = Translator(Translation("lab"), references, 20, 0)(image, 3, 1)
    assert any(moved.equal(lab_statistics(resized, references.image(i))) for i in range(8))


# --- in recipes and runs ------------------------------------------------------------------------------------------


def test_a_phase_that_sees_no_source_is_refused() -> None:
    with pytest.raises(ConfigError, match="translation = lab: IASTConfig looks at no source image"):
        Phase(IASTConfig(), translation=Translation("lab"))
    kept = Phase(IASTConfig(retain=SourceOnlyConfig(batch_norm="frozen")), translation=Translation("lab"))
    assert kept.translation == Translation("lab")


def translations(recipe: Recipe) -> dict[str, Translation]:
    return {name: phase.translation for name, phase in recipe.phases() if phase.translation is not None}


def test_the_option_reaches_every_phase_that_trains_on_the_source(tmp_path: Path) -> None:
    def applied(row: str, **options: Any) -> Recipe:
        return apply(AdaptOptions(find(f"minicity/{row}"), translate="lab", **options))

    assert set(translations(applied("cbst"))) == {"warmup", "adaptation"}
    assert set(translations(applied("iast"))) == {"warmup", "alignment"}
    assert set(translations(applied("adabn"))) == {"warmup"}
    given = str(tmp_path)
    assert set(translations(applied("cbst", warmup=given))) == {"adaptation"}
    with pytest.raises(ConfigError, match="lab: from the given model on, recipe minicity/iast trains on no source"):
        applied("iast", warmup=given)
    free = find("minicity/iast-source-free")
    with pytest.raises(ConfigError, match="recipe minicity/iast-source-free trains on no source image"):
        apply(AdaptOptions(free, translate="fourier"))
    base = find("minicity/source-only")
    recipe = replace(base, warmup=replace(base.warmup, translation=Translation(beta=0.3)))
    assert translations(apply(AdaptOptions(recipe, translate="lab"))) == {"warmup": Translation("lab", beta=0.3)}
    assert translations(apply(AdaptOptions(recipe))) == {"warmup": Translation(beta=0.3)}
    assert recipe_file.from_dict(json.loads(json.dumps(recipe_file.to_dict(recipe))), "x") == recipe


def test_a_translated_warmup_is_another_and_survives_a_kill(
    domains: tuple[Path, Path], source_only: Path, tmp_path: Path
) -> None:
    recipe = apply(AdaptOptions(tiny("source-only", *domains), translate="fourier"))
    run = watched(recipe, tmp_path / "run")
    assert weights(run.folder) != weights(source_only)
    (said,) = [line for line in json.loads((run.folder / "run.json").read_text())["protocol"] if "drawn target" in line]
    assert said == "Source images are translated towards drawn target images (warmup: low-frequency amplitudes)."
    assert json.loads((run.folder / "run.json").read_text())["recipe"]["warmup"]["translation"] == {
        "kind": "fourier", "beta": 0.01, "chance": 1.0,
    }  # fmt: skip
    resume(run.copies[1])
    assert weights(run.copies[1]) == weights(run.folder)


@pytest.mark.slow
def test_loader_workers_see_the_same_translations(domains: tuple[Path, Path], tmp_path: Path) -> None:
    one, two = (
        start(apply(AdaptOptions(tiny("source-only", *domains, workers=n), translate="lab")), tmp_path / str(n))
        for n in (0, 1)
    )
    assert weights(one) == weights(two)


def warmups(change: Callable[[Recipe], Recipe], source: Path, *targets: Path) -> list[str]:
    """Folders of the warm-up that a table would start its CBST from, over several targets."""
    table = replace(tables.find("cbst/rows"), rows=(Row("cbst", "CBST", "cbst", change=change),))
    found = []
    for target in targets:
        (job,) = plan(table, TableOptions(table.name, str(source), str(target), "own", (0,)))
        assert job.training.warmup is not None
        found.append(job.training.warmup.folder.name)
    return found


def test_a_translated_warmup_depends_on_the_target_images(domains: tuple[Path, Path], tmp_path: Path) -> None:
    day, dusk = domains
    night = Path(shutil.copytree(dusk, tmp_path / "night"))
    with (night / "train" / "images" / "dusk_000.jpg").open("ab") as file:
        file.write(b"x")

    def with_warmup(**options: Any) -> Callable[[Recipe], Recipe]:
        return lambda recipe: replace(recipe, warmup=replace(recipe.warmup, **options))

    plain = warmups(with_warmup(), day, dusk, night)
    assert plain[0] == plain[1]
    translated = warmups(with_warmup(translation=Translation()), day, dusk, night, dusk)
    assert translated[0] == translated[2] != translated[1]
    lab = warmups(with_warmup(translation=Translation("lab")), day, dusk)
    adabn = warmups(with_warmup(adabn_after="target"), day, dusk, night)
    assert len({*plain, *translated, *lab, *adabn}) == 6
