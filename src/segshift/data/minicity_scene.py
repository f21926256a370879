"""What stands where in a MiniCity street: the layout drawn from a random generator, painted far to near."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from segshift.data import minicity_objects as things
from segshift.data import minicity_vehicles as vehicles
from segshift.data.minicity_canvas import NEAREST, Camera, Canvas, Point
from segshift.data.minicity_objects import (
    BUILDING,
    ROAD,
    SIDEWALK,
    SKY,
    TERRAIN,
    VEGETATION,
    Rng,
)
from segshift.data.minicity_style import Domain, Look, daylight, develop, evening, tint

FAR = 110.0
"""Metres: where the street ends and the backdrop begins."""


@dataclass(frozen=True)
class Habits:
    """How often things occur: expected numbers a scene, or probabilities."""

    parked: float
    """Probability of a car in each kerbside place."""
    driving: float
    people: float
    riders: float
    motor: float
    """Share of riders on motorcycles."""
    trucks: float
    buses: float
    motorcycles: float
    bicycles: float
    lights: float
    """Probability that a crossing has signals."""
    signs: float
    trees: float
    """Probability of a tree in each place along the kerb."""
    built: float
    """Probability that a plot is built on; otherwise it is a green."""
    enclosed: float
    """Probability that a plot has a fence, wall or hedge in front."""


HABITS: dict[Domain, Habits] = {
    "source": Habits(
        parked=0.42, driving=2.2, people=3.6, riders=1.0, motor=0.06, trucks=0.22, buses=0.2, motorcycles=0.06,
        bicycles=1.0, lights=0.7, signs=1.5, trees=0.3, built=0.8, enclosed=0.7,
    ),
    "target": Habits(
        parked=0.3, driving=1.6, people=4.6, riders=1.4, motor=0.05, trucks=0.3, buses=0.28, motorcycles=0.06,
        bicycles=1.2, lights=0.6, signs=1.8, trees=0.42, built=0.7, enclosed=0.7,
    ),
}  # fmt: skip


@dataclass
class Street:
    """The ground plan: road edges, sidewalks and the crossing, in metres; left is negative."""

    left: float
    right: float
    lanes: float
    """x of the line between the two directions."""
    walk_left: float
    walk_right: float
    verge: float
    """Width of the grass between kerb and sidewalk, part of both walks; 0 in most streets."""
    crossing: tuple[float, float] | None
    """Depths between which a side road crosses."""
    parking: bool
    drawings: list[tuple[float, Callable[[Canvas, Look, Rng], None]]] = field(default_factory=list)
    """(depth, how to draw it)."""
    shadows: list[tuple[Point, ...]] = field(default_factory=list)
    greens: list[tuple[float, float, float]] = field(default_factory=list)
    """Unpaved plots: (x of the front, z0, z1)."""

    def add(self, z: float, drawing: Callable[[Canvas, Look, Rng], None]) -> None:
        self.drawings.append((z, drawing))

    def in_crossing(self, z0: float, z1: float, margin: float = 0.0) -> bool:
        return self.crossing is not None and z1 > self.crossing[0] - margin and z0 < self.crossing[1] + margin

    def cast(self, look: Look, x0: float, x1: float, z0: float, z1: float, height: float) -> None:
        """The ground shadow of a box."""
        shift = look.reach * height
        low, high = min(x0, x0 + shift, x1 + shift), max(x1, x1 + shift, x0 + shift)
        self.shadows.append(((low, 0, z0), (high, 0, z0), (high, 0, z1), (low, 0, z1)))


def draw(domain: Domain, size: tuple[int, int], rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image (h, w, 3) RGB and label (h, w), both uint8."""
    look = daylight(rng) if domain == "source" else evening(rng)
    habits = HABITS[domain]
    camera = Camera(rng.uniform(0.43, 0.57), rng.uniform(0.4, 0.47), rng.uniform(1.5, 2.0))
    canvas = Canvas(size, camera, look.fog, look.density)
    street = _plan(rng)
    for side in (-1, 1):
        _frontage(street, look, habits, rng, side)
        _furniture(street, look, habits, rng, side)
        _parking(street, look, habits, rng, side)
    _traffic(street, look, habits, rng)
    _people(street, look, habits, rng)
    _sky(canvas, look, rng)
    _ground(canvas, street, look, rng)
    for _, drawing in sorted(street.drawings, key=lambda item: -item[0]):
        drawing(canvas, look, rng)
    label = canvas.label()
    return develop(canvas.image(), label, look, rng), label


