"""Dashed curves that grow across many pictures at once without touching each other."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from mimicry.data.draws import Draws
from mimicry.data.lra.pathfinder_strokes import DEGREES, FULL, REACH, SIDE, SIZE, WINDOW, Strokes

# Two dashes clash where their rooms, 0 to 255 each, add up to more; 1.8 of 2 in the source.
CLASH = 459
# A curve does not begin where a room this strong lies; 0.3 of 1 in the source.
OCCUPIED = 77
# A dash is drawn anew so often before its curve fails.
TRIES = 3
# Of all weights and rooms around a pivot, as a share of one full weight: below it the curve is at a dead end.
DEAD_END = 1e-4
PADDING = 1

AREA = SIDE * SIDE
INSIDE = np.pad(np.ones((SIZE, SIZE), dtype=bool), REACH).ravel()
WINDOW_STEPS = (np.arange(WINDOW)[:, None] * SIDE + np.arange(WINDOW) - REACH * (SIDE + 1)).ravel()
CROSS_STEPS = (-SIDE, -1, 0, 1, SIDE)


def place(row: Any, column: Any) -> Any:
    """Where a pixel of the picture lies in a flattened canvas."""
    return (row + REACH) * SIDE + column + REACH


@dataclass
class Canvases:
    """Pictures in the making.

    Attributes:
        ink: 0 to 255, of shape (pictures, SIDE * SIDE).
        room: taken by dashes and the padding, 0 to 255, of the same shape.
    """

    ink: np.ndarray
    room: np.ndarray

    @classmethod
    def blank(cls, count: int) -> "Canvases":
        """Nothing drawn, and the padding taken."""
        room = np.zeros((count, SIDE, SIDE), dtype=np.uint8)
        room[:, REACH:-REACH, REACH:-REACH] = FULL
        inner = REACH + PADDING
        room[:, inner:-inner, inner:-inner] = 0
        return cls(np.zeros((count, SIDE * SIDE), dtype=np.uint8), room.reshape(count, -1))

    def take(self, pictures: np.ndarray) -> "Canvases":
        """Copies of some of the pictures."""
        return Canvases(self.ink[pictures], self.room[pictures])

    def put(self, pictures: np.ndarray, others: "Canvases", chosen: np.ndarray) -> None:
        """Replace some of the pictures by the chosen ones of others."""
        self.ink[pictures] = others.ink[chosen]
        self.room[pictures] = others.room[chosen]


@dataclass
class Curves:
    """One growing curve on each of some canvases.

    Attributes:
        tips: outer end of the last dash, as a place in the canvas.
        strokes: the last dash, as a number of `Strokes`; its room is taken only when the next dash is drawn.
        pivots: row and column of its pivot, of shape (curves, 2).
        alive: whether every dash has found a place so far.
    """

    tips: np.ndarray
    strokes: np.ndarray
    pivots: np.ndarray
    alive: np.ndarray


def begin(canvases: Canvases, strokes: Strokes, tips: np.ndarray, degrees: np.ndarray) -> Curves:
    """Draw the first dash of a curve on each canvas.

    Args:
        canvases: drawn upon.
        strokes: all dashes.
        tips: row and column of its outer end, of shape (canvases, 2); -1 where there is no place for one.
        degrees: its direction, as a number of `Strokes`.
    """
    curves = Curves(place(*tips.T), degrees, tips + strokes.pivots[degrees], tips[:, 0] >= 0)
    _draw(canvases.ink, strokes.lines, curves, np.flatnonzero(curves.alive))
    return curves


def extend(canvases: Canvases, strokes: Strokes, curves: Curves, draws: Draws) -> None:
    """Draw the next dash of every curve that is alive; those that find no place for it die."""
    rows = np.flatnonzero(curves.alive)
    pivots = curves.pivots[rows] + strokes.steps[curves.strokes[rows]]
    places, cumulative = _ring_shares(canvases.room, strokes, curves.strokes[rows], rows, pivots)
    passable = cumulative[:, -1] >= DEAD_END
    found = np.zeros(len(rows), dtype=bool)
    picks = np.zeros(len(rows), dtype=np.int64)
    for _ in range(TRIES):
        tried = np.flatnonzero(passable & ~found)
        wanted = draws.fractions(len(tried)) * cumulative[tried, -1]
        picks[tried] = (cumulative[tried, :-1] <= wanted[:, None]).sum(axis=1)
        windows = places[tried, picks[tried], None] + WINDOW_STEPS
        halos = strokes.halos[DEGREES + picks[tried]] * INSIDE[windows]
        # Bytes would overflow.
        rooms = halos.astype(np.int16) + _look(canvases.room, rows[tried], windows)
        found[tried] = rooms.max(axis=1) < CLASH
    curves.alive[rows[~found]] = False
    rows = rows[found]
    _draw(canvases.room, strokes.halos, curves, rows)
    curves.tips[rows] = places[found, picks[found]]
    curves.strokes[rows] = DEGREES + picks[found]
    curves.pivots[rows] = pivots[found]
    _draw(canvases.ink, strokes.lines, curves, rows)


def _ring_shares(
    room: np.ndarray, strokes: Strokes, last: np.ndarray, rows: np.ndarray, pivots: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places of the pixels around each pivot, and the running sum of how likely the next dash ends there."""
    heads = pivots[:, None] + strokes.ring
    inside = ((heads >= 0) & (heads < SIZE)).all(axis=2)
    # Outside pixels look at the corner of the canvas instead, and count for nothing.
    places = np.where(inside, place(heads[..., 0], heads[..., 1]), place(0, 0))
    taken = functools.reduce(np.maximum, (_look(room, rows, places + step) for step in CROSS_STEPS))
    shares = np.where(inside, (FULL - taken) / FULL * strokes.weights[last], 0)
    return places, np.cumsum(shares, axis=1)


