"""Cars, trucks and buses of MiniCity: boxes in perspective with wheels, windows, lights and a number plate."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from segshift.data.minicity_canvas import FOCAL, NEAREST, Canvas, Color
from segshift.data.minicity_objects import BUS, CAR, TRUCK, Rng, across, upright
from segshift.data.minicity_style import Look, tint


@dataclass(frozen=True)
class Body:
    """Where a vehicle stands: centre line x, near end z0; metres."""

    x: float
    z: float
    width: float
    length: float
    height: float
    away: bool
    """It drives as we do, so we see its tail."""

    @property
    def flank(self) -> float:
        """x of the long side that the camera sees."""
        return self.x - self.width / 2 if self.x > 0 else self.x + self.width / 2

    @property
    def shows_flank(self) -> bool:
        return abs(self.x) > self.width / 2

    def along(self, t: float) -> float:
        """Depth at share t of the length, counted from the vehicle's tail."""
        return self.z + self.length * (t if self.away else 1 - t)


def car_body(x: float, z: float, away: bool, rng: Rng) -> Body:
    """A hatchback, saloon or van-like car."""
    return Body(x, z, rng.uniform(1.7, 1.9), rng.uniform(3.8, 4.6), rng.uniform(1.42, 1.7), away)


def truck_body(x: float, z: float, away: bool, rng: Rng) -> Body:
    """A lorry with a box or an open load."""
    return Body(x, z, 2.4, rng.uniform(6.5, 8.5), rng.uniform(2.9, 3.5), away)


def bus_body(x: float, z: float, away: bool, rng: Rng) -> Body:
    """A city bus."""
    return Body(x, z, 2.5, rng.uniform(9.0, 11.5), rng.uniform(2.9, 3.2), away)


def car(canvas: Canvas, look: Look, rng: Rng, body: Body) -> None:
    """A car: flank with glass and wheels, then the end that faces the camera."""
    paint, z, h = look.pick(rng, "car"), body.z, body.height
    if body.shows_flank:
        light = look.left if body.x < 0 else look.right
        lower = ((0.0, 0.28), (0.0, 0.86), (0.1, 0.96), (0.78, 0.9), (0.98, 0.72), (1.0, 0.28))
        cabin = ((0.03, 0.88), (0.12, h), (0.58, h), (0.8, 0.88))
        glass = ((0.1, 0.93), (0.15, h - 0.09), (0.36, h - 0.09), (0.36, 0.93)), (
            (0.4, 0.93), (0.4, h - 0.09), (0.56, h - 0.09), (0.71, 0.93))  # fmt: skip
        lean = (body.x - body.flank) / (body.width / 2) * 0.2 / (h - 0.88)

        def side(shape):
            return [(body.flank + lean * max(0.0, y - 0.88), y, body.along(t)) for t, y in shape]

        canvas.solid(side(lower), tint(paint, light), CAR, z)
        canvas.solid(side(cabin), tint(paint, light), CAR, z)
        canvas.solids([side(shape) for shape in glass], look.car_glass, CAR, z)
        sill = upright(body.flank, body.along(0.02), body.along(0.98), 0.26, 0.38)
        canvas.solid(sill, tint(paint, 0.5 * light), CAR, z)
        _wheels(canvas, look, body, (0.19, 0.81), 0.33, CAR)
    _car_end(canvas, look, body, paint)


def _car_end(canvas: Canvas, look: Look, body: Body, paint: Color) -> None:
    """Tail or front: body panel, sloping window, lights, plate, tyres."""
    z, h, half = body.z, body.height, body.width / 2
    left, right = body.x - half, body.x + half
    rise = z + body.length * (0.12 if body.away else 0.42)
    base = z + body.length * (0.03 if body.away else 0.2)
    canvas.solids(
        (across(left + 0.05, left + 0.3, z, 0, 0.35), across(right - 0.3, right - 0.05, z, 0, 0.35)),
        look.tyre, CAR, z,
    )  # fmt: skip
    end = tint(paint, look.end)
    bonnet = (left, 0.84, z), (left, 0.92, base), (right, 0.92, base), (right, 0.84, z)
    cabin = (left, 0.88, base), (left + 0.2, h, rise), (right - 0.2, h, rise), (right, 0.88, base)
    glass = (
        (left + 0.14, 0.94, base), (left + 0.27, h - 0.1, rise),
        (right - 0.27, h - 0.1, rise), (right - 0.14, 0.94, base),
    )  # fmt: skip
    canvas.solid(cabin, end, CAR, z)
    canvas.solid(glass, look.car_glass, CAR, z)
    canvas.solid(bonnet, tint(paint, 1.15), CAR, z)
    canvas.solid(across(left, right, z, 0.26, 0.88), end, CAR, z)
    canvas.solid(across(left, right, z, 0.24, 0.4), tint(paint, 0.45), CAR, z)
    canvas.solid(across(body.x - 0.26, body.x + 0.26, z, 0.46, 0.58), look.plate, CAR, z)
    if not body.away:
        canvas.solid(across(body.x - 0.5, body.x + 0.5, z, 0.62, 0.74), (30, 30, 34), CAR, z)
    lamps = across(left + 0.04, left + 0.36, z, 0.6, 0.8), across(right - 0.36, right - 0.04, z, 0.6, 0.8)
    canvas.solids(lamps, look.taillight if body.away else look.headlight, CAR, z)


