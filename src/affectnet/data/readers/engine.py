"""The engine of all readers: from faces, in any order, to the parts of a release.

A reader yields faces (`Engine.read`), or files of faces in pieces (`Engine.check_images`). Threads
decode the images while the source is being read; the result does not depend on their number.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow as pa
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from affectnet.data.crop import (
    ALIGNMENT,
    alignment,
    crop_face,
    crop_transform,
    eye_centres,
    move_points,
)
from affectnet.data.file_kinds import is_heic
from affectnet.data.images import (
    Pixels,
    decode_image,
    is_complete_jpeg,
    one_large_at_a_time,
    orientation,
)
from affectnet.data.orientation import upright_annotations
from affectnet.data.readers.annotations import Bad, as_unicode, is_plain_text
from affectnet.data.readers.archive import FileImages, ImageStore, Progress, Spool, read_member
from affectnet.data.readers.release_part import (
    WHOLE,
    Dropped,
    FaceTable,
    Fault,
    RawRelease,
    Reason,
    ReleasePart,
)
from affectnet.data.readers.tarscan import HELD, MAX_MEMBER, FileBlock
from affectnet.data.store import N_LANDMARKS
from affectnet.errors import DataError
from affectnet.threads import cores, ordered_map

Points = NDArray[np.float32]
Check = Literal["decode", "header"]
Labels = Literal["majority", "shares"]

_LARGE = 4_000_000
_MOST_THREADS = 16
_FACES_AHEAD = 256
_BYTES_AHEAD = 64 << 20
_BYTES_PER_TASK = 1 << 20
_ROWS_AT_ONCE = 16
_QUALITY, _TURNED_QUALITY = 95, 100
_FILES, _SPOOL = 0, 1  # the first two image stores of every engine


@dataclass(slots=True)
class FaceRecord:
    """One face as an annotation file describes it; None where it states nothing.

    `image` is a file, or the encoded bytes; `landmarks` (68, 2) and `box` (x, y, width, height)
    are in pixels of that image; `extra` has a value for each of the extra columns.
    """

    part: str
    id: str
    image: Path | bytes
    expression: int | None = None
    valence: float | None = None
    arousal: float | None = None
    landmarks: Points | None = None
    soft: NDArray[np.float32] | None = None
    box: tuple[float, float, float, float] | None = None
    extra: tuple[Any, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a release is to be read.

    `scratch` is a folder for temporary files. `check` 'decode' decodes every image; 'header' checks
    the header and the end marker of JPEGs, and decodes only those that fail this and other
    formats. `progress` returns a progress bar for a name. `margin` is the fraction of the face box
    that is added on each side where faces are cropped; `face_size` the side in pixels of faces that
    are cropped or aligned; `align` places the eyes at fixed positions; `class_order` states what
    labels mean (see `Classes`); `labels` how votes become labels (see `read_ferplus`);
    `allow_empty_classes` whether a class folder may be without images (see `read_folder`);
    `allow_outside` whether paths in tables may lead out of the folder of the images; `group` is a
    further column to read, of releases that may have any column.
    """

    scratch: Path
    check: Check
    progress: Callable[[str], Progress]
    margin: float = 0.1
    face_size: int = 224
    align: bool = False
    class_order: tuple[str, ...] = ()
    labels: Labels = "majority"
    allow_empty_classes: bool = False
    allow_outside: bool = False
    group: str | None = None

    def settings(self, cropped: bool) -> dict[str, Any]:
        """Return what `dataset.json` records; `cropped` states that the images are faces already.

        A model's `config.json` needs `alignment` and `margin` too: prediction repeats them.
        """
        return {
            "alignment": ALIGNMENT if self.align else None,
            "margin": None if self.align or cropped else self.margin,
            "face_size": None if cropped and not self.align else self.face_size,
        }

    def edit(self, pixels: Pixels, face: FaceRecord) -> tuple[bytes, Points | None]:
        """Align or crop a face; returns it encoded, with its moved landmarks.

        It becomes a JPEG of quality 95 without colour subsampling.

        Raises:
            Bad: there are no landmarks or no box, or they cannot be used.
        """
        points, box, size = face.landmarks, face.box, self.face_size
        try:
            if self.align:
                if points is None:
                    raise DataError("no landmarks")
                eyes = eye_centres(points)
                transform = alignment(pixels, *eyes, size)
                crop = crop_face(pixels, None, size, landmarks=eyes, alignment=ALIGNMENT)
            else:
                if box is None:
                    raise DataError("no box")
                transform = crop_transform(pixels, box, self.margin, size)
                crop = crop_face(pixels, box, size, margin=self.margin)
        except DataError as error:
            raise Bad(Reason.NO_EYES if self.align else Reason.BAD_BOX, str(error)) from error
        moved = None if points is None else move_points(points, transform)
        return _as_jpeg(crop, _QUALITY), moved


