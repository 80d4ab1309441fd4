"""Small `.npy` files: the numbers of one face, without NumPy's 60 microseconds a file."""

import io
import math

import numpy as np
from numpy.typing import NDArray

_MAGIC = b"\x93NUMPY\x01\x00"
_MAX_BYTES = 64 << 10
_UTF_32 = {"<": "utf-32-le", ">": "utf-32-be"}


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
    if data[:8] != _MAGIC:
        return None
    begin = 10 + int.from_bytes(data[8:10], "little")
    header = data[10:begin]
    codec = _UTF_32.get(header[11:12].decode("latin-1"))
    if codec is None or header[:11] != b"{'descr': '" or header[12:13] != b"U":
        return None
    digits, _, rest = header[13:].partition(b"'")
    if rest.strip() not in (
        b", 'fortran_order': False, 'shape': (), }",
        b", 'fortran_order': False, 'shape': (1,), }",
    ):
        return None
    if not digits.isdigit() or len(data) - begin != 4 * int(digits[:6]):
        return None
    try:
        return data[begin:].decode(codec).rstrip("\0")
    except UnicodeDecodeError:
        return None


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
    return loaded if isinstance(loaded, np.ndarray) else "no .npy file"


def read_points(data: bytes, count: int) -> bytes | str:
    """Return `count` (x, y) points as float32 bytes, or a sentence that tells why there are none.

    The array may have any shape of 2 * `count` elements, x and y interleaved.
    """
    points = _plain_points(data, count)
    if points is None:
        loaded = load_array(data)
        if isinstance(loaded, str):
            return loaded
        if loaded.size != 2 * count:
            return f"{loaded.size} numbers where {2 * count} were due"
        if loaded.dtype.kind not in "UTSfiu":
            return f"an array of type {loaded.dtype} where numbers were due"
        try:
            points = loaded.astype(np.float64)
        except (ValueError, OverflowError):
            return "text that is no numbers"
    with np.errstate(over="ignore"):
        single = points.astype("<f4").tobytes()
    if not math.isfinite(float(np.frombuffer(single, "<f4").sum(dtype=np.float64))):
        return "coordinates that are no finite numbers"
    return single


def _plain_points(data: bytes, count: int) -> NDArray[np.generic] | None:
    """Read float64 or float32 points in C order; None for anything else."""
    if data[:8] != _MAGIC:
        return None
    begin = 10 + int.from_bytes(data[8:10], "little")
    header = data[10:begin].rstrip()
    for kind, width in (("<f8", 8), ("<f4", 4)):
        if (
            header
            == (
                f"{{'descr': '{kind}', 'fortran_order': False, 'shape': ({2 * count},), }}".encode()
            )
            and len(data) - begin == 2 * count * width
        ):
            return np.frombuffer(data, kind, 2 * count, begin)
    return None
