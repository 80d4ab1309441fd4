"""Names and small files by the thousand: what one call for each would take too long for."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from affectnet.data.readers.npy import plain_points_header, to_single

_MOST_FOLDERS = 16
_WIDEST = 256


@dataclass(frozen=True, slots=True)
class Group:
    """Files of one folder with one ending: their places in the list, and what stands between."""

    folder: bytes
    ending: bytes
    members: NDArray[np.int64]
    stems: list[bytes]


def group_names(
    names: Sequence[bytes], endings: Sequence[bytes]
) -> tuple[list[Group], NDArray[np.int64]]:
    """Sort paths by folder and ending.

    Args:
        names: n paths without NUL.
        endings: of 1 to 8 bytes each, none the end of another.

    Returns:
        The groups; and the paths that are in none, by their places: of other endings, hidden
        files, files without a stem or folder, very long paths, and of too many folders.
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
    groups: list[Group] = []
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
                groups.append(Group(folder.tobytes(), ending, members, stems))
                usable[members] = False
                none[members] = -1
    return groups, none[none >= 0]


def _stems(files: NDArray[np.uint8], lengths: NDArray[np.int64]) -> list[bytes]:
    """Return the first so many letters of each row."""
    longest = int(lengths.max())
    stems = np.where(np.arange(longest) < lengths[:, None], files[:, :longest], 0)
    found: list[bytes] = np.ascontiguousarray(stems, np.uint8).view(f"S{longest}").ravel().tolist()
    return found


def gather(data: memoryview, starts: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """Return pieces of one size, uint8 (n, size)."""
    pieces = b"".join([data[start : start + size] for start in starts.tolist()])
    return np.frombuffer(pieces, np.uint8).reshape(-1, size)


def plain_numbers(
    data: memoryview, starts: NDArray[np.int64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Read `.npy` files of one number each that are as AffectNet's: a 0-d Unicode string.

    Returns:
        The numbers, float64 (n,), and which files were read, bool (n,); the others may hold
        numbers in another form, or none.
    """
    headers = _text_headers()
    begin = headers.shape[1]
    letters, odd = np.divmod(sizes - begin, 4)
    read = (letters > 0) & (letters < len(headers)) & (odd == 0)
    at = np.flatnonzero(read)
    read[at] = (gather(data, starts[at], begin) == headers[letters[at]]).all(axis=1)
    at = np.flatnonzero(read)
    numbers = np.zeros(len(starts))
    first, behind = (starts[at] + begin).tolist(), (starts[at] + sizes[at]).tolist()
    codes = b"".join([data[a:b] for a, b in zip(first, behind, strict=True)])
    ends = np.cumsum(letters[at]).tolist()
    try:
        texts = codes.decode("utf-32-le")
        if "_" in texts:  # Python takes 1_0 for 10; no release writes that
            raise ValueError
        numbers[at] = [float(texts[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    except ValueError:  # one of them is no number, or is padded: each to be read by itself
        read[:] = False
    return numbers, read


@cache
def _text_headers() -> NDArray[np.uint8]:
    """Return the bytes before the text in files of 0 to 32 letters, uint8 (33, 128)."""
    headers = np.zeros((33, 128), np.uint8)
    for letters in range(1, len(headers)):
        buffer = io.BytesIO()
        np.save(buffer, np.array("", f"<U{letters}"))
        header = buffer.getvalue()[: -4 * letters]
        if len(header) == headers.shape[1]:
            headers[letters] = np.frombuffer(header, np.uint8)
    return headers


def plain_points(
    data: memoryview, starts: NDArray[np.int64], sizes: NDArray[np.int64], count: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read `.npy` files of `count` (x, y) points that are as AffectNet's: float64, all in a row.

    Returns:
        The points of the files that were read, float32 (m, 2 * `count`), and which these are,
        bool (n,); the others have another form, or numbers that are not finite.
    """
    header = np.frombuffer(plain_points_header(count), np.uint8)
    read = sizes == len(header) + 16 * count
    files = gather(data, starts[read], len(header) + 16 * count)
    same = (files[:, : len(header)] == header).all(axis=1)
    single, finite = to_single(np.ascontiguousarray(files[:, len(header) :]).view("<f8"))
    read[read] = same & finite
    return single[same & finite], read
