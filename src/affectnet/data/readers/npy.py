"""Small `.npy` files: the numbers of one face, without NumPy's 60 microseconds a file."""

import io
from functools import lru_cache

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