def _plan(rng: Rng) -> Street:
    width = rng.uniform(7.0, 11.5)
    parking = bool(width > 8.5 or rng.random() < 0.2)
    middle = -rng.uniform(1.4, 2.2)
    start = rng.uniform(14, 34)
    crossing = (start, start + rng.uniform(7, 10)) if rng.random() < 0.6 else None
    verge = rng.uniform(0.9, 1.8) if rng.random() < 0.35 else 0.0
    walk_left, walk_right = verge + rng.uniform(2.0, 4.2), verge + rng.uniform(2.0, 4.2)
    return Street(middle - width / 2, middle + width / 2, middle, walk_left, walk_right, verge, crossing, parking)


def _frontage(street: Street, look: Look, habits: Habits, rng: Rng, side: int) -> None:
    """Plots along one side, from near to far: houses or greens, with or without an enclosure."""
    edge = street.right + street.walk_right if side > 0 else street.left - street.walk_left
    z = rng.uniform(1.5, 3.0)
    while z < FAR:
        end = z + rng.uniform(9, 22)
        if street.crossing and z < street.crossing[1] and end > street.crossing[0]:
            end = street.crossing[0] - 2
            if end - z < 3:
                z = street.crossing[1] + 2
                continue
        _plot(street, look, habits, rng, side, edge, z, min(end, FAR))
        z = end + (rng.uniform(1, 4) if rng.random() < 0.3 else 0.0)


def _plot(street: Street, look: Look, habits: Habits, rng: Rng, side: int, edge: float, z0: float, z1: float) -> None:
    built, garden = rng.random() < habits.built, rng.random() < 0.6
    setback = rng.uniform(2.0, 5.5) if garden else rng.uniform(0, 0.4)
    front = edge + side * setback
    if built:
        street.add(z1, partial(things.building, x=front, z0=z0, z1=z1))
        shade = (edge + side * 12, front) if side < 0 else (front, edge + side * 12)
        street.cast(look, *shade, z0, z1, 4.0)
    else:
        for _ in range(int(rng.integers(2, 6))):
            z = rng.uniform(z0, z1)
            x = edge + side * rng.uniform(2.5, 10)
            street.add(max(z, 4.0), partial(things.tree, x=x, z=max(z, 4.0)))
        street.add(z1 + 0.5, partial(_thicket, x=edge + side * 13, z=z1 + 0.5))
    if garden or not built:
        street.greens.append((edge, z0, z1))
        if rng.random() < habits.enclosed:
            kind = int(rng.choice(3, p=(0.42, 0.26, 0.32)))
            enclosure = (things.fence, things.wall, things.hedge)[kind]
            street.add(z1 - 0.01, partial(enclosure, x=edge + side * 0.15, z0=z0, z1=z1))


def _thicket(canvas: Canvas, look: Look, rng: Rng, x: float, z: float) -> None:
    """Bushes that close a green at its back."""
    color = look.pick(rng, "vegetation")
    for k in range(7):
        stand = things.Stand(canvas, x + (k - 3) * 3.2, z)
        stand.disc(0, rng.uniform(0.5, 2.0), rng.uniform(1.6, 2.8), tint(color, rng.uniform(0.6, 0.9)), VEGETATION)


def _furniture(street: Street, look: Look, habits: Habits, rng: Rng, side: int) -> None:
    """Lamps, trees, signs and signals along the kerb."""
    kerb = (street.right if side > 0 else street.left) + side * 0.5
    z = rng.uniform(5, 14)
    spacing = rng.uniform(15, 24)
    while z < 70:
        if not street.in_crossing(z, z, 1):
            street.add(z, partial(things.lamp, x=kerb, z=z))
            street.cast(look, kerb - 0.1, kerb + 0.1, z, z + 0.15, 3.0)
        z += spacing
    for z in np.arange(rng.uniform(4, 9), 80, 7.0).tolist():
        if rng.random() < habits.trees and not street.in_crossing(z, z, 3):
            street.add(z, partial(things.tree, x=kerb + side * 0.4, z=z))
            street.cast(look, kerb - 1.2, kerb + 1.6, z - 1.0, z + 1.0, 2.0)
    for _ in range(int(rng.poisson(habits.signs / 2))):
        z = rng.uniform(5, 26)
        if not street.in_crossing(z, z):
            street.add(z, partial(things.sign, x=kerb + side * rng.uniform(-0.2, 0.5), z=z))
    if street.crossing and rng.random() < habits.lights:
        z = street.crossing[0] - 1.5 if side > 0 else street.crossing[1] + 0.5
        street.add(z, partial(things.traffic_light, x=kerb, z=z))