def finish(canvases: Canvases, strokes: Strokes, curves: Curves) -> None:
    """Take the room of the last dash of every curve that is alive."""
    _draw(canvases.room, strokes.halos, curves, np.flatnonzero(curves.alive))


def find_starts(room: np.ndarray, strokes: Strokes, degrees: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """A place for the first dash on each canvas, evenly drawn from all that are free.

    Args:
        room: of each canvas, of shape (canvases, SIDE * SIDE).
        strokes: all dashes.
        degrees: the direction that the dash shall have on each.
        fractions: which of the free places to take, in [0, 1).

    Returns:
        Row and column in the picture, of shape (canvases, 2); -1 where none is free.
    """
    starts = np.full((len(room), 2), -1)
    for core, those in strokes.starts:
        chosen = np.flatnonzero(np.isin(degrees, those))
        occupied = ((room[chosen] >= OCCUPIED) & INSIDE).reshape(-1, SIDE, SIDE)
        taken = np.zeros((len(chosen), SIZE, SIZE), dtype=bool)
        for row, column in core + REACH:
            taken |= occupied[:, row : row + SIZE, column : column + SIZE]
        free = np.cumsum(~taken.reshape(len(chosen), SIZE * SIZE), axis=1)
        wanted = (fractions[chosen] * free[:, -1]).astype(np.int64)
        found = (free <= wanted[:, None]).sum(axis=1)
        lucky = free[:, -1] > 0
        starts[chosen[lucky]] = np.stack(np.divmod(found[lucky], SIZE), axis=1)
    return starts


def _draw(canvas: np.ndarray, pictures: np.ndarray, curves: Curves, rows: np.ndarray) -> None:
    """Lay the last dash of some curves over their canvases; what falls on the frame has no effect."""
    windows = rows[:, None] * AREA + curves.tips[rows, None] + WINDOW_STEPS
    flat = canvas.reshape(-1)
    flat[windows] = np.maximum(flat.take(windows), pictures[curves.strokes[rows]])


def _look(canvas: np.ndarray, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """What lies at each row's places, of shape (rows, places)."""
    return canvas.reshape(-1).take(rows[:, None] * AREA + places)