ImageRow = tuple[int, FaceTable, int]
"""Index of an image in its block, and the table and row of its face."""


class BlockImages(NamedTuple):
    """Images of a block of files that one thread checks."""

    block: FileBlock
    images: Sequence[ImageRow]
    last: bool  # the block can be released afterwards


class _Checked(NamedTuple):
    """What a thread found out about a face."""

    face: FaceRecord | Dropped
    fault: Fault | None = None
    data: bytes | None = None  # to be copied; None where the file remains
    size: int = 0
    digest: bytes = b""
    landmarks: Points | None = None
    turned: bool = False


class Edited(NamedTuple):
    """An image that is stored in another form than in the source."""

    data: bytes
    landmarks: Points | None
    orientation: int
    upright: tuple[int, int]
    """Width and height of the image, turned as its EXIF orientation says."""


class Engine:
    """Collects faces, checks their images with threads, and returns the release.

    A context manager: after an error it removes its temporary files. `cropped` states that the
    images are faces already; `columns` are extra columns.
    """

    def __init__(
        self, options: ReadOptions, *, cropped: bool = True, columns: pa.Schema | None = None
    ) -> None:
        self.tables: dict[str, FaceTable] = {}
        self.landmarks = Spool(options.scratch)
        self._files, self._spool = FileImages(), Spool(options.scratch)
        self.sources: list[ImageStore] = [self._files, self._spool]
        self._settings = options.settings(cropped)
        self._edit = options.edit if options.align or not cropped else None
        self._only_header = options.check == "header"
        self._columns = columns

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            for source in [*self.sources, self.landmarks]:
                source.close()

    def table(self, part: str) -> FaceTable:
        """Return the faces of a part, made on first use."""
        if part not in self.tables:
            self.tables[part] = FaceTable(part, self._columns)
        return self.tables[part]

    def read(self, faces: Iterable[FaceRecord | Dropped]) -> None:
        """Collect whole faces, or rows that cannot be used, in order."""
        workers = min(cores(), _MOST_THREADS)
        for checked in ordered_map(self._check_face, faces, workers, _FACES_AHEAD, _cost):
            face, table = checked.face, self.table(checked.face.part)
            if isinstance(face, Dropped):
                table.drop(as_unicode(face.id), face.reason, as_unicode(face.detail))
            elif checked.fault is not None:
                table.drop(face.id, checked.fault[0], as_unicode(checked.fault[1]))
            else:
                row = table.admit(face.id, checked.digest, face.soft, face.extra)
                if row is not None:
                    table.rows[row] = self._row(face, checked)
                    if checked.turned:
                        table.turned.add(row)

    def _row(self, face: FaceRecord, checked: _Checked) -> tuple[float, ...]:
        """Store the image and the landmarks of a face; return its row in `FaceTable.rows`."""
        if checked.data is None:
            path = Path(str(face.image))
            source, place = _FILES, self._files.add(str(path.parent), path.name)
        else:
            source, place = _SPOOL, self._spool.append(checked.data)
        points = -1
        if checked.landmarks is not None:
            points = self.landmarks.append(checked.landmarks.astype("<f4").tobytes())
        return (
            WHOLE,
            source,
            -1 if face.expression is None else face.expression,
            np.nan if face.valence is None else face.valence,
            np.nan if face.arousal is None else face.arousal,
            points,
            place,
            checked.size,
        )

    def check_images(self, groups: Iterable[BlockImages]) -> None:
        """Decode images of blocks of files; release each block once that is done."""
        for group, found in ordered_map(
            self._check_group, groups, cores(), HELD, lambda group: group.last
        ):
            for table, row, result in found:
                if isinstance(result, Edited):
                    image = _SPOOL, self._spool.append(result.data), len(result.data)
                    table.turn(row, image, result.orientation, result.upright)
                else:
                    table.fault(row, *result)
            if group.last:
                group.block.release()

    def release(
        self, name: str, splits: Mapping[str, str], other_files: int = 0, **settings: Any
    ) -> RawRelease:
        """Judge all faces and return the release; see `RawRelease` for the arguments.

        Raises:
            DataError: a part has no usable face.
        """
        if not splits:
            raise DataError(f"the sources contain no face of {name}; give the whole release")
        for part in splits.values():
            if not self.table(part).index:
                raise DataError(f"{part} contains no face; give the whole release")
        parts = {
            part: table.build(self.sources, self.landmarks)
            for part, table in self.tables.items()
            if table.index
        }
        turned = sum(part.turned for part in parts.values())
        settings = self._settings | {"turned": turned} | settings
        return RawRelease(name, parts, splits, self.sources, self.landmarks, other_files, settings)

    def _check_group(
        self, group: BlockImages
    ) -> tuple[BlockImages, list[tuple[FaceTable, int, Fault | Edited]]]:
        block = group.block
        found: list[tuple[FaceTable, int, Fault | Edited]] = []
        for i, table, row in group.images:
            start = block.starts[i]
            try:
                edited = self._decode(block.data[start : start + block.sizes[i]])
            except Bad as bad:
                found.append((table, row, bad.fault))
                continue
            if edited is not None:
                found.append((table, row, edited))
        return group, found

    def _check_face(self, face: FaceRecord | Dropped) -> _Checked:
        """Read and check one image, and crop or align it if required."""
        if isinstance(face, Dropped):
            return _Checked(face)
        if not face.id or not is_plain_text(face.id):
            detail = "an empty id, or one that is not text in UTF-8"
            return _Checked(Dropped(face.part, face.id[:200], Reason.UNREADABLE_ID, detail))
        edited = None
        try:
            data = _read_image(face.image)
            sound = self._only_header and is_complete_jpeg(memoryview(data))
            if self._edit or not sound or orientation(data) > 1:
                edited = self._decode(memoryview(data), face)
        except Bad as bad:
            return _Checked(face, bad.fault)
        digest = _digest(face, data)
        if edited is None:
            stored = None if isinstance(face.image, Path) else data
            return _Checked(face, None, stored, len(data), digest, face.landmarks)
        new, points, turned, _ = edited
        return _Checked(face, None, new, len(new), digest, points, turned > 1)

    def _decode(self, data: memoryview, face: FaceRecord | None = None) -> Edited | None:
        """Decode an image; return its face as it has to be stored, None if that is as it is.

        Faces are cropped or aligned if that is required, and images with an EXIF orientation are
        turned upright, with the landmarks and the box of the face: as a JPEG of quality 100, or as
        a PNG where the image is not a JPEG. HEIC images become such JPEGs, too.

        Raises:
            Bad: it does not decode, or the face cannot be used.
        """
        if not len(data):
            raise Bad(Reason.UNDECODABLE, "an empty file")
        # Large images take a few hundred megabytes each: one at a time.
        with one_large_at_a_time(data, _LARGE):
            try:
                pixels = decode_image(data)
            except DataError as error:
                detail = str(error).removeprefix("the image cannot be decoded: ")
                reason = Reason.TRUNCATED if _ends_early(data) else Reason.UNDECODABLE
                raise Bad(reason, detail) from error
            turned, upright = orientation(data), (pixels.shape[1], pixels.shape[0])
            points = None
            if face is not None:
                points, box = upright_annotations(face.landmarks, face.box, turned, upright)
                if self._edit:
                    face = replace(face, landmarks=points, box=box)
                    return Edited(*self._edit(pixels, face), turned, upright)
            heic = is_heic(data)  # a dataset must not need a package to be read
            if turned == 1 and not heic:
                return None
            encode = _as_jpeg if heic or bytes(data[:2]) == b"\xff\xd8" else _as_png
            return Edited(encode(pixels), points, turned, upright)


