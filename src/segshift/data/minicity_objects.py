"""What stands in a MiniCity street, apart from vehicles: buildings, trees, fences, poles, signs, people, two-wheelers.

Every function draws one thing on a canvas. `rng` decides colours and small shapes; the number of draws never
depends on the canvas size, so all sizes show the same scene.
"""

from __future__ import annotations

import math

import numpy as np

from segshift.data.minicity_canvas import Canvas, Color, Point, Stand
from segshift.data.minicity_style import Look, tint
from segshift.taxonomy import CITYSCAPES

(
    ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR, TRUCK,
    BUS, _TRAIN, MOTORCYCLE, BICYCLE,
) = range(len(CITYSCAPES))  # fmt: skip

Rng = np.random.Generator


def upright(x: float, z0: float, z1: float, y0: float, y1: float) -> tuple[Point, ...]:
    """A rectangle in the plane x = const, along the street."""
    return (x, y0, z0), (x, y1, z0), (x, y1, z1), (x, y0, z1)


def across(x0: float, x1: float, z: float, y0: float, y1: float) -> tuple[Point, ...]:
    """A rectangle that faces the camera at depth z."""
    return (x0, y0, z), (x0, y1, z), (x1, y1, z), (x1, y0, z)


def building(canvas: Canvas, look: Look, rng: Rng, x: float, z0: float, z1: float) -> None:
    """A facade along the street at x, from z0 to z1, with the end wall that faces the camera."""
    side = math.copysign(1.0, x)
    floors = int(rng.integers(*look.floors))
    storey = rng.uniform(2.9, 3.6)
    height = floors * storey + 0.9
    color = look.pick(rng, "building")
    light = look.left if side < 0 else look.right
    front, end = tint(color, light), tint(color, look.end)
    canvas.solid(across(x, x + side * 14, z0, 0, height), end, BUILDING, z0)
    if not canvas.beyond(x, z0):
        _end_windows(canvas, look, rng, x, z0, floors, storey)
    if rng.random() < look.pitched:
        roof, ridge = look.pick(rng, "roof"), height + rng.uniform(1.5, 3.0)
        slope = (x, height, z0), (x + side * 4, ridge, z0), (x + side * 4, ridge, z1), (x, height, z1)
        canvas.solid(slope, tint(roof, light), BUILDING, z0)
        gable = (x, height, z0), (x + side * 4, ridge, z0), (x + side * 8, height, z0)
        canvas.solid(gable, end, BUILDING, z0)
    bays = max(1, round((z1 - z0) / (rng.uniform(3.0, 4.2) * max(1.0, z0 / 30))))
    edges = np.linspace(z0, z1, bays + 1).tolist()
    shop = rng.random() < look.shops
    awning = look.pick(rng, "clothes")
    pane = rng.uniform(0.28, 0.36), rng.uniform(0.22, 0.3)
    for a, b in zip(reversed(edges[:-1]), reversed(edges[1:])):
        if canvas.beyond(x, b):
            break
        canvas.facade(x, (a, b), [(0, height)], front, BUILDING)
        canvas.facade(x, (a, b), [(height - 0.35, height)], tint(front, 0.78), BUILDING)
        margin = (b - a) * pane[0]
        low, high = storey * pane[1], storey * 0.86
        lit = rng.random(floors) < look.lit
        for color_index, glass in enumerate((look.glass, look.glow)):
            rows = [k * storey for k in range(int(shop), floors) if int(lit[k]) == color_index]
            canvas.facade(x, (a + margin, b - margin), [(y + low, y + high) for y in rows], glass, BUILDING)
        if shop:
            glass = look.glow if lit[0] else look.glass
            canvas.facade(x, (a + 0.3, b - 0.3), [(0.4, storey * 0.75)], glass, BUILDING)
            canvas.facade(x, (a, b), [(storey * 0.78, storey * 0.98)], tint(awning, light), BUILDING)


def _end_windows(canvas: Canvas, look: Look, rng: Rng, x: float, z: float, floors: int, storey: float) -> None:
    side = math.copysign(1.0, x)
    lit = rng.random((floors, 4)) < look.lit
    for is_lit, glass in ((False, look.glass), (True, look.glow)):
        panes = [
            across(x + side * (1 + 3 * k), x + side * (2.3 + 3 * k), z, storey * (f + 0.3), storey * (f + 0.8))
            for f in range(floors) for k in range(4) if lit[f, k] == is_lit
        ]  # fmt: skip
        canvas.solids(panes, glass, BUILDING, z)


