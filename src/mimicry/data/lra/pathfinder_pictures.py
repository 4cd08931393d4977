"""Pathfinder pictures: two long dashed curves among short ones, and two dots that end one of the long ones, or both."""

import math
from dataclasses import dataclass

import numpy as np

from mimicry.data.draws import Draws
from mimicry.data.lra.pathfinder_curves import (
    WINDOW_STEPS,
    Canvases,
    Curves,
    begin,
    extend,
    find_starts,
    finish,
    place,
)
from mimicry.data.lra.pathfinder_strokes import DEGREES, FULL, REACH, SIDE, dot, strokes

# The outer ends of the two long curves, in pixels.
SEED_DISTANCE = 7
DISTRACTOR_DASHES = 20
DISTRACTOR_TRIES = 5
# Contrasts; that of dots is 1.
LONG_INK, SHORT_INK = 1.5, 2.0
# Pairs of curves tried at a time; with the benchmark's rules one in 20 succeeds.
BATCH = 2048
# Below this share, a chunk would take hours.
MIN_SHARE = 1e-4
TRIED_BEFORE_GIVING_UP = 20 * BATCH

_DIRECTIONS = [math.radians(degree) for degree in range(DEGREES)]
# Steps from the outer end of the first long curve to that of the second.
_CIRCLE = SEED_DISTANCE * np.array([(math.sin(a), math.cos(a)) for a in _DIRECTIONS]).round(9)


@dataclass(frozen=True)
class CurveRules:
    """What the curves look like; the defaults are those of the benchmark's hard level.

    Args:
        contour_length: dashes of a long curve, >= 3; the benchmark's levels have 6, 9 and 14. Short ones have a third.
        continuity: the greater, the straighter the curves are, > 0.

    Raises:
        ValueError: if a value is out of range.
    """

    contour_length: int = 14
    continuity: float = 1.0

    def __post_init__(self) -> None:
        if self.contour_length < 3:
            raise ValueError(f"contour_length must be >= 3, got {self.contour_length}")
        if self.continuity <= 0:
            raise ValueError(f"continuity must be > 0, got {self.continuity}")