def split_block(block: FileBlock, images: Sequence[ImageRow]) -> Iterator[BlockImages]:
    """Divide the images of a block among threads; a block without images is released."""
    if not images:
        block.release()
        return
    first, size = 0, 0
    for number, (i, _, _) in enumerate(images, 1):
        size += block.sizes[i]
        if size >= _BYTES_PER_TASK or number == len(images):
            yield BlockImages(block, images[first:number], number == len(images))
            first, size = number, 0


def align_release(release: RawRelease, options: ReadOptions) -> RawRelease:
    """Align the faces of a release that was read without; the old release is closed.

    Faces without landmarks are dropped.

    Raises:
        DataError: no face of a part can be aligned.
    """
    with release, Engine(options) as engine:
        for name, part in release.parts.items():
            engine.read(_stored_faces(part, options.progress(f"aligning {name}")))
            engine.table(name).dropped += part.dropped
        return engine.release(release.name, release.splits, release.other_files, **release.settings)


def _stored_faces(part: ReleasePart, progress: Progress) -> Iterator[FaceRecord]:
    for first in range(0, len(part), _ROWS_AT_ONCE):
        rows = np.arange(first, min(first + _ROWS_AT_ONCE, len(part)))
        landmarks, absent = part.landmarks(rows)
        images = part.images(rows)
        progress(first, len(part))
        for i, row in enumerate(rows.tolist()):
            yield FaceRecord(
                part.name,
                part.ids[row],
                images[i],
                int(part.expression[row]),
                float(part.valence[row]),
                float(part.arousal[row]),
                None if absent[i] else landmarks[i].reshape(N_LANDMARKS, 2),
            )


