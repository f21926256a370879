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
    "road": ((92, 86, 86), (106, 98, 94), (80, 79, 84)),
    "sidewalk": ((128, 122, 121), (138, 118, 108), (114, 112, 116)),
    "terrain": ((127, 119, 71), (107, 112, 67), (138, 126, 86)),
    "building": ((133, 123, 117), (150, 95, 77), (112, 107, 99), (172, 150, 126), (106, 85, 82), (134, 141, 153)),
    "roof": ((76, 68, 72), (95, 63, 55)),
    "wall": ((120, 101, 89), (130, 125, 118), (99, 104, 96)),
    "fence": ((102, 103, 98), (80, 86, 74), (115, 93, 74)),
    "pole": ((87, 93, 90), (119, 113, 102), (75, 76, 81)),
    "signal": ((135, 116, 41), (58, 64, 58)),
    "sign": ((207, 142, 40), (39, 106, 95), (183, 48, 40), (39, 80, 154)),
    "sign face": ((70, 70, 69), (233, 230, 217)),
    "vegetation": ((88, 96, 48), (116, 102, 45), (64, 87, 55), (102, 81, 45)),
    "trunk": ((70, 58, 50), (108, 99, 89)),
    "car": (
        (118, 122, 120),
        (56, 62, 68),
        (146, 56, 44),
        (172, 168, 152),
        (65, 92, 102),
        (199, 198, 195),
        (31, 33, 37),
    ),
    "bus": ((81, 109, 88), (210, 204, 178), (112, 75, 117)),
    "load": ((158, 154, 138), (104, 118, 100), (180, 129, 88)),
    "clothes": ((68, 65, 72), (102, 82, 70), (60, 74, 80), (139, 50, 53), (136, 144, 127), (194, 167, 58)),
    "trousers": ((47, 46, 52), (76, 68, 64), (57, 64, 85)),
    "bicycle": ((116, 129, 144), (47, 56, 56), (166, 108, 57)),
    "helmet": ((57, 59, 64), (186, 159, 74), (164, 164, 164)),
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
    """The source: a bright day, sunny or overcast, no haze to speak of, a sharp and quiet camera."""
    overcast, exposure, warmth = rng.uniform(0.0, 1.0) ** 1.5, rng.uniform(0.82, 1.08), rng.uniform(-0.06, 0.06)
    sun_left = bool(rng.random() < 0.5)
    contrast = 0.12 * (1 - 0.8 * overcast)
    return Look(
        palette=_SOURCE, jitter=0.10,
        sky=(_mix((92, 150, 218), (196, 204, 214), overcast), _mix((198, 220, 240), (226, 228, 230), overcast)),
        cloud=_mix((244, 247, 250), (212, 216, 222), overcast), clouds=int(rng.integers(0, 5)),
        fog=_mix((200, 216, 232), (216, 220, 224), overcast), density=0.0025,
        left=0.93 + contrast if sun_left else 0.93 - contrast, right=0.93 - contrast if sun_left else 0.93 + contrast,
        end=0.93,
        shadow=0.34 * (1 - 0.6 * overcast), reach=0.25 if sun_left else -0.25, softness=0.004,
        glass=(70, 92, 116), glow=(70, 92, 116), lit=0.0,
        headlight=(246, 244, 228), taillight=(190, 26, 26), lamp=(226, 226, 218),
        floors=(2, 6), pitched=0.35, shops=0.3, markings=(232, 232, 228),
        gain=(exposure * (1 + warmth), exposure, exposure * (1 - warmth)), contrast=1.0,
        texture=0.3, patches=0.03, bloom=0.0, vignette=0.0, blur=2.0, noise=2.0,
    )  # fmt: skip


def evening(rng: np.random.Generator) -> Look:
    """The target: between a clear dusk and a foggy late afternoon, drawn for each picture."""
    dusk, foggy = rng.uniform(0.0, 1.0), rng.uniform(0.0, 1.0) ** 1.5
    sun_left = bool(rng.random() < 0.5)
    mist = _mix((182, 186, 192), (184, 166, 156), dusk)
    zenith, horizon = _mix((108, 134, 178), (94, 104, 150), dusk), _mix((206, 208, 212), (238, 190, 148), dusk)
    light, warm = 1.04 - 0.23 * dusk, 1 + 0.1 * dusk
    return Look(
        palette=_TARGET, jitter=0.12,
        sky=(_mix(zenith, mist, 0.8 * foggy), _mix(horizon, mist, 0.8 * foggy)),
        cloud=_mix(mist, horizon, 0.45), clouds=int(rng.integers(2, 9)),
        fog=mist, density=0.003 + 0.017 * foggy,
        left=1.1 if sun_left else 0.68, right=0.68 if sun_left else 1.1, end=0.82,
        shadow=0.5 * (1 - 0.7 * foggy), reach=float(rng.uniform(0.8, 1.8)) * (1 if sun_left else -1), softness=0.006,
        glass=(58, 60, 66), glow=(255, 214, 140), lit=0.1 + 0.4 * dusk,
        headlight=(255, 250, 225), taillight=(255, 60, 46), lamp=(255, 226, 170),
        floors=(1, 8), pitched=0.2, shops=0.5, markings=(204, 198, 180),
        gain=(light * warm, light, light * (2 - warm)), contrast=float(rng.uniform(0.85, 1.0)),
        texture=0.5, patches=0.11, bloom=0.25 * dusk, vignette=0.2,
        blur=float(rng.uniform(2.5, 4.3)), noise=float(rng.uniform(3.0, 7.0)),
    )  # fmt: skip


def _mix(a: Color, b: Color, t: float) -> tuple[float, float, float]:
    """From a at t = 0 to b at t = 1."""
    return a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1]), a[2] + t * (b[2] - a[2])


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