def tree(canvas: Canvas, look: Look, rng: Rng, x: float, z: float) -> None:
    """A trunk and a crown of overlapping leaf masses, darker below."""
    height, radius = rng.uniform(4.0, 8.0), rng.uniform(1.1, 2.1)
    if canvas.beyond(x, z, 2 * radius):
        return
    color = look.pick(rng, "vegetation")
    stand = Stand(canvas, x, z)
    stand.bar(
        (0, 0), (rng.uniform(-0.2, 0.2), height - radius), rng.uniform(0.2, 0.4), look.pick(rng, "trunk"), VEGETATION
    )
    masses = 32 if z < 14 else 15 if z < 35 else 7
    leaf = 1.0 if z >= 35 else 0.8 if z >= 14 else 0.6
    for i in range(masses):
        angle, reach = rng.uniform(0, 2 * math.pi), radius * math.sqrt(rng.random()) * 0.8
        dx, dy = reach * math.cos(angle), reach * math.sin(angle) * 1.15
        shade = 0.62 + 0.5 * i / masses + 0.12 * dy / radius
        stand.disc(dx, height - radius + dy, radius * leaf * rng.uniform(0.35, 0.6), tint(color, shade), VEGETATION)


def hedge(canvas: Canvas, look: Look, rng: Rng, x: float, z0: float, z1: float) -> None:
    """A clipped hedge along the street with an uneven top."""
    height, color = rng.uniform(0.8, 1.8), look.pick(rng, "vegetation")
    inward = -math.copysign(0.7, x)
    for z in np.arange(z1 - 1.5, z0 - 0.01, -1.5).tolist():
        top = height + rng.uniform(-0.12, 0.12)
        shade = rng.uniform(0.75, 0.95)
        canvas.solid(across(x, x + inward, z, 0, top), tint(color, shade * 0.85), VEGETATION, z)
        canvas.solid(upright(x + inward, z, z + 1.5, 0, top), tint(color, shade), VEGETATION, z)
        Stand(canvas, x + inward / 2, z).disc(0, top, 0.42, tint(color, shade * 1.15), VEGETATION)


def fence(canvas: Canvas, look: Look, rng: Rng, x: float, z0: float, z1: float) -> None:
    """Pickets between two rails; the gaps belong to the fence, as annotators draw it."""
    height, color = rng.uniform(1.1, 1.7), look.pick(rng, "fence")
    for a in np.arange(z1 - 2.0, z0 - 0.01, -2.0).tolist():
        span = (a, a + 2.0)
        if canvas.beyond(x, a + 2.0):
            break
        canvas.facade(x, span, [(0, height)], tint(color, 0.62 if a < 25 else 0.85), FENCE)
        if a < 25:
            pickets = [upright(x, a + 0.33 * k + 0.08, a + 0.33 * k + 0.25, 0.05, height) for k in range(6)]
            canvas.solids(pickets, color, FENCE, a)
        canvas.facade(x, span, [(height * 0.75, height * 0.85)], tint(color, 1.12), FENCE)


def wall(canvas: Canvas, look: Look, rng: Rng, x: float, z0: float, z1: float) -> None:
    """A garden wall with a coping and courses of stone."""
    height, color = rng.uniform(1.3, 2.4), look.pick(rng, "wall")
    light = look.left if x < 0 else look.right
    canvas.solid(across(x, x + math.copysign(0.4, x), z0, 0, height), tint(color, look.end), WALL, z0)
    for a in np.arange(z1 - 3.0, z0 - 0.01, -3.0).tolist():
        span = (a, a + 3.0)
        if canvas.beyond(x, a + 3.0):
            break
        canvas.facade(x, span, [(0, height)], tint(color, light), WALL)
        courses = [(y, y + 0.07) for y in np.arange(0.45, height - 0.2, 0.45).tolist()]
        canvas.facade(x, span, courses, tint(color, 0.75 * light), WALL)
        canvas.facade(x, span, [(height - 0.15, height + 0.05)], tint(color, 1.15 * light), WALL)


def lamp(canvas: Canvas, look: Look, rng: Rng, x: float, z: float) -> None:
    """A street lamp that leans over the road."""
    color, height = look.pick(rng, "pole"), rng.uniform(5.5, 7.5)
    stand = Stand(canvas, x, z, stretch=-math.copysign(1.0, x))
    stand.bar((0, 0), (0, height), 0.16, color, POLE)
    stand.bar((0, height), (1.6, height + 0.3), 0.13, color, POLE)
    stand.box(1.1, height + 0.1, 1.9, height + 0.35, look.lamp, POLE)


