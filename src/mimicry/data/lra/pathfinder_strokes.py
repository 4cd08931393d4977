"""The dashes of Pathfinder pictures: each possible one drawn once, with where the next may follow it.

Positions are pixels (row, column) from the top left, angles are measured from "right" towards "down".
"""

import functools
import math
from dataclasses import dataclass

import numpy as np

SIZE = 32
# In pixels: a dash, the gap after it, and the radius of a dot.
DASH = 2
GAP = 1
DOT_RADIUS = 1.5
# Dashes and dots are drawn so many times larger, and then reduced.
ANTIALIAS = 2
# The first dash of a curve points in a whole number of degrees, the others at one of the pixels around the last.
DEGREES = 360
# A drawn dash reaches so far from the pixel it starts at: its length, half its thickness rounded up, and a gap.
REACH = DASH + 1 + GAP
WINDOW = 2 * REACH + 1
# A canvas has a frame that takes what dashes at the edge draw outside of the picture.
SIDE = SIZE + 2 * REACH
FULL = 255


@dataclass(frozen=True)
class Strokes:
    """All possible dashes: `DEGREES` that begin a curve, then one for each pixel of the ring around a pivot.

    Attributes:
        ring: pixels at the distance of the next dash's far end from a pivot, as (row, column) steps, of shape (k, 2).
        lines: ink of each dash around its outer end, 0 to 255, of shape (strokes, WINDOW * WINDOW).
        halos: the same for the room that it takes, gap included.
        pivots: step from the outer end of a first dash to its pivot, of shape (DEGREES, 2).
        steps: step from the pivot of each dash to the pivot of the one that follows, of shape (strokes, 2).
        weights: how likely each dash is followed by each pixel of the ring, of shape (strokes, k).
        starts: for each way in which a curve can begin, the steps from the outer end of its first dash to the pixels
            that must be free, and the directions, as numbers below `DEGREES`, that this holds for.
    """

    ring: np.ndarray
    lines: np.ndarray
    halos: np.ndarray
    pivots: np.ndarray
    steps: np.ndarray
    weights: np.ndarray
    starts: tuple[tuple[np.ndarray, np.ndarray], ...]


@functools.cache
def strokes(continuity: float) -> Strokes:
    """The dashes for curves that bend the less, the greater `continuity` is."""
    first = [math.radians(degree) for degree in range(-DEGREES // 2, DEGREES // 2)]
    ring = _ring(DASH + GAP)
    later = [math.atan2(row, column) for row, column in ring]
    # A first dash is drawn onwards from its outer end, a later one back towards its pivot.
    drawn = [_draw_dash(angle) for angle in (*first, *(angle + math.pi for angle in later))]
    halos = np.stack([halo for _, halo in drawn])
    return Strokes(
        ring=np.array(ring),
        lines=np.stack([line.ravel() for line, _ in drawn]),
        halos=halos.reshape(len(drawn), -1),
        pivots=np.array([_add(_step(a, DASH), _step(a + math.pi, DASH + GAP)) for a in first]),
        steps=np.array([_step(angle, DASH + 2 * GAP) for angle in (*first, *later)]),
        weights=np.array([[_weight(a - b, continuity) for b in later] for a in (*first, *later)]),
        starts=_starts(halos[:DEGREES]),
    )


def dot() -> np.ndarray:
    """Ink of a dot around its middle, 0 to 255, of shape (WINDOW, WINDOW)."""
    fine = np.arange(WINDOW * ANTIALIAS) - REACH * ANTIALIAS
    disc = np.add.outer(fine**2, fine**2) <= (DOT_RADIUS * ANTIALIAS) ** 2
    return _reduce(disc * np.uint8(FULL))


def _step(angle: float, length: int) -> tuple[int, int]:
    # Rounded first: a sine that should be 0 is not on every machine, and would be rounded up to 1.
    return math.ceil(round(length * math.sin(angle), 9)), math.ceil(round(length * math.cos(angle), 9))


def _add(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return one[0] + other[0], one[1] + other[1]


def _ring(radius: int) -> list[tuple[int, int]]:
    """Pixels under a circle around (0, 0), walked in steps of one pixel's length."""
    angles = np.arange(0, 2 * math.pi, 1 / radius)
    steps = {(math.floor(radius * math.sin(a)), math.floor(radius * math.cos(a))) for a in angles.tolist()}
    return sorted(steps)


def _weight(turn: float, continuity: float) -> float:
    turn = abs(math.remainder(turn, 2 * math.pi))
    return round(math.cos(min(turn * continuity, math.pi / 2)) ** 2, 12)


def _draw_dash(angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Ink and room of a dash that starts in the middle of a window."""
    # Slow to import, and only needed here.
    from PIL import Image, ImageDraw

    fine = 2 * REACH * ANTIALIAS + 1
    middle = REACH * ANTIALIAS
    picture = Image.new("L", (fine, fine))
    row, column = _step(angle, DASH * ANTIALIAS)
    ImageDraw.Draw(picture).line([(middle, middle), (middle + column, middle + row)], fill=FULL, width=1)
    line = np.asarray(picture)
    return _reduce(line), _reduce(_widen(line, GAP * ANTIALIAS))


def _starts(halos: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """The source asks for room where a first dash's own is full, with quirks that decide what the pictures look like.

    It looks one pixel further down and right than it draws, not beyond the dash's own length there; and it gives up on
    a direction when for some pixel of the picture all that it looks at lies outside. So a curve can only begin up and
    left, and few of the short curves find a place.
    """
    cores: dict[bytes, tuple[np.ndarray, list[int]]] = {}
    pixels = np.moveaxis(np.indices((SIZE, SIZE)), 0, -1)[:, :, None]
    for degree, halo in enumerate(halos):
        core = np.argwhere(halo[: WINDOW - GAP - 1, : WINDOW - GAP - 1] == FULL) - REACH + 1
        looks = pixels + core
        inside = np.all((looks >= 0) & (looks < SIZE), axis=3)
        if np.any(inside, axis=2).all():
            cores.setdefault(core.tobytes(), (core, []))[1].append(degree)
    return tuple((core, np.array(degrees)) for core, degrees in cores.values())


def _widen(picture: np.ndarray, radius: int) -> np.ndarray:
    """Each pixel takes the largest value within `radius`."""
    height, width = picture.shape
    framed = np.pad(picture, radius)
    steps = range(-radius, radius + 1)
    near = [(row, column) for row in steps for column in steps if row**2 + column**2 <= radius**2]
    shifted = [framed[radius + r : radius + r + height, radius + c : radius + c + width] for r, c in near]
    return np.max(shifted, axis=0)


def _reduce(picture: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(picture).resize((WINDOW, WINDOW), Image.Resampling.LANCZOS))
