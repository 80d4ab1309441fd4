"""Where the faces of a film are: whole frames searched at intervals, faces followed in between.

A face seen in two searched frames is looked for around the line between its two boxes, at a small
size; one seen in only one of them (it enters, leaves, or the film is cut), around that box. So the
boxes are the detector's own in every frame, at a tenth of the cost.
"""

import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from affectnet.data.crop import Box
from affectnet.inference.detector import Candidate, FaceDetector
from affectnet.inference.tracks import MIN_OVERLAP, Floats, overlap
from affectnet.inference.video_reader import Frame, Lost
from affectnet.threads import ordered_map

Search = Literal["follow", "every"]

INTERVAL: Final = 0.2
"""Seconds, at most, between two frames that are searched whole. A face that is in sight for less
may be missed; films of up to five frames per second are searched in every frame."""
_ROOM, _MORE_ROOM = 1.75, 2.5
_SAME_FACE = 0.5


@dataclass(frozen=True, slots=True)
class Found:
    """A frame and its faces; where `faces` is None, those of the searched frames around it."""

    frame: Frame | Lost
    faces: Sequence[Candidate] | None
    before: "Found | None" = None
    after: "Found | None" = None


def find_faces(
    frames: Iterable[Frame | Lost],
    detector: FaceDetector | None,
    how: Search,
    workers: int,
    most: int,
) -> Generator[Found, None, None]:
    """Yield the frames in order; those searched whole with their faces, the others for `follow`.

    Args:
        frames: in order, from `VideoReader.frames`.
        detector: used in `workers` threads; None where no faces are to be found.
        how: `every` searches every frame.
        workers: threads.
        most: frames from one searched frame to the next, at most; they are in memory.
    """

    def detect(item: tuple[Frame | Lost, bool]) -> Found:
        frame, whole = item
        if detector is None or isinstance(frame, Lost):
            return Found(frame, ())
        return Found(frame, detector.detect(frame.pixels) if whole else None)

    before: Found | None = None
    between: list[Found] = []
    for found in ordered_map(detect, _chosen(frames, how, most), workers, ahead=workers + 1):
        if found.faces is None or (isinstance(found.frame, Lost) and between):
            between.append(found)
            continue
        for one in between:
            yield one if one.faces is not None else Found(one.frame, None, before, found)
        between = []
        yield found
        before = found if isinstance(found.frame, Frame) else before
    # The last frame is searched whole, too.
    open_ended = [i for i, one in enumerate(between) if one.faces is None]
    if open_ended:
        between[open_ended[-1]] = after = detect((between[open_ended[-1]].frame, True))
        for one in between:
            yield Found(one.frame, None, before, after) if one.faces is None else one


def _chosen(
    frames: Iterable[Frame | Lost], how: Search, most: int
) -> Generator[tuple[Frame | Lost, bool], None, None]:
    """Yield each frame, and whether to search it whole."""
    last, count = -math.inf, 0
    for frame in frames:
        whole = how == "every" or frame.time - last >= INTERVAL - 1e-6 or count >= most
        whole = whole and isinstance(frame, Frame)
        last, count = (frame.time, 1) if whole else (last, count + 1)
        yield frame, whole


def follow(detector: FaceDetector, found: Found) -> Sequence[Candidate]:
    """Return the faces of a frame, looked for where the frames around it have theirs.

    Where a face that both of these frames show is not found, the whole frame is searched.
    """
    if found.faces is not None or isinstance(found.frame, Lost):
        return found.faces or ()
    pixels = found.frame.pixels
    followed: list[Candidate] = []
    for box, in_both in _expected(found):
        room = _ROOM if in_both else _MORE_ROOM
        seen = detector.detect_around(pixels, box, room)
        likely = max(seen, key=lambda face: _iou(face.box, box), default=None)
        if likely is not None and _iou(likely.box, box) >= MIN_OVERLAP:
            followed.append(likely)
        elif in_both:
            return detector.detect(pixels)
    followed.sort(key=lambda face: -(face.score or 0.0))
    single: list[Candidate] = []
    for face in followed:  # two neighbours may both have led to one face
        if all(_iou(face.box, other.box) < _SAME_FACE for other in single):
            single.append(face)
    return sorted(single, key=lambda face: -face.box.width * face.box.height)


def _expected(found: Found) -> list[tuple[Box, bool]]:
    """Return where to look for faces, and whether both of the frames around show them."""
    sides = (found.before, found.after)
    one, other = ([face.box for face in side.faces or ()] if side else [] for side in sides)
    boxes: list[tuple[Box, bool]] = []
    if one and other and found.before and found.after:
        span = found.after.frame.time - found.before.frame.time
        part = (found.frame.time - found.before.frame.time) / span if span > 0 else 0.5
        overlaps = overlap(_centred(one), _centred(other))
        pairs = [
            (i, j)
            for i, j in zip(*linear_sum_assignment(-overlaps), strict=True)
            if overlaps[i, j] >= MIN_OVERLAP
        ]
        for i, j in pairs:
            mean = [a + part * (b - a) for a, b in zip(one[i], other[j], strict=True)]
            boxes.append((Box(*mean), True))
        one = [box for i, box in enumerate(one) if i not in {i for i, _ in pairs}]
        other = [box for j, box in enumerate(other) if j not in {j for _, j in pairs}]
    return boxes + [(box, False) for box in (*one, *other)]


def _centred(boxes: Sequence[Box]) -> Floats:
    return np.array([(x + w / 2, y + h / 2, w, h) for x, y, w, h in boxes])


def _iou(a: Box, b: Box) -> float:
    return float(overlap(_centred([a]), _centred([b]))[0, 0])
