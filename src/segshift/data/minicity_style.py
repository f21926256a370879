"""How the two domains of MiniCity look: palettes, light, fog, and what a camera does to a picture.

The source is a clean daylight rendering. The target is an evening or foggy street of another town: other
materials, low warm light and long shadows, lit windows, rough textures, a soft and noisy camera.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from segshift.data.minicity_canvas import Color
from segshift.taxonomy import CITYSCAPES

Domain = Literal["source", "target"]
Palette = Mapping[str, tuple[tuple[int, int, int], ...]]


def tint(color: Color, gain: float) -> tuple[float, float, float]:
    """A colour under more or less light."""
    return color[0] * gain, color[1] * gain, color[2] * gain


_SHARED: Palette = {
    "skin": ((225, 180, 150), (160, 110, 80), (100, 70, 50)),
    "hair": ((50, 35, 25), (25, 22, 20), (150, 110, 60), (120, 120, 120)),
}

_SOURCE: Palette = {
    **_SHARED,
    "road": ((98, 98, 102), (106, 105, 106), (90, 91, 96)),
    "sidewalk": ((172, 164, 156), (184, 176, 170), (160, 154, 150)),
    "terrain": ((124, 158, 74), (138, 166, 84)),
    "building": ((186, 142, 112), (206, 190, 160), (160, 88, 72), (198, 196, 196), (218, 200, 150), (146, 156, 172)),
    "roof": ((150, 75, 55), (110, 80, 70), (95, 98, 110)),
    "wall": ((150, 138, 124), (140, 128, 120)),
    "fence": ((134, 98, 64), (150, 116, 80)),
    "pole": ((120, 122, 126), (104, 108, 112)),
    "signal": ((34, 36, 38), (48, 50, 44)),
    "sign": ((200, 32, 38), (32, 80, 180), (205, 40, 40)),
    "sign face": ((245, 245, 245), (240, 240, 232)),
    "vegetation": ((66, 118, 48), (82, 134, 52), (54, 104, 52)),
    "trunk": ((96, 70, 48),),
    "car": ((182, 32, 34), (228, 230, 234), (36, 36, 42), (38, 70, 156), (150, 156, 164), (196, 190, 176)),
    "bus": ((232, 190, 50), (200, 44, 44)),
    "load": ((236, 236, 236), (70, 110, 160), (206, 180, 130)),
    "clothes": ((190, 50, 60), (50, 80, 160), (60, 60, 70), (230, 220, 200), (60, 130, 110), (220, 150, 50)),
    "trousers": ((40, 50, 90), (50, 48, 50), (120, 110, 90)),
    "bicycle": ((200, 40, 40), (40, 90, 170), (30, 30, 30)),
    "helmet": ((240, 240, 240), (220, 60, 40), (40, 40, 50)),
}

_TARGET: Palette = {
    **_SHARED,
    "road": ((92, 86, 84), (108, 98, 92), (78, 76, 82)),
    "sidewalk": ((122, 116, 116), (134, 112, 100), (106, 104, 110)),
    "terrain": ((128, 112, 70), (104, 104, 66), (140, 120, 88)),
    "building": ((124, 120, 118), (148, 96, 78), (104, 110, 104), (170, 152, 128), (96, 84, 84), (132, 138, 150)),
    "roof": ((70, 66, 72), (92, 60, 52)),
    "wall": ((116, 96, 84), (128, 124, 118), (92, 100, 92)),
    "fence": ((96, 104, 104), (70, 84, 76), (112, 92, 76)),
    "pole": ((84, 90, 86), (122, 114, 100), (70, 70, 76)),
    "signal": ((150, 128, 40), (60, 66, 60)),
    "sign": ((206, 160, 40), (40, 110, 80), (180, 50, 40), (40, 80, 150)),
    "sign face": ((40, 40, 40), (232, 228, 214)),
    "vegetation": ((92, 92, 48), (122, 96, 44), (66, 84, 56), (108, 74, 44)),
    "trunk": ((66, 56, 50), (110, 104, 96)),
    "car": ((112, 116, 112), (60, 66, 72), (140, 60, 46), (176, 170, 150), (70, 96, 92), (200, 200, 198), (30, 32, 36)),
    "bus": ((60, 120, 96), (206, 206, 200), (96, 80, 130)),
    "load": ((150, 150, 140), (110, 120, 90), (176, 120, 80)),
    "clothes": ((70, 66, 72), (110, 86, 70), (60, 76, 82), (130, 50, 52), (150, 146, 130), (190, 170, 60)),
    "trousers": ((46, 46, 52), (80, 72, 66), (60, 66, 84)),
    "bicycle": ((130, 136, 140), (50, 60, 60), (160, 120, 60)),
    "helmet": ((60, 62, 66), (180, 176, 80), (150, 150, 150)),
}


@dataclass(frozen=True)
class Look:
    """Everything about the appearance of one picture; colours are RGB 0 to 255 before the final grading."""

    palette: Palette
    jitter: float
    """Relative spread of picked colours."""
    sky: tuple[Color, Color]
    """Zenith and horizon."""
    cloud: Color
    clouds: int
    fog: Color
    density: float
    """Share of light lost a metre."""
    left: float
    """Light on facades at the left; right and end (facing the camera) likewise."""
    right: float
    end: float
    shadow: float
    """Strength of ground shadows, 0 to 1."""
    reach: float
    """Length of shadows, metres a metre of height; negative falls to the left."""
    softness: float
    glass: Color
    glow: Color
    lit: float
    """Share of windows with the light on."""
    headlight: Color
    taillight: Color
    lamp: Color
    floors: tuple[int, int]
    """Storeys from .. to (exclusive)."""
    pitched: float
    """Share of houses with a pitched roof; then of houses with a shop below."""
    shops: float
    markings: Color
    gain: tuple[float, float, float]
    """Grading: colour gain, then contrast around mid-grey."""
    contrast: float
    texture: float
    """Roughness of materials; 0 is smooth paint."""
    patches: float
    """Large stains and puddles on the ground."""
    bloom: float
    vignette: float
    blur: float
    """Standard deviation of the lens blur in thousandths of the image height."""
    noise: float
    """Standard deviation of sensor noise, grey levels."""
    car_glass: Color = (52, 64, 76)
    tyre: Color = (28, 28, 30)
    rim: Color = (140, 142, 148)
    spokes: Color = (92, 92, 92)
    plate: Color = (225, 225, 215)

    def pick(self, rng: np.random.Generator, material: str) -> tuple[float, float, float]:
        """A colour of a material, jittered in brightness and, less, in hue."""
        choices = self.palette[material]
        color = choices[int(rng.integers(len(choices)))]
        light = 1 + self.jitter * rng.normal()
        r, g, b = (c * light * (1 + 0.35 * self.jitter * e) for c, e in zip(color, rng.normal(size=3).tolist()))
        return r, g, b


def daylight(rng: np.random.Generator) -> Look:
    """The source: a bright day, no haze to speak of, a sharp and quiet camera."""
    sun_left = bool(rng.random() < 0.5)
    return Look(
        palette=_SOURCE, jitter=0.07,
        sky=((92, 150, 218), (198, 220, 240)), cloud=(244, 247, 250), clouds=int(rng.integers(0, 4)),
        fog=(200, 216, 232), density=0.0025,
        left=1.05 if sun_left else 0.82, right=0.82 if sun_left else 1.05, end=0.93,
        shadow=0.32, reach=0.25 if sun_left else -0.25, softness=0.004,
        glass=(70, 92, 116), glow=(70, 92, 116), lit=0.0,
        headlight=(246, 244, 228), taillight=(190, 26, 26), lamp=(226, 226, 218),
        floors=(2, 6), pitched=0.35, shops=0.3, markings=(232, 232, 228),
        gain=(1.0, 1.0, 1.0), contrast=1.0, texture=0.25, patches=0.0,
        bloom=0.0, vignette=0.0, blur=2.0, noise=1.5,
    )  # fmt: skip


def evening(rng: np.random.Generator) -> Look:
    """The target: between a clear dusk and a foggy late afternoon, drawn for each picture."""
    dusk, foggy = rng.uniform(0.0, 1.0), rng.uniform(0.0, 1.0) ** 1.5
    sun_left = bool(rng.random() < 0.5)
    zenith = np.array((84, 92, 126)) * (1 - dusk) + np.array((72, 66, 104)) * dusk
    horizon = np.array((196, 176, 166)) * (1 - dusk) + np.array((232, 158, 104)) * dusk
    mist = np.array((164, 164, 168)) * (1 - 0.5 * dusk) + np.array((176, 140, 120)) * 0.5 * dusk
    cover = 0.8 * foggy
    warm = 1 + 0.12 * dusk
    light = 1.2 - 0.3 * dusk
    return Look(
        palette=_TARGET, jitter=0.14,
        sky=(tuple(zenith * (1 - cover) + mist * cover), tuple(horizon * (1 - cover) + mist * cover)),
        cloud=tuple(0.55 * mist + 0.45 * horizon), clouds=int(rng.integers(2, 9)),
        fog=tuple(mist), density=0.004 + 0.022 * foggy,
        left=1.15 if sun_left else 0.62, right=0.62 if sun_left else 1.15, end=0.78,
        shadow=0.55 * (1 - 0.7 * foggy), reach=float(rng.uniform(0.8, 1.8)) * (1 if sun_left else -1), softness=0.006,
        glass=(58, 60, 66), glow=(255, 214, 140), lit=0.1 + 0.4 * dusk,
        headlight=(255, 250, 225), taillight=(255, 60, 46), lamp=(255, 226, 170),
        floors=(1, 8), pitched=0.2, shops=0.5, markings=(190, 182, 160),
        gain=(light * warm, light, light * (2 - warm)), contrast=float(rng.uniform(0.82, 1.0)),
        texture=0.85, patches=0.18,
        bloom=0.35 * dusk, vignette=0.25, blur=float(rng.uniform(3.5, 8.0)), noise=float(rng.uniform(4.0, 10.0)),
    )  # fmt: skip


_ROUGHNESS = np.zeros(256, np.float32)
"""Amplitude of fine texture by class, relative to brightness, at `texture` = 1."""
for _name, _amplitude in {
    "road": 0.10, "sidewalk": 0.13, "building": 0.12, "wall": 0.16, "fence": 0.12, "vegetation": 0.24, "terrain": 0.22,
    "person": 0.06, "rider": 0.06, "car": 0.03, "truck": 0.04, "bus": 0.04,
}.items():  # fmt: skip
    _ROUGHNESS[CITYSCAPES.classes.index(_name)] = _amplitude

_GROUND = np.zeros(256, np.float32)
_GROUND[[CITYSCAPES.classes.index(n) for n in ("road", "sidewalk", "terrain")]] = 1.0


def develop(image: np.ndarray, label: np.ndarray, look: Look, rng: np.random.Generator) -> np.ndarray:
    """Texture, light, lens and sensor: the drawn (h, w, 3) picture becomes a photograph, uint8.

    Texture is drawn at a fixed resolution and enlarged, so all sizes show the same stains; noise is the sensor's own.
    """
    height, width = label.shape
    picture = image.astype(np.float32)
    fine = rng.standard_normal((96, 192), np.float32)
    coarse = rng.standard_normal((24, 12), np.float32)
    if look.texture:
        grain = cv2.resize(fine, (width, height), interpolation=cv2.INTER_LINEAR)
        picture *= (1 + look.texture * _ROUGHNESS[label] * grain)[..., None]
    if look.patches:
        stains = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        picture *= (1 + look.patches * _GROUND[label] * stains)[..., None]
    picture *= np.asarray(look.gain, np.float32) * look.contrast
    picture += 110 * (1 - look.contrast)
    if look.bloom:
        bright = cv2.resize(np.maximum(picture - 150, 0), (96, 48), interpolation=cv2.INTER_AREA)
        bright = cv2.GaussianBlur(bright, (0, 0), 1.7)
        picture += 2 * look.bloom * cv2.resize(bright, (width, height), interpolation=cv2.INTER_LINEAR)
    if look.vignette:
        v = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        u = np.linspace(-1, 1, width, dtype=np.float32)[None]
        picture *= (1 - 0.5 * look.vignette * (u * u + v * v))[..., None]
    picture = cv2.GaussianBlur(picture, (0, 0), max(0.2, look.blur * height / 1000))
    if look.noise:
        picture += look.noise * rng.standard_normal((height, width, 3), np.float32)
    return np.clip(picture, 0, 255).astype(np.uint8)
