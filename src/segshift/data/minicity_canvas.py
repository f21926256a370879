"""The canvas of MiniCity: a pinhole camera over a ground plane, and shapes that carry colour and class at once.

World coordinates in metres: x to the right, y up from the ground, z forward from the camera. The canvas has four
channels, red, green, blue and the class id, so one drawing call paints both; nothing is anti-aliased here. Small
pictures are drawn at twice the output size: the image is the 2x2 mean, the label one of the four pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

SMALL = 256
"""Rows up to which a picture is drawn at twice its size; above, the lens blur hides the steps."""
FOCAL = 0.8
"""Focal length in image widths; an image is meant to be twice as wide as high, so 1.6 heights."""
NEAREST = 1.2
"""Metres: points closer to the camera are pulled to this depth."""
_FRACTION_BITS = 4
_ONE = 1 << _FRACTION_BITS
_FAR_OUT = 60.0
"""Image sizes: coordinates are kept within this, or the fixed-point drawing would overflow."""

Color = Sequence[float]
Point = tuple[float, float, float]


@dataclass(frozen=True)
class Camera:
    """Where the eye is: the vanishing point as a share of width and height, the height above ground in metres."""

    center: float
    horizon: float
    height: float


class Canvas:
    """Painted far to near; what is painted later covers what is there."""

    def __init__(self, size: tuple[int, int], camera: Camera, fog: Color, density: float) -> None:
        self.factor = 2 if size[0] <= SMALL else 1
        self.height, self.width = size[0] * self.factor, size[1] * self.factor
        self.pixels = np.zeros((self.height, self.width, 4), np.uint8)
        self.camera = camera
        self.fog = fog
        self.density = density
        """Share of light lost a metre (Beer-Lambert)."""

    def ink(self, color: Color, label: int, z: float) -> tuple[float, float, float, int]:
        """A colour seen through z metres of fog, with the class id as its fourth channel."""
        t = math.exp(-self.density * z)
        fog, s = self.fog, 1 - t
        return t * color[0] + s * fog[0], t * color[1] + s * fog[1], t * color[2] + s * fog[2], label

    def row(self, z: float) -> float:
        """Height in the image, as a share, of the ground at depth z."""
        return self.camera.horizon + 2 * FOCAL * self.camera.height / z

    def pixel(self, x: float, y: float, z: float) -> tuple[int, int]:
        """A world point in the canvas's fixed-point pixels."""
        scale = FOCAL / (z if z > NEAREST else NEAREST)
        camera = self.camera
        return self._fixed(camera.center + scale * x, camera.horizon + 2 * scale * (camera.height - y))

    def beyond(self, x: float, z: float, reach: float = 0.0) -> bool:
        """Whether all that lies within `reach` metres of x at depth z is left or right of the picture."""
        u, width = self.camera.center + FOCAL * x / z, FOCAL * reach / z
        return u + width < 0 or u - width > 1

    def _fixed(self, u: float, v: float) -> tuple[int, int]:
        # Pixel centres lie at half-integers of the share times size.
        if not -_FAR_OUT < u < _FAR_OUT:
            u = math.copysign(_FAR_OUT, u)
        if not -_FAR_OUT < v < _FAR_OUT:
            v = math.copysign(_FAR_OUT, v)
        return int((u * self.width - 0.5) * _ONE), int((v * self.height - 0.5) * _ONE)

    def solid(self, points: Iterable[Point], color: Color, label: int, z: float) -> None:
        """A filled polygon through world points, in the fog of depth z."""
        corners = np.array([self.pixel(*p) for p in points], np.int32)
        cv2.fillPoly(self.pixels, [corners], self.ink(color, label, z), cv2.LINE_8, _FRACTION_BITS)

    def solids(self, polygons: Iterable[Iterable[Point]], color: Color, label: int, z: float) -> None:
        """Polygons that do not overlap, in one call."""
        corners = [np.array([self.pixel(*p) for p in points], np.int32) for points in polygons]
        if corners:
            cv2.fillPoly(self.pixels, corners, self.ink(color, label, z), cv2.LINE_8, _FRACTION_BITS)

    def facade(
        self, x: float, depths: tuple[float, float], spans: Iterable[tuple[float, float]], color: Color, label: int
    ) -> None:
        """Rectangles above each other in the plane x = const along the street: heights from .. to, same depths."""
        near, far = (FOCAL / max(z, NEAREST) for z in depths)
        camera, rows = self.camera, self.height * _ONE
        u0 = self._fixed(camera.center + near * x, 0)[0]
        u1 = self._fixed(camera.center + far * x, 0)[0]
        base = camera.horizon * rows - 0.5 * _ONE
        s0, s1, eye = 2 * near * rows, 2 * far * rows, camera.height
        corners = [
            ((u0, base + s0 * (eye - low)), (u0, base + s0 * (eye - high)),
             (u1, base + s1 * (eye - high)), (u1, base + s1 * (eye - low)))
            for low, high in spans
        ]  # fmt: skip
        if corners:
            ink = self.ink(color, label, (depths[0] + depths[1]) / 2)
            cv2.fillPoly(self.pixels, list(np.array(corners).astype(np.int32)), ink, cv2.LINE_8, _FRACTION_BITS)

    def flat(self, points: Iterable[tuple[float, float]], color: Color, label: int, z: float) -> None:
        """A filled polygon through points given as shares of width and height."""
        corners = np.array([self._fixed(u, v) for u, v in points], np.int32)
        cv2.fillPoly(self.pixels, [corners], self.ink(color, label, z), cv2.LINE_8, _FRACTION_BITS)

    def blob(self, center: tuple[float, float], radii: tuple[float, float], ink: Sequence[float]) -> None:
        """A filled ellipse; centre and radii as shares of width and height."""
        axes = (round(radii[0] * self.width * _ONE), round(radii[1] * self.height * _ONE))
        cv2.ellipse(self.pixels, self._fixed(*center), axes, 0, 0, 360, ink, -1, cv2.LINE_8, _FRACTION_BITS)

    def finish_ground(self, shadows: Iterable[Iterable[Point]], strength: float, softness: float) -> None:
        """Shadows on the ground, then fog by the depth of each row of the plane; classes stay.

        `strength`: share of light a shadow takes; `softness`: blur of its edge in image heights.
        """
        mask = np.zeros((self.height, self.width), np.uint8)
        for points in shadows:
            corners = np.array([self.pixel(*p) for p in points], np.int32)
            cv2.fillPoly(mask, [corners], 255, cv2.LINE_8, _FRACTION_BITS)
        top = max(0, math.ceil(self.camera.horizon * self.height))
        mask = cv2.GaussianBlur(mask[top:], (0, 0), max(0.5, softness * self.height))
        below = (np.arange(top, self.height) + 0.5) / self.height - self.camera.horizon
        z = 2 * FOCAL * self.camera.height / np.maximum(below, 1e-4)
        clear = np.exp(-self.density * z).astype(np.float32)[:, None]
        light = clear * (1 - (strength / 255) * mask)
        ground = self.pixels[top:]
        for channel, fog in enumerate(self.fog):
            ground[..., channel] = ground[..., channel] * light + (1 - clear) * np.float32(fog)

    def image(self) -> np.ndarray:
        """(h, w, 3) uint8."""
        size = (self.width // self.factor, self.height // self.factor)
        return cv2.resize(np.ascontiguousarray(self.pixels[..., :3]), size, interpolation=cv2.INTER_AREA)

    def label(self) -> np.ndarray:
        """(h, w) uint8 class ids."""
        return np.ascontiguousarray(self.pixels[:: self.factor, :: self.factor, 3])


class Stand:
    """A flat figure that stands on the ground at (x, z) and faces the camera; local coordinates in metres."""

    def __init__(self, canvas: Canvas, x: float, z: float, stretch: float = 1.0, scale: float = 1.0) -> None:
        self.canvas, self.z = canvas, z
        self.u = canvas.camera.center + FOCAL * x / z
        self.v = canvas.row(z)
        self.du = FOCAL / z * stretch * scale
        """Shares of the width a metre; a negative stretch mirrors."""
        self.dv = 2 * FOCAL / z * scale

    def poly(self, points: Iterable[tuple[float, float]], color: Color, label: int) -> None:
        self.canvas.flat([(self.u + self.du * x, self.v - self.dv * y) for x, y in points], color, label, self.z)

    def box(self, x0: float, y0: float, x1: float, y1: float, color: Color, label: int) -> None:
        self.poly(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), color, label)

    def disc(self, x: float, y: float, radius: float, color: Color, label: int, squash: float = 1.0) -> None:
        """A disc; `squash` narrows it. What mirrors or stretches the figure applies to it as well."""
        center = (self.u + self.du * x, self.v - self.dv * y)
        radii = (abs(self.du) * radius * squash, self.dv * radius)
        self.canvas.blob(center, radii, self.canvas.ink(color, label, self.z))

    def bar(self, a: tuple[float, float], b: tuple[float, float], width: float, color: Color, label: int) -> None:
        """A straight bar from a to b, `width` metres thick."""
        dx, dy = b[0] - a[0], b[1] - a[1]
        length = math.hypot(dx, dy) or 1.0
        nx, ny = -dy / length * width / 2, dx / length * width / 2
        corners = (a[0] + nx, a[1] + ny), (b[0] + nx, b[1] + ny), (b[0] - nx, b[1] - ny), (a[0] - nx, a[1] - ny)
        self.poly(corners, color, label)