def _as_jpeg(pixels: Pixels, quality: int = _TURNED_QUALITY) -> bytes:
    """Encode as a JPEG without colour subsampling."""
    encoded: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality, "RGB", colorsubsampling="444"
    )
    return encoded


def _as_png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _cost(face: FaceRecord | Dropped) -> float:
    """Return how much of `_FACES_AHEAD` a face takes."""
    image = face.image if isinstance(face, FaceRecord) else None
    return max(1, len(image) * _FACES_AHEAD / _BYTES_AHEAD) if isinstance(image, bytes) else 1


def _read_image(image: Path | bytes) -> bytes:
    """Return the bytes of an image.

    Raises:
        Bad: the file cannot be read, or is too large.
    """
    data: bytes | None = None
    if isinstance(image, bytes):
        data, size = image, len(image)
    else:
        try:
            data, size = read_member(image)
        except FileNotFoundError:
            raise Bad(Reason.ORPHAN_ANNOTATION, f"there is no file {image.name}") from None
        except (OSError, ValueError) as error:
            cause = error.strerror if isinstance(error, OSError) else error
            detail = f"{image.name!r} cannot be read: {cause}"
            raise Bad(Reason.ORPHAN_ANNOTATION, detail) from None
    if data is None or size > MAX_MEMBER:
        raise too_large(size)
    return data


def too_large(size: int) -> Bad:
    """Make the fault of a file that is too large to be a face."""
    return Bad(Reason.UNDECODABLE, f"{size:,} bytes; at most {MAX_MEMBER:,} are read")


def _ends_early(data: memoryview) -> bool:
    """Whether a JPEG or PNG lacks its end marker, the sign of a file that was cut short."""
    head, tail = bytes(data[:8]), bytes(data[-1024:])
    if head[:3] == b"\xff\xd8\xff":
        return b"\xff\xd9" not in tail
    return head == b"\x89PNG\r\n\x1a\n" and b"IEND" not in tail


def _digest(face: FaceRecord, data: bytes) -> bytes:
    """Hash everything known of a face, as it is in the source."""
    points = None if face.landmarks is None else face.landmarks.tobytes()
    soft = None if face.soft is None else face.soft.tobytes()
    labels = (face.expression, face.valence, face.arousal, face.box, face.extra)
    text = repr((labels, points, soft)).encode()
    return hashlib.blake2b(text + hashlib.blake2b(data).digest(), digest_size=16).digest()
