"""Images of a release that are read again when the dataset is written, and faces made of them."""

import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from affectnet.data.readers.annotations import Bad
from affectnet.data.readers.archive import Spool
from affectnet.data.readers.part import ORPHAN_ANNOTATION, UNDECODABLE
from affectnet.data.readers.tarscan import MAX_MEMBER
from affectnet.errors import DataError

_QUALITY = 95


class Scratch:
    """The temporary files that the parts of a release share: images made here, and landmarks."""

    def __init__(self, folder: Path) -> None:
        self.images = Spool(folder)
        self.landmarks = Spool(folder)

    def close(self) -> None:
        """Give the room back."""
        self.images.close()
        self.landmarks.close()


class PathImages:
    """Images that lie in files of their own, and are read there again."""

    def __init__(self) -> None:
        self.name = "the images"
        self.paths: list[str] = []

    def read_into(
        self, places: Sequence[int], sizes: Sequence[int], target: memoryview, begins: Sequence[int]
    ) -> None:
        """Read images again; raises `DataError` where one has changed."""
        for place, size, begin in zip(places, sizes, begins, strict=True):
            path = Path(self.paths[place])
            try:
                data = path.read_bytes()
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            if len(data) != size:
                raise DataError(f"{path} changed while it was read; leave it alone and repeat")
            target[begin : begin + size] = data

    def close(self) -> None:
        """Forget the files."""
        self.paths.clear()


class SpoolImages:
    """Images in a temporary file."""

    def __init__(self, spool: Spool) -> None:
        self.name = "the temporary file"
        self._spool = spool

    def read_into(
        self, places: Sequence[int], sizes: Sequence[int], target: memoryview, begins: Sequence[int]
    ) -> None:
        """Read images again."""
        for place, size, begin in zip(places, sizes, begins, strict=True):
            self._spool.read_into(place, target[begin : begin + size])

    def close(self) -> None:
        """Give the room back."""
        self._spool.close()


def read_image(path: Path) -> bytes:
    """Read an image file.

    Raises:
        Bad: it is missing, no regular file (a pipe would wait for ever), too large or unreadable.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise Bad(ORPHAN_ANNOTATION, f"{path.name} is no regular file")
        if found.st_size > MAX_MEMBER:
            raise Bad(UNDECODABLE, f"{found.st_size:,} bytes; at most {MAX_MEMBER:,} are read")
        return path.read_bytes()
    except FileNotFoundError:
        raise Bad(ORPHAN_ANNOTATION, f"there is no file {path.name}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise Bad(ORPHAN_ANNOTATION, f"{path.name!r} cannot be read: {reason}") from None


def encode_face(face: NDArray[np.uint8]) -> bytes:
    """Encode a face that ingest made: JPEG of quality 95, colours at full resolution."""
    made: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(face), _QUALITY, "RGB", colorsubsampling="444"
    )
    return made
