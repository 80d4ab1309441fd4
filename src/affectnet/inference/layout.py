"""Places for labels, tags and the circumplex that cover no face: rectangles only, nothing drawn."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from affectnet.data.crop import Box

Size = tuple[float, float]
_SLIDES = (0.0, 1.0, 0.5, 0.25, 0.75)
"""Where a label is along the edge of its box: at its start, at its end, in the middle, between."""


class Label(NamedTuple):
    """A label in its place: which of its `choices` is used, and where that is in pixels."""

    choice: int
    place: Box


def clip(box: Box, size: Size) -> Box:
    """Return the visible part of a box; one pixel at the border where it is outside the picture."""
    left, top = (min(max(0.0, at), side - 1.0) for at, side in zip(box[:2], size, strict=True))
    right = min(max(left + 1.0, box.x + box.width), float(size[0]))
    bottom = min(max(top + 1.0, box.y + box.height), float(size[1]))
    return Box(left, top, right - left, bottom - top)


def place_labels(
    size: Size, boxes: Sequence[Box], choices: Sequence[Sequence[Size]], gap: float
) -> list[Label | None]:
    """Find a place for the label of each face: next to its box, on no face and no other label.

    The larger choices are taken as long as that leaves no more faces without a label.

    Args:
        size: width and height of the picture.
        boxes: all faces, in pixels.
        choices: sizes of each face's label, the preferred one first, as many for each.
        gap: pixels between a label and a box.

    Returns:
        One label per face, None where there is no room.
    """
    if not boxes:
        return []
    boxes = [clip(box, size) for box in boxes]
    plans = [_plan(size, boxes, choices, gap, first) for first in range(len(choices[0]))]
    return min(plans, key=lambda plan: plan.count(None))


def _plan(
    size: Size, boxes: Sequence[Box], choices: Sequence[Sequence[Size]], gap: float, first: int
) -> list[Label | None]:
    """Place the labels one by one, without the choices before the `first`."""
    taken = np.empty((2 * len(boxes), 4))
    count = len(boxes)
    taken[:count] = np.array(boxes) + np.array((-1, -1, 2, 2))
    plan: list[Label | None] = []
    for box, sizes in zip(boxes, choices, strict=True):
        found = None
        for choice in range(first, len(sizes)):
            places = _around(size, box, sizes[choice], gap)
            if len(free := places[_are_free(places, taken[:count])]):
                found = Label(choice, Box(*map(float, free[0])))
                taken[count] = free[0]
                count += 1
                break
        plan.append(found)
    return plan


def _around(size: Size, box: Box, label: Size, gap: float) -> NDArray[np.float64]:
    """Return the places inside the picture next to a box, (n, 4): above, below, right, left."""
    (x, y, w, h), (wide, high) = box, label
    across = [min(max(0.0, x + s * (w - wide)), size[0] - wide) for s in _SLIDES]
    across += [min(max(0.0, x + 0.8 * w), size[0] - wide), max(0.0, x + 0.2 * w - wide)]
    down = [min(max(0.0, y + s * (h - high)), size[1] - high) for s in _SLIDES]
    spots = [(left, top) for top in (y - gap - high, y + h + gap) for left in across]
    spots += [(left, top) for left in (x + w + gap, x - gap - wide) for top in down]
    corners = np.array(spots)
    inside = (corners >= 0).all(axis=1)
    inside &= (corners + np.array(label) <= np.array(size)).all(axis=1)
    places = [(*corner, wide, high) for corner in corners[inside]]
    return np.array(places).reshape(-1, 4)


def _are_free(
    places: NDArray[np.float64], taken: Sequence[Box] | NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Whether each place (n, 4) is apart from all that is taken (m, 4), (n,)."""
    if len(taken) == 0:
        return np.ones(len(places), bool)
    a, b = places[:, None, :], np.asarray(taken)[None, :, :]
    apart = (a[..., :2] >= b[..., :2] + b[..., 2:]) | (b[..., :2] >= a[..., :2] + a[..., 2:])
    free: NDArray[np.bool_] = apart.any(axis=2).all(axis=1)
    return free


def place_tags(size: Size, boxes: Sequence[Box], tags: Sequence[Size]) -> list[Box | None]:
    """Find a corner inside each box, on no other tag, for the number of a face without a label.

    None where the box is too small, or other tags cover its corners.
    """
    taken: list[Box] = []
    found: list[Box | None] = []
    for box, (wide, high) in zip((clip(box, size) for box in boxes), tags, strict=True):
        right, bottom = box.x + box.width - wide, box.y + box.height - high
        corners = [(box.x, box.y), (right, box.y), (box.x, bottom), (right, bottom)]
        places = np.array([(*corner, wide, high) for corner in corners])
        free = places[_are_free(places, taken)]
        fits = len(free) and wide <= box.width / 2 and high <= box.height / 2
        found.append(Box(*map(float, free[0])) if fits else None)
        taken += [found[-1]] if found[-1] is not None else []
    return found


def free_corner(size: Size, side: float, gap: float, taken: Sequence[Box]) -> Box | None:
    """Return a square in a corner of the picture, the lower right one first, that covers nothing.

    Args:
        size: width and height of the picture.
        side: of the square.
        gap: to the border of the picture.
        taken: faces and labels.
    """
    right, low = size[0] - side - gap, size[1] - side - gap
    if min(right, low) < gap:
        return None
    corners = [(right, low), (gap, low), (right, gap), (gap, gap)]
    places = np.array([(*corner, side, side) for corner in corners])
    free = places[_are_free(places, taken)]
    return Box(*map(float, free[0])) if len(free) else None
