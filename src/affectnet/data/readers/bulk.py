"""Many small files at once: names, labels, landmarks and JPEG headers, read by NumPy.

A call per file would take too long for a release of a million files.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from affectnet.data.images import MAX_PIXELS
from affectnet.data.readers.annotations import parse_number, to_single

_MOST_FOLDERS = 16
_WIDEST = 256
_STEPS = 40
_START, _END, _SCAN = 0xD8, 0xD9, 0xDA
_FRAMES = np.zeros(256, bool)
_FRAMES[[0xC0, 0xC1, 0xC2]] = True  # baseline, extended and progressive, Huffman-coded
_SKIPPED = np.zeros(256, bool)
_SKIPPED[[0xC4, 0xDB, 0xDD, 0xFE, 0xE0, *range(0xE2, 0xF0)]] = True
"""Tables, restart interval, comments and application data, skipped by their length; EXIF data
(0xE1) may state an orientation."""


@dataclass(frozen=True, slots=True)
class NameGroup:
    """Files of one folder with one ending: their places in the list, and their stems."""

    folder: bytes
    ending: bytes
    members: NDArray[np.int64]
    stems: list[bytes]


def group_names(
    names: Sequence[bytes], endings: Sequence[bytes]
) -> tuple[list[NameGroup], NDArray[np.int64]]:
    """Sort paths by folder and ending.

    Args:
        names: n paths without NUL.
        endings: 1 to 8 bytes each, none the end of another.

    Returns:
        The groups, and the places of the paths in no group: other endings, hidden files, files
        without a stem or folder, very long paths, and too many folders.
    """
    none = np.arange(len(names))
    if not names or max(map(len, names)) > _WIDEST:
        return [], none
    texts = np.array(names, np.bytes_)
    width = texts.dtype.itemsize
    if width < 8:
        return [], none
    letters = texts.view(np.uint8).reshape(len(names), width)
    length = np.count_nonzero(letters, axis=1)
    slash = width - 1 - np.argmax(letters[:, ::-1] == ord("/"), axis=1)
    last = np.take_along_axis(letters, np.maximum(length[:, None] - 8 + np.arange(8), 0), axis=1)
    ends = last.view("<u8").ravel()
    first = np.take_along_axis(letters, np.minimum(slash + 1, width - 1)[:, None], axis=1).ravel()
    usable = (letters[none, slash] == ord("/")) & (length >= 8) & (first != ord("."))
    left = usable.copy()
    groups: list[NameGroup] = []
    for _ in range(_MOST_FOLDERS):
        rest = np.flatnonzero(left)
        if not len(rest):
            break
        cut = int(slash[rest[0]])
        folder = letters[rest[0], :cut]
        here = rest[(slash[rest] == cut) & (letters[rest, :cut] == folder).all(axis=1)]
        left[here] = False
        for ending in endings:
            shift = np.uint64(8 * (8 - len(ending)))
            wanted = np.uint64(int.from_bytes(ending, "little"))
            stem = length[here] - cut - 1 - len(ending)
            chosen = (ends[here] >> shift == wanted) & (stem > 0)
            members = here[chosen]
            if len(members):
                stems = _stems(letters[members, cut + 1 :], stem[chosen])
                groups.append(NameGroup(folder.tobytes(), ending, members, stems))
                usable[members] = False
                none[members] = -1
    return groups, none[none >= 0]


def _stems(files: NDArray[np.uint8], lengths: NDArray[np.int64]) -> list[bytes]:
    """Return the first letters of each row."""
    longest = int(lengths.max())
    stems = np.where(np.arange(longest) < lengths[:, None], files[:, :longest], 0)
    found: list[bytes] = np.ascontiguousarray(stems, np.uint8).view(f"S{longest}").ravel().tolist()
    return found


def _gather(data: memoryview, starts: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """Return pieces of one size, uint8 (n, size)."""
    pieces = b"".join([data[start : start + size] for start in starts.tolist()])
    return np.frombuffer(pieces, np.uint8).reshape(-1, size)


def plain_numbers(
    data: memoryview, starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read `.npy` files of one number each that have AffectNet's form: a 0-d Unicode string.

    Returns:
        The numbers, float64 (n,), and which files were read, bool (n,); the others contain a number
        in another form, or none.
    """
    headers = _text_headers()
    begin = headers.shape[1]
    letters, odd = np.divmod(sizes - begin, 4)
    read = (letters > 0) & (letters < len(headers)) & (odd == 0)
    at = np.flatnonzero(read)
    read[at] = (_gather(data, starts[at], begin) == headers[letters[at]]).all(axis=1)
    at = np.flatnonzero(read)
    numbers = np.zeros(len(starts))
    spans = zip((starts[at] + begin).tolist(), (starts[at] + sizes[at]).tolist(), strict=True)
    text = b"".join([data[a:b] for a, b in spans]).decode("utf-32-le", "replace")
    ends = np.cumsum(letters[at]).tolist()
    texts = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    try:
        if "_" in text:  # Python reads 1_0 as 10; no release writes that
            raise ValueError
        numbers[at] = [float(text) for text in texts]
    except ValueError:  # one of them is not a number, or is padded
        for i, text in zip(at.tolist(), texts, strict=True):
            number = parse_number(text.rstrip("\0"))
            numbers[i], read[i] = 0 if number is None else number, number is not None
    return numbers, read


