"""Headers of many JPEGs checked at once: a step of NumPy for all of them, not a call for each."""

import numpy as np
from numpy.typing import NDArray

from affectnet.data.images import MAX_PIXELS

_STEPS = 40
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_FRAMES = np.zeros(256, bool)
_FRAMES[[0xC0, 0xC1, 0xC2]] = True  # baseline, extended and progressive, Huffman-coded
_PASSED = np.zeros(256, bool)
_PASSED[[0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)]] = True
"""Tables, restart interval, comments and applications' own: passed over by their length."""


def look_whole(
    data: memoryview, starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tell which images are JPEGs with a sound header and their end marker.

    A header is sound when its segments follow one another by their lengths up to the first scan,
    with one frame header that gives 1, 3 or 4 components and a size of 1 to 64 million pixels.
    True therefore means what a look at the header can mean: damage behind it is not seen. False
    means only that decoding has to tell.

    Args:
        data: bytes that hold the images.
        starts: where each begins, (n,).
        sizes: how long each is, (n,).

    Returns:
        bool (n,).
    """
    octets = np.frombuffer(data, np.uint8)
    whole = np.zeros(len(starts), bool)
    # The shortest header that passes below is longer than this, so no index leaves the image.
    rows = np.flatnonzero(sizes > 20)
    begins, ends = starts[rows], starts[rows] + sizes[rows]
    right = (
        (octets[begins] == 0xFF)
        & (octets[begins + 1] == _START)
        & (octets[ends - 2] == 0xFF)
        & (octets[ends - 1] == _END)
    )
    rows, position, ends = rows[right], begins[right] + 2, ends[right]
    frame = np.zeros(len(rows), bool)
    for _ in range(_STEPS):
        if not len(rows):
            break
        # A segment: 0xFF, its kind, and two bytes of length, which counts itself.
        kind = octets[position + 1]
        length = octets[position + 2].astype(np.int64) << 8 | octets[position + 3]
        behind = position + 2 + length
        marked = (octets[position] == 0xFF) & (length >= 2) & (behind + 8 < ends)
        whole[rows[marked & (kind == _SCAN) & frame]] = True
        new_frame = marked & _FRAMES[kind] & ~frame
        new_frame[new_frame] = _sound_frames(octets, position[new_frame], length[new_frame])
        going_on = new_frame | (marked & _PASSED[kind])
        frame = (frame | new_frame)[going_on]
        rows, position, ends = rows[going_on], behind[going_on], ends[going_on]
    return whole


def _sound_frames(
    octets: NDArray[np.uint8], position: NDArray[np.int64], length: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Tell which frame headers give a readable size: precision, height, width, components."""
    long_enough = length >= 11
    at = np.where(long_enough, position, 0)
    height = octets[at + 5].astype(np.int64) << 8 | octets[at + 6]
    width = octets[at + 7].astype(np.int64) << 8 | octets[at + 8]
    components = octets[at + 9]
    pixels = height * width
    sound: NDArray[np.bool_] = (octets[at + 4] == 8) & (pixels > 0) & (pixels <= MAX_PIXELS)
    sound &= (components == 1) | (components == 3) | (components == 4)
    sound &= long_enough & (length == 8 + 3 * components.astype(np.int64))
    return sound
