"""Small `.npy` files: the numbers of one face, without NumPy's 60 microseconds a file.

Names and small files by the thousand: what one call for each would take too long for.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"\x93NUMPY\x01\x00"
_MAX_BYTES = 64 << 10


class NpyScalars:
    """Read files of one number each; remembers those seen, as labels repeat endlessly."""

    def __init__(self) -> None:
        self._seen: dict[bytes, float | str] = {}

    def read(self, data: bytes) -> float | str:
        """Return the number, or a sentence that tells why there is none.

        Strings, bytes, floats and integers count, of shape () or (1,). NaN and infinities come
        back as they are.
        """
        value = self._seen.get(data)
        if value is None:
            value = _read_scalar(data)
            if len(self._seen) >= 1 << 16:
                self._seen.clear()
            if len(data) <= 1024:
                self._seen[data] = value
        return value


def _read_scalar(data: bytes) -> float | str:
    text = _plain_text(data)
    if text is None:
        array = load_array(data)
        if isinstance(array, str):
            return array
        if array.shape not in ((), (1,)):
            return f"an array of shape {array.shape} where one number was due"
        if array.dtype.kind not in "UTSfiu":
            return f"an array of type {array.dtype} where a number was due"
        value = array.reshape(-1)[0]
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    try:
        if "_" in text:  # Python takes 1_0 for 10; no release writes that
            raise ValueError
        return float(text)
    except (ValueError, OverflowError):
        return f"{text[:40]!r} is no number"


def _plain_text(data: bytes) -> str | None:
    """Read the form that AffectNet has, a 0-d unicode string; None for anything else."""
    begin = plain_text_header(data)
    if begin is None:
        return None
    try:
        return data[begin:].decode("utf-32-le").rstrip("\0")
    except UnicodeDecodeError:
        return None


def plain_text_header(data: bytes) -> int | None:
    """Return where the text of one little-endian unicode string begins; None for other arrays."""
    if data[:8] != _MAGIC:
        return None
    begin = 10 + int.from_bytes(data[8:10], "little")
    header = data[10:begin]
    if header[:13] != b"{'descr': '<U":
        return None
    digits, _, rest = header[13:].partition(b"'")
    if rest.strip() not in (
        b", 'fortran_order': False, 'shape': (), }",
        b", 'fortran_order': False, 'shape': (1,), }",
    ):
        return None
    if not digits.isdigit() or int(digits[:6]) < 1 or len(data) - begin != 4 * int(digits[:6]):
        return None
    return begin


def load_array(data: bytes) -> NDArray[np.generic] | str:
    """Load any array of numbers or text, or return a sentence that tells why it cannot be."""
    if not data:
        return "an empty file"
    if len(data) > _MAX_BYTES:
        return f"{len(data):,} bytes where a few numbers were due"
    if data[:6] != _MAGIC[:6]:
        return "no .npy file"
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # a damaged header makes NumPy raise almost anything
        return " ".join(str(error).split())[:200] or type(error).__name__
    if not isinstance(loaded, np.ndarray):
        return "no .npy file"
    if loaded.dtype.kind == "U":
        # NumPy does not look whether these are characters at all, and fails when one is taken out.
        try:
            loaded.astype(loaded.dtype.newbyteorder("<")).tobytes().decode("utf-32-le")
        except UnicodeDecodeError:
            return "text that is no Unicode"
    return loaded


@lru_cache
def plain_points_header(count: int) -> bytes:
    """Return how a file of `count` (x, y) points begins when NumPy saves float64, as AffectNet's.

    Such a file is this header and `16 * count` bytes; many can be converted at once.
    """
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(2 * count, "<f8"))
    return buffer.getvalue()[: -16 * count]


def read_points(data: bytes, count: int) -> bytes | str:
    """Return `count` (x, y) points as float32 bytes, or a sentence that tells why there are none.

    The array may have any shape of 2 * `count` elements, x and y interleaved.
    """
    loaded = load_array(data)
    if isinstance(loaded, str):
        return loaded
    if loaded.size != 2 * count:
        return f"{loaded.size} numbers where {2 * count} were due"
    if loaded.dtype.kind not in "UTSfiu":
        return f"an array of type {loaded.dtype} where numbers were due"
    try:
        points = loaded.astype(np.float64).reshape(1, -1)
    except (ValueError, OverflowError):
        return "text that is no numbers"
    single, finite = to_single(points)
    return single.tobytes() if finite.all() else "coordinates that are no finite numbers"


def to_single(points: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Convert rows of coordinates to float32, and tell which rows are finite in it."""
    with np.errstate(over="ignore", invalid="ignore"):
        single = points.astype("<f4")
    return single, np.isfinite(single).all(axis=1)


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