@cache
def _text_headers() -> NDArray[np.uint8]:
    """Return the bytes before the text in files of 0 to 32 letters, uint8 (33, 128)."""
    headers = np.zeros((33, 128), np.uint8)
    for letters in range(1, len(headers)):
        header = _as_npy(np.array("", f"<U{letters}"))[: -4 * letters]
        if len(header) == headers.shape[1]:
            headers[letters] = np.frombuffer(header, np.uint8)
    return headers


def plain_points(
    data: memoryview, starts: NDArray[np.int64], sizes: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read `.npy` files of `count` (x, y) points that have AffectNet's form: 1-D float64.

    Returns:
        The points of the files that were read, float32 (m, 2 * `count`), and which files these are,
        bool (n,); the others have another form, or numbers that are not finite.
    """
    header = np.frombuffer(_points_header(count), np.uint8)
    read = sizes == len(header) + 16 * count
    files = _gather(data, starts[read], len(header) + 16 * count)
    same = (files[:, : len(header)] == header).all(axis=1)
    single, finite = to_single(np.ascontiguousarray(files[:, len(header) :]).view("<f8"))
    read[read] = same & finite
    return single[same & finite], read


@cache
def _points_header(count: int) -> bytes:
    """Return the bytes before the `16 * count` bytes of numbers."""
    return _as_npy(np.zeros(2 * count, "<f8"))[: -16 * count]


def _as_npy(array: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def have_sound_headers(
    data: memoryview, starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Find the images that are JPEGs without EXIF data, with a sound header and their end marker.

    A header is sound when its segments follow one another by their lengths up to the first scan,
    with one frame header that gives 1, 3 or 4 components and a size of 1 to 64 million pixels.
    Damage after the header is not noticed; an image without a sound header may still decode.

    Image i is `data[starts[i] : starts[i] + sizes[i]]`. Returns bool (n,).
    """
    octets = np.frombuffer(data, np.uint8)
    sound = np.zeros(len(starts), bool)
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
        # A segment: 0xFF, its kind, and a length of two bytes, which includes itself.
        kind = octets[position + 1]
        length = octets[position + 2].astype(np.int64) << 8 | octets[position + 3]
        after = position + 2 + length
        marked = (octets[position] == 0xFF) & (length >= 2) & (after + 8 < ends)
        sound[rows[marked & (kind == _SCAN) & frame]] = True
        new_frame = marked & _FRAMES[kind] & ~frame
        new_frame[new_frame] = _sound_frames(octets, position[new_frame], length[new_frame])
        continues = new_frame | (marked & _SKIPPED[kind])
        frame = (frame | new_frame)[continues]
        rows, position, ends = rows[continues], after[continues], ends[continues]
    return sound


def _sound_frames(
    octets: NDArray[np.uint8], position: NDArray[np.int64], length: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Find the frame headers with a readable size: precision, height, width, components."""
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