def sign(canvas: Canvas, look: Look, rng: Rng, x: float, z: float) -> None:
    """A traffic sign on its post: round, triangular, square or a direction board."""
    stand = Stand(canvas, x, z, scale=1.15)
    height, kind = rng.uniform(2.1, 2.6), int(rng.choice(4, p=(0.32, 0.28, 0.25, 0.15)))
    rim, face = look.pick(rng, "sign"), look.pick(rng, "sign face")
    stand.bar((0, 0), (0, height), 0.1, look.pick(rng, "pole"), POLE)
    if kind == 0:
        stand.disc(0, height, 0.42, rim, SIGN)
        stand.disc(0, height, 0.28, face, SIGN)
    elif kind == 1:
        stand.poly(((-0.5, height - 0.35), (0.5, height - 0.35), (0, height + 0.5)), rim, SIGN)
        stand.poly(((-0.27, height - 0.22), (0.27, height - 0.22), (0, height + 0.22)), face, SIGN)
    elif kind == 2:
        stand.box(-0.38, height - 0.38, 0.38, height + 0.38, rim, SIGN)
        stand.box(-0.12, height - 0.25, 0.12, height + 0.25, face, SIGN)
    else:
        stand.box(-0.75, height - 0.1, 0.75, height + 0.5, rim, SIGN)
        stand.box(-0.6, height + 0.12, 0.6, height + 0.24, face, SIGN)


def traffic_light(canvas: Canvas, look: Look, rng: Rng, x: float, z: float) -> None:
    """A signal on a post; every second one has an arm with a second signal over the road."""
    stand = Stand(canvas, x, z, stretch=-math.copysign(1.0, x), scale=1.1)
    phase, color = int(rng.integers(3)), look.pick(rng, "pole")
    heads = [(0.0, 2.6)]
    if rng.random() < 0.6:
        stand.bar((0, 0), (0, 5.6), 0.17, color, POLE)
        stand.bar((0, 5.5), (3.6, 5.7), 0.15, color, POLE)
        heads.append((3.4, 4.9))
    else:
        stand.bar((0, 0), (0, 2.8), 0.15, color, POLE)
    housing = look.pick(rng, "signal")
    for dx, y in heads:
        stand.box(dx - 0.3, y - 0.05, dx + 0.3, y + 1.3, housing, LIGHT)
        for k, on in enumerate(((40, 220, 110), (255, 190, 30), (255, 50, 35))):
            stand.disc(dx, y + 0.23 + 0.39 * k, 0.17, on if k == phase else tint(on, 0.22), LIGHT)


def person(canvas: Canvas, look: Look, rng: Rng, x: float, z: float) -> None:
    """Somebody walking: legs, coat, arms, head and hair."""
    stand = Stand(canvas, x, z, stretch=rng.choice((-1.0, 1.0)), scale=rng.uniform(0.92, 1.1))
    coat, trousers, skin = look.pick(rng, "clothes"), look.pick(rng, "trousers"), look.pick(rng, "skin")
    step = rng.uniform(0.05, 0.3)
    stand.bar((-0.07, 0.85), (-step, 0.03), 0.19, tint(trousers, 0.85), PERSON)
    stand.bar((0.07, 0.85), (step, 0.03), 0.19, trousers, PERSON)
    stand.bar((-step - 0.05, 0.04), (-step + 0.12, 0.04), 0.1, (35, 30, 30), PERSON)
    stand.bar((step - 0.05, 0.04), (step + 0.14, 0.04), 0.1, (35, 30, 30), PERSON)
    stand.bar((-0.2, 1.38), (-0.22 - step * 0.5, 0.85), 0.13, tint(coat, 0.8), PERSON)
    stand.poly(((-0.18, 0.78), (0.18, 0.78), (0.24, 1.42), (0.1, 1.52), (-0.1, 1.52), (-0.24, 1.42)), coat, PERSON)
    stand.bar((0.2, 1.38), (0.22 + step * 0.6, 0.88), 0.13, tint(coat, 1.12), PERSON)
    stand.disc(0, 1.63, 0.14, skin, PERSON, squash=0.9)
    stand.poly(((-0.13, 1.66), (0.13, 1.66), (0.09, 1.78), (-0.09, 1.78)), look.pick(rng, "hair"), PERSON)