def _wheels(canvas: Canvas, look: Look, body: Body, places: tuple[float, ...], radius: float, label: int) -> None:
    """Wheels on the flank, as ellipses squeezed by perspective."""
    for t in places:
        z = body.along(t)
        if z < NEAREST + radius:
            continue
        u = [canvas.camera.center + FOCAL * body.flank / (z + dz) for dz in (-radius, radius)]
        radii = abs(u[0] - u[1]) / 2, 2 * FOCAL * radius / z
        center = (u[0] + u[1]) / 2, canvas.row(z) - radii[1]
        canvas.blob(center, radii, canvas.ink(look.tyre, label, body.z))
        canvas.blob(center, (radii[0] * 0.55, radii[1] * 0.55), canvas.ink(look.rim, label, body.z))


def truck(canvas: Canvas, look: Look, rng: Rng, body: Body) -> None:
    """A lorry: cab and load box; the tail has two doors."""
    load, cab = look.pick(rng, "load"), look.pick(rng, "car")
    z, half = body.z, body.width / 2
    light = look.left if body.x < 0 else look.right
    if body.shows_flank:
        flank = body.flank
        canvas.solid(upright(flank, body.along(0), body.along(0.98), 0.45, 0.75), (45, 45, 48), TRUCK, z)
        canvas.solid(upright(flank, body.along(0), body.along(0.72), 0.75, body.height), tint(load, light), TRUCK, z)
        canvas.solid(upright(flank, body.along(0), body.along(0.72), body.height * 0.5, body.height * 0.62),
                     tint(look.pick(rng, "clothes"), light), TRUCK, z)  # fmt: skip
        canvas.solid(upright(flank, body.along(0.76), body.along(1), 0.5, 2.5), tint(cab, light), TRUCK, z)
        canvas.solid(upright(flank, body.along(0.84), body.along(0.97), 1.45, 2.2), look.car_glass, TRUCK, z)
        _wheels(canvas, look, body, (0.14, 0.28, 0.87), 0.48, TRUCK)
    left, right = body.x - half, body.x + half
    canvas.solids((across(left, left + 0.5, z, 0, 0.7), across(right - 0.5, right, z, 0, 0.7)), look.tyre, TRUCK, z)
    if body.away:
        canvas.solid(across(left, right, z, 0.7, body.height), tint(load, look.end), TRUCK, z)
        canvas.solid(across(body.x - 0.04, body.x + 0.04, z, 0.8, body.height - 0.1), tint(load, 0.55), TRUCK, z)
        canvas.solid(across(left, right, z, 0.5, 0.8), (50, 50, 54), TRUCK, z)
    else:
        canvas.solid(across(left, right, z + 2, 0.7, body.height), tint(load, 0.8), TRUCK, z)
        canvas.solid(across(left, right, z, 0.4, 2.5), tint(cab, look.end), TRUCK, z)
        canvas.solid(across(left + 0.15, right - 0.15, z, 1.45, 2.25), look.car_glass, TRUCK, z)
        canvas.solid(across(left + 0.4, right - 0.4, z, 0.75, 1.15), (40, 40, 44), TRUCK, z)
    lamps = across(left + 0.1, left + 0.45, z, 0.55, 0.75), across(right - 0.45, right - 0.1, z, 0.55, 0.75)
    canvas.solids(lamps, look.taillight if body.away else look.headlight, TRUCK, z)


def bus(canvas: Canvas, look: Look, rng: Rng, body: Body) -> None:
    """A bus: a band of windows along the flank, a large window at the end, a line number."""
    paint, stripe = look.pick(rng, "bus"), look.pick(rng, "clothes")
    z, half, h = body.z, body.width / 2, body.height
    light = look.left if body.x < 0 else look.right
    glass = look.glow if rng.random() < look.lit else look.car_glass
    if body.shows_flank:
        canvas.solid(upright(body.flank, body.along(0), body.along(1), 0.3, h), tint(paint, light), BUS, z)
        canvas.solid(upright(body.flank, body.along(0), body.along(1), 0.75, 1.0), tint(stripe, light), BUS, z)
        panes = np.linspace(0.03, 0.97, 8).tolist()
        windows = [upright(body.flank, body.along(a + 0.012), body.along(b - 0.012), 1.3, h - 0.5)
                   for a, b in pairwise(panes)]  # fmt: skip
        canvas.solids(windows, glass, BUS, z)
        _wheels(canvas, look, body, (0.2, 0.78), 0.48, BUS)
    left, right = body.x - half, body.x + half
    canvas.solids((across(left, left + 0.4, z, 0, 0.4), across(right - 0.4, right, z, 0, 0.4)), look.tyre, BUS, z)
    canvas.solid(across(left, right, z, 0.3, h), tint(paint, look.end), BUS, z)
    canvas.solid(across(left + 0.2, right - 0.2, z, 1.25, h - 0.55), glass, BUS, z)
    canvas.solid(across(left + 0.6, right - 0.6, z, h - 0.45, h - 0.12), (25, 25, 28), BUS, z)
    canvas.solid(across(body.x - 0.3, body.x + 0.3, z, h - 0.38, h - 0.2), (255, 190, 60), BUS, z)
    canvas.solid(across(left, right, z, 0.3, 0.45), tint(paint, 0.5), BUS, z)
    lamps = across(left + 0.12, left + 0.45, z, 0.6, 0.85), across(right - 0.45, right - 0.12, z, 0.6, 0.85)
    canvas.solids(lamps, look.taillight if body.away else look.headlight, BUS, z)