def draw_pictures(rules: CurveRules, count: int, draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """`count` pictures, and whether their dots end the same curve.

    Every curve grows dash by dash from a start of its own and keeps clear of all that was drawn before; where one of
    the two long ones fails, both begin anew, where a short one fails five times, it is left out. The contrasts are
    those of the benchmark: short curves are brighter than long ones. The brightest pixel becomes 255.

    Returns:
        Gray values, uint8 of shape (count, SIZE, SIZE), and labels, int64 of shape (count,): 1 for the same curve.

    Raises:
        ValueError: if the rules let hardly any curve grow.

    Source: Linsley et al. 2018 (arXiv 1805.08315) and its generator, with the numbers of Tay et al. 2020
        (arXiv 2011.04006).
    """
    canvases, begins, ends = _grow_pairs(rules, count, draws)
    short = _grow_distractors(rules, canvases.room, draws)
    labels = draws.integers(2, count)
    first = draws.integers(2, count)
    second = np.where(labels == 1, first, 1 - first)
    every = np.arange(count)
    shape = dot().ravel()
    dots = np.zeros_like(short)
    for middles in (begins[every, first], ends[every, second]):
        windows = (every[:, None], middles[:, None] + WINDOW_STEPS)
        dots[windows] = np.maximum(dots[windows], shape)
    # Rounded to 32 bits as in the source: it decides which way halves go.
    long_ink = (LONG_INK * (canvases.ink / FULL)).astype(np.float32)
    short_ink = (SHORT_INK * (short / FULL)).astype(np.float32)
    ink = np.maximum(np.maximum(long_ink, short_ink), dots / FULL)
    gray = (ink * (FULL / ink.max(axis=1, keepdims=True)) + 0.5).astype(np.uint8)
    pictures = gray.reshape(-1, SIDE, SIDE)[:, REACH:-REACH, REACH:-REACH]
    return np.ascontiguousarray(pictures), labels


def _grow_pairs(rules: CurveRules, count: int, draws: Draws) -> tuple[Canvases, np.ndarray, np.ndarray]:
    """`count` canvases with two long curves each, and the places where these begin and end, of shape (count, 2).

    Raises:
        ValueError: if hardly any pair of curves can be drawn.
    """
    grown: list[tuple[np.ndarray, ...]] = []
    found = 0
    while found < count:
        tried = len(grown) * BATCH
        if tried >= TRIED_BEFORE_GIVING_UP and found < tried * MIN_SHARE:
            raise ValueError(
                f"rules must let curves grow, but of {tried:,} pairs only {found} found room for contour_length = "
                f"{rules.contour_length} dashes with continuity = {rules.continuity}"
            )
        canvases = Canvases.blank(BATCH)
        curves, begins = _begin_pairs(rules, canvases, draws)
        for _ in range(rules.contour_length - 1):
            for curve in curves:
                extend(canvases, strokes(rules.continuity), curve, draws)
            alive = curves[0].alive & curves[1].alive
            curves[0].alive, curves[1].alive = alive, alive.copy()
        # As in the source, the last dash of the first curve leaves its room to the short curves.
        finish(canvases, strokes(rules.continuity), curves[1])
        ends = np.stack([curve.tips for curve in curves], axis=1)
        grown.append((canvases.ink[alive], canvases.room[alive], begins[alive], ends[alive]))
        found += len(grown[-1][0])
    ink, room, begins, ends = (np.concatenate(parts)[:count] for parts in zip(*grown, strict=True))
    return Canvases(ink, room), begins, ends


def _begin_pairs(rules: CurveRules, canvases: Canvases, draws: Draws) -> tuple[tuple[Curves, Curves], np.ndarray]:
    """The first dashes of two curves, and their outer ends."""
    table = strokes(rules.continuity)
    count = len(canvases.room)
    # The first curve begins in the middle, where the second has room on every side.
    middle = np.full((SIDE, SIDE), FULL, dtype=np.uint8)
    margin = REACH + 2 * SEED_DISTANCE
    middle[margin:-margin, margin:-margin] = 0
    # In another direction it could not begin.
    possible = np.sort(np.concatenate([degrees for _, degrees in table.starts]))
    degrees = np.stack([possible[draws.integers(len(possible), count)], draws.integers(DEGREES, count)])
    room = np.broadcast_to(middle.ravel(), canvases.room.shape)
    tips = find_starts(room, table, degrees[0], draws.fractions(count))
    steps = np.rint(tips + _CIRCLE[draws.integers(DEGREES, count)]).astype(np.int64)
    others = np.where(tips >= 0, steps, -1)
    begins = np.stack([place(*tips.T), place(*others.T)], axis=1)
    return (begin(canvases, table, tips, degrees[0]), begin(canvases, table, others, degrees[1])), begins


def _grow_distractors(rules: CurveRules, room: np.ndarray, draws: Draws) -> np.ndarray:
    """The ink of the short curves that go where `room` is left, which they take."""
    table = strokes(rules.continuity)
    dashes = rules.contour_length // 3
    canvases = Canvases(np.zeros_like(room), room)
    for _ in range(DISTRACTOR_DASHES // dashes):
        missing = np.arange(len(room))
        for _ in range(DISTRACTOR_TRIES):
            tried = canvases.take(missing)
            degrees = draws.integers(DEGREES, len(missing))
            tips = find_starts(tried.room, table, degrees, draws.fractions(len(missing)))
            curve = begin(tried, table, tips, degrees)
            for _ in range(dashes - 1):
                extend(tried, table, curve, draws)
            finish(tried, table, curve)
            canvases.put(missing[curve.alive], tried, curve.alive)
            missing = missing[~curve.alive]
    return canvases.ink