def bicycle(canvas: Canvas, look: Look, rng: Rng, x: float, z: float, stretch: float) -> None:
    """A bicycle from the side, foreshortened by `stretch`."""
    stand, color = Stand(canvas, x, z, stretch), look.pick(rng, "bicycle")
    for wheel in (-0.52, 0.52):
        stand.disc(wheel, 0.34, 0.34, look.tyre, BICYCLE)
        stand.disc(wheel, 0.34, 0.26, look.spokes, BICYCLE)
    for a, b in (((-0.52, 0.34), (-0.1, 0.36)), ((-0.1, 0.36), (-0.2, 0.85)), ((-0.1, 0.36), (0.38, 0.8)),
                 ((-0.18, 0.8), (0.38, 0.82)), ((0.52, 0.34), (0.36, 1.0)), ((-0.52, 0.34), (-0.18, 0.8))):  # fmt: skip
        stand.bar(a, b, 0.07, color, BICYCLE)
    stand.bar((-0.34, 0.9), (-0.06, 0.9), 0.09, look.tyre, BICYCLE)
    stand.bar((0.28, 1.02), (0.46, 1.02), 0.07, look.tyre, BICYCLE)


def motorcycle(canvas: Canvas, look: Look, rng: Rng, x: float, z: float, stretch: float) -> None:
    """A motorcycle from the side: fat wheels, tank, seat, engine, headlight."""
    stand, color = Stand(canvas, x, z, stretch, scale=1.1), look.pick(rng, "car")
    for wheel in (-0.62, 0.65):
        stand.disc(wheel, 0.31, 0.31, look.tyre, MOTORCYCLE)
        stand.disc(wheel, 0.31, 0.15, (150, 150, 155), MOTORCYCLE)
    stand.poly(((-0.55, 0.35), (0.3, 0.25), (0.42, 0.6), (-0.3, 0.6)), (80, 80, 85), MOTORCYCLE)
    stand.poly(((-0.85, 0.75), (-0.1, 0.62), (0.1, 0.62), (0.45, 0.7), (0.4, 0.95), (0.05, 0.95)), color, MOTORCYCLE)
    stand.poly(((-0.8, 0.74), (-0.05, 0.7), (-0.05, 0.85), (-0.75, 0.88)), look.tyre, MOTORCYCLE)
    stand.bar((0.65, 0.31), (0.4, 1.1), 0.09, (120, 120, 125), MOTORCYCLE)
    stand.disc(0.52, 0.88, 0.12, look.headlight, MOTORCYCLE)


def rider(canvas: Canvas, look: Look, rng: Rng, x: float, z: float, stretch: float, motor: bool) -> None:
    """Somebody on a bicycle or a motorcycle; the vehicle keeps its own class."""
    (motorcycle if motor else bicycle)(canvas, look, rng, x, z, stretch)
    coat, trousers = look.pick(rng, "clothes"), look.pick(rng, "trousers")
    broad = max(abs(stretch), 0.55)
    stand = Stand(canvas, x, z, math.copysign(broad, stretch), scale=1.08 if motor else 1.0)
    stand.bar((-0.2, 0.95), (0.14, 0.72), 0.2, trousers, RIDER)
    stand.bar((0.14, 0.74), (-0.04, 0.3), 0.16, tint(trousers, 0.85), RIDER)
    stand.poly(((-0.36, 0.88), (-0.05, 0.86), (0.24, 1.4), (0.14, 1.52), (-0.1, 1.5)), coat, RIDER)
    stand.bar((0.1, 1.4), (0.38, 1.02), 0.13, tint(coat, 0.82), RIDER)
    stand.disc(0.16, 1.63, 0.14, look.pick(rng, "skin"), RIDER)
    helmet = tuple((0.16 + 0.16 * math.cos(t), 1.66 + 0.16 * math.sin(t)) for t in np.linspace(0, math.pi, 7).tolist())
    stand.poly(helmet, look.pick(rng, "helmet"), RIDER)


def cloud(canvas: Canvas, rng: Rng, color: Color) -> None:
    """A bank of puffs in the sky."""
    u, v, wide = rng.uniform(0, 1), rng.uniform(0.02, 0.3), rng.uniform(0.03, 0.09)
    for _ in range(7):
        center = (u + wide * rng.normal(), v + 0.012 * rng.normal())
        canvas.blob(center, (wide * rng.uniform(0.5, 1), 0.35 * wide * rng.uniform(0.5, 1)), (*color, SKY))