def _parking(street: Street, look: Look, habits: Habits, rng: Rng, side: int) -> None:
    """Cars, and now and then a motorcycle, at the kerb; bicycles lean on the sidewalk."""
    if street.parking:
        x = street.right - 1.05 if side > 0 else street.left + 1.05
        z = rng.uniform(5.0, 10)
        while z < 75:
            if rng.random() < habits.parked and not street.in_crossing(z, z + 5, 2):
                body = vehicles.car_body(x + rng.uniform(-0.12, 0.12), z, side > 0, rng)
                _place(street, look, body, vehicles.car)
            z += rng.uniform(5.2, 6.5)
    walk = street.walk_right if side > 0 else street.walk_left
    kerb = street.right if side > 0 else street.left
    for kind, rate, nearest in ((things.bicycle, habits.bicycles, 4.5), (things.motorcycle, habits.motorcycles, 8.0)):
        for _ in range(int(rng.poisson(rate / 2))):
            z, x = rng.uniform(nearest, 18), kerb + side * rng.uniform(0.5, 0.9 * walk)
            stretch = rng.uniform(0.55, 1.0) * (-1 if rng.random() < 0.5 else 1)
            if not street.in_crossing(z, z):
                street.add(z, partial(kind, x=x, z=z, stretch=stretch))
                street.cast(look, x - 0.6, x + 0.6, z - 0.1, z + 0.2, 0.6)


def _place(street: Street, look: Look, body: vehicles.Body, draw_body: Callable[..., None]) -> None:
    street.add(body.z, partial(draw_body, body=body))
    half = body.width / 2 + 0.1
    street.cast(look, body.x - half, body.x + half, body.z - 0.2, body.z + body.length, 0.6)


def _traffic(street: Street, look: Look, habits: Habits, rng: Rng) -> None:
    """Vehicles in the two lanes, and riders near the kerb."""
    space = 1.0 if not street.parking else 2.2
    own = (street.lanes + street.right - space) / 2
    other = (street.lanes + street.left + space) / 2
    taken: list[tuple[bool, float, float]] = []
    kinds = (
        (vehicles.bus_body, vehicles.bus, habits.buses, 9.0),
        (vehicles.truck_body, vehicles.truck, habits.trucks, 8.0),
        (vehicles.car_body, vehicles.car, habits.driving, 6.0),
    )
    for make, draw_body, rate, nearest in kinds:
        for _ in range(int(rng.poisson(rate))):
            away = bool(rng.random() < 0.5)
            z = nearest + 40 * rng.random() ** 1.3
            body = make((own if away else other) + rng.uniform(-0.3, 0.3), z, away, rng)
            if all(lane != away or z > b + 2 or z + body.length < a - 2 for lane, a, b in taken):
                taken.append((away, z, z + body.length))
                _place(street, look, body, draw_body)
    for _ in range(int(rng.poisson(habits.riders))):
        away = bool(rng.random() < 0.6)
        motor = bool(rng.random() < habits.motor)
        z = rng.uniform(8.0 if motor else 4.5, 17)
        x = (street.right - space - 0.3 if away else street.left + space + 0.3) + rng.uniform(-0.4, 0.4)
        stretch = rng.uniform(0.35, 0.8) * (-1 if away == (x < 0) else 1)
        if all(lane != away or z > b + 1 or z < a - 1 for lane, a, b in taken):
            street.add(z, partial(things.rider, x=x, z=z, stretch=stretch, motor=motor))
            street.cast(look, x - 0.4, x + 0.4, z - 0.1, z + 0.3, 0.8)


def _people(street: Street, look: Look, habits: Habits, rng: Rng) -> None:
    """People on the sidewalks, in groups, and on the crossing."""
    for _ in range(int(rng.poisson(habits.people))):
        side = 1 if rng.random() < 0.5 else -1
        kerb, walk = (street.right, street.walk_right) if side > 0 else (street.left, street.walk_left)
        z = 4.5 + 20 * rng.random() ** 1.3
        x = kerb + side * rng.uniform(0.4 + street.verge, walk - 0.3)
        if street.crossing and rng.random() < 0.25:
            z, x = street.crossing[0] - rng.uniform(1.0, 3.0), rng.uniform(street.left, street.right)
        for k in range(1 + int(rng.random() < 0.35)):
            street.add(z + 0.3 * k, partial(things.person, x=x + 0.6 * k, z=z + 0.3 * k))
            street.cast(look, x + 0.6 * k - 0.2, x + 0.6 * k + 0.2, z - 0.08, z + 0.12, 1.2)


def _sky(canvas: Canvas, look: Look, rng: Rng) -> None:
    """Gradient, clouds, and the town and hills beyond the end of the street."""
    share = np.linspace(0, 1 / canvas.camera.horizon, canvas.height).clip(0, 1)[:, None]
    zenith, horizon = np.asarray(look.sky[0]), np.asarray(look.sky[1])
    rows = np.concatenate((zenith + (horizon - zenith) * share, np.full_like(share, SKY)), axis=1)
    canvas.pixels[:] = rows.astype(np.uint8)[:, None]
    for _ in range(look.clouds):
        things.cloud(canvas, rng, look.cloud)
    h = canvas.camera.horizon
    u, distance = -0.1, 0.75 * FAR
    while u < 1.1:
        wide, high = rng.uniform(0.03, 0.09), rng.uniform(0.02, 0.09)
        if rng.random() < 0.5:
            color = tint(look.pick(rng, "building"), 0.9)
            canvas.flat(
                ((u, h + 0.01), (u, h - high), (u + wide, h - high), (u + wide, h + 0.01)), color, BUILDING, distance
            )
        else:
            color = look.pick(rng, "vegetation")
            ink = canvas.ink(color, VEGETATION, distance)
            canvas.blob((u + wide / 2, h), (wide * 0.7, high * 0.8), ink)
        u += wide


def _ground(canvas: Canvas, street: Street, look: Look, rng: Rng) -> None:
    """Everything flat: greens, sidewalks, the road and its side road, markings, then shadows and haze."""
    far, near = 4 * FAR, NEAREST
    asphalt, paving, green = (look.pick(rng, m) for m in ("road", "sidewalk", "terrain"))

    def strip(x0: float, x1: float, z0: float, z1: float, color, label: int) -> None:
        canvas.solid(((x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)), color, label, 0.0)

    strip(-400, 400, near, far, green, TERRAIN)
    left, right = street.left - street.walk_left, street.right + street.walk_right
    strip(left, right, near, far, paving, SIDEWALK)
    for z in np.arange(2, 40, 2.0).tolist():
        strip(left, street.left, z, z + 0.06, tint(paving, 0.86), SIDEWALK)
        strip(street.right, right, z, z + 0.06, tint(paving, 0.86), SIDEWALK)
    strip(street.left - street.verge - 0.2, street.right + street.verge + 0.2, near, far, green, TERRAIN)
    strip(street.left - 0.25, street.right + 0.25, near, far, tint(paving, 1.14), SIDEWALK)
    strip(street.left, street.right, near, far, asphalt, ROAD)
    if street.crossing:
        a, b = street.crossing
        strip(-400, 400, a - 2.5, b + 2.5, paving, SIDEWALK)
        strip(street.left, street.right, a - 3, b + 3, asphalt, ROAD)
        strip(-400, 400, a, b, asphalt, ROAD)
    _markings(street, look, strip)
    canvas.finish_ground(street.shadows, look.shadow, look.softness)


def _markings(street: Street, look: Look, strip: Callable[..., None]) -> None:
    """Dashes between the lanes, edge lines, stop line and zebra crossing."""
    for z in np.arange(3.0, 90, 6.0).tolist():
        if not street.in_crossing(z, z + 3, 4):
            strip(street.lanes - 0.07, street.lanes + 0.07, z, z + 3, look.markings, ROAD)
    inset = 2.15 if street.parking else 0.3
    spans = ((NEAREST, FAR),) if street.crossing is None else (
        (NEAREST, street.crossing[0] - 4), (street.crossing[1] + 4, FAR))  # fmt: skip
    for z0, z1 in spans:
        for x in (street.left + inset, street.right - inset):
            strip(x - 0.06, x + 0.06, z0, z1, look.markings, ROAD)
    if street.crossing:
        z = street.crossing[0] - 3.2
        for k in range(math.floor((street.right - street.left - 0.4) / 1.0)):
            x = street.left + 0.4 + k
            strip(x, x + 0.5, z, z + 2.2, look.markings, ROAD)
        strip(street.lanes, street.right, z - 1.2, z - 0.8, look.markings, ROAD)
