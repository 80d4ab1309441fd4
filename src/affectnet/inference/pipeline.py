"""The steps from images to results: read, detect, crop, classify in batches.

No torch here: a model that runs without it, through ONNX Runtime, is used the same way.
"""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from affectnet.data.crop import DEFAULT_MARGIN, Box, as_boxes, crop_face, shrink
from affectnet.data.images import Pixels, as_face, as_pixels, encoded, one_large_at_a_time
from affectnet.errors import ConfigError, DataError
from affectnet.inference.classifiers import ClassifierLike, ModelOutput
from affectnet.inference.detector import IMAGE_SIZE, MIN_SCORE, Candidate, FaceDetector
from affectnet.inference.quality import Pose, Quality, measure
from affectnet.inference.results import FaceResult, PictureResult
from affectnet.threads import cores, ordered_map, refuse_fork

Faces = Literal["detect", "none"]

PIXELS_SIDE: Final = 2048
"""Long side, at most, of the pixels that are returned with a result."""
_WAITING_BYTES: Final = 128 * 2**20
"""Pixels of images that wait for a batch to fill take at most this, a single image excepted."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image with its faces cropped, ready for the model."""

    result: PictureResult
    candidates: tuple[Candidate, ...]
    crops: NDArray[np.uint8]
    pixels: Pixels | None
    measured: tuple[tuple[Pose | None, Quality], ...] = ()

    @classmethod
    def of(
        cls, result: PictureResult, candidates: Sequence[Candidate], crops: NDArray[np.uint8]
    ) -> "Prepared":
        """Return the image with pose and quality of its faces, without its pixels."""
        measured = (
            measure(face.box, face.landmarks, crop)
            for face, crop in zip(candidates, crops, strict=True)
        )
        return cls(result, tuple(candidates), crops, None, tuple(measured))


class Pipeline:
    """A model with everything around it: reading, detection, cropping, preprocessing.

    Class order, colour order, size, normalisation, margin and alignment are the model's own.

    Args:
        classifier: the model; `load` makes one.
        margin: fraction of the face box added on each side, where the model does not specify it;
            `DEFAULT_MARGIN` (0.1) where neither does.
        min_score: detections with a lower score are dropped, [0, 1].
        detect_size: long side in pixels at which faces are detected in images; 1024 where None.

    Raises `ConfigError` for values out of range, and for a margin other than the model's.
    """

    def __init__(
        self,
        classifier: ClassifierLike,
        *,
        margin: float | None = None,
        min_score: float = MIN_SCORE,
        detect_size: int | None = None,
    ) -> None:
        if margin is not None and not -0.4 <= margin <= 2:
            raise ConfigError(f"margin is {margin}; it may be -0.4 to 2")
        if None not in (margin, classifier.margin) and margin != classifier.margin:
            raise ConfigError(
                f"margin is {margin}, but the model was trained with {classifier.margin} (see its "
                "config.json); leave the margin out"
            )
        self.classifier = classifier
        self.classes = classifier.classes
        self.targets = classifier.targets
        own = classifier.margin if classifier.margin is not None else margin
        self.margin: float = DEFAULT_MARGIN if own is None else own
        self.min_score = min_score
        self.detect_size = detect_size or IMAGE_SIZE
        self._detector: FaceDetector | None = None
        self._process = os.getpid()

    @property
    def detector(self) -> FaceDetector:
        """The detector for images."""
        if self._detector is None:
            self._detector = FaceDetector(self.min_score, self.detect_size)
        return self._detector

    def prepare_all(
        self,
        images: Iterable[tuple[Any, Any]],
        *,
        faces: Faces = "detect",
        workers: int | None = None,
        keep_pixels: bool = False,
    ) -> Generator[Prepared, None, None]:
        """Read, detect and crop (image, boxes or None) in threads; yield in the order given.

        An image that cannot be read yields a result with the reason. `keep_pixels` returns the
        pixels too, shrunk to a long side of `PIXELS_SIDE` where larger.
        """
        refuse_fork(self._process)
        if faces == "detect":
            _ = self.detector  # a missing model file is reported once, not once per image
        workers = workers or min(cores(), 8)

        def prepare(pair: tuple[Any, Any]) -> Prepared:
            image, boxes = pair
            source = os.fspath(image) if isinstance(image, str | os.PathLike) else None
            try:
                data = encoded(image)
                given = image if data is None else data
                with one_large_at_a_time(given):
                    return self._prepare(given, boxes, source, faces, keep_pixels)
            except DataError as error:
                failed = PictureResult(source, None, None, reason=str(error))
                return unreadable(failed, self.classifier.size)

        return ordered_map(prepare, images, workers, ahead=2 * workers)

    def crop(
        self, pixels: Pixels, candidates: Sequence[Candidate], result: PictureResult
    ) -> Prepared:
        """Crop the faces of an image for the model; the pixels are not kept.

        A detected face that cannot be aligned, since an eye is outside the image for example, is
        cropped by its box.
        """
        size = self.classifier.size
        crops = np.empty((len(candidates), size, size, 3), np.uint8)
        by_box = partial(
            crop_face,
            pixels,
            size=size,
            margin=self.margin,
            interpolation=self.classifier.interpolation,
            face_size=self.classifier.face_size,
        )
        for crop, face in zip(crops, candidates, strict=True):
            points, alignment = face.landmarks, self.classifier.alignment
            try:
                crop[:] = by_box(face.box, landmarks=points, alignment=alignment)
            except DataError:
                if points is None:
                    raise
                crop[:] = by_box(face.box)
        return Prepared.of(result, candidates, crops)

    def classify_all(
        self, prepared: Iterable[Prepared], batch_size: int, max_waiting: int | None = None
    ) -> Iterator[tuple[PictureResult, Pixels | None]]:
        """Classify the faces in batches that span images; yield in the order given.

        Args:
            prepared: from `prepare_all`.
            batch_size: faces per forward pass.
            max_waiting: images that wait for a batch to fill, at most; twice the batch where None.

        Yields each result, with the image's pixels where they were kept.
        """
        refuse_fork(self._process)
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be 1 or more")
        max_waiting = max_waiting or 2 * batch_size
        waiting: list[Prepared] = []
        faces = size = 0
        for image in prepared:
            waiting.append(image)
            faces += len(image.crops)
            size += 0 if image.pixels is None else image.pixels.nbytes
            if faces >= batch_size or len(waiting) >= max_waiting or size >= _WAITING_BYTES:
                yield from self._classify(waiting, batch_size)
                waiting, faces, size = [], 0, 0
        yield from self._classify(waiting, batch_size)

    def _prepare(
        self, image: Any, boxes: Any, source: str | None, faces: Faces, keep_pixels: bool
    ) -> Prepared:
        size = self.classifier.size
        if faces == "none":
            crop, width, height = as_face(image, size, self.classifier.interpolation)
            whole = Candidate(Box(0.0, 0.0, float(width), float(height)))
            pixels = shrink(as_pixels(image), PIXELS_SIDE) if keep_pixels else None
            prepared = Prepared.of(PictureResult(source, width, height), [whole], crop[None])
            return replace(prepared, pixels=pixels)
        pixels = as_pixels(image)
        if boxes is None:
            candidates = self.detector.detect(pixels)
        else:
            candidates = [Candidate(box) for box in as_boxes(boxes)]
        height, width = pixels.shape[:2]
        prepared = self.crop(pixels, candidates, PictureResult(source, width, height))
        return replace(prepared, pixels=shrink(pixels, PIXELS_SIDE)) if keep_pixels else prepared

    def _classify(
        self, images: list[Prepared], batch_size: int
    ) -> Iterator[tuple[PictureResult, Pixels | None]]:
        if not images:
            return
        crops = np.concatenate([image.crops for image in images])
        outputs = [
            self.classifier(crops[start : start + batch_size])
            for start in range(0, len(crops), batch_size)
        ]
        rows = (row for output in outputs for row in zip(*_columns(output), strict=True))
        for image in images:
            faces = []
            for candidate, (pose, quality) in zip(image.candidates, image.measured, strict=True):
                p, valence, arousal, embedding = next(rows)
                face = FaceResult(
                    *candidate, self.classes, tuple(map(float, p)), float(valence), float(arousal)
                )
                faces.append(replace(face, pose=pose, quality=quality, embedding=embedding))
            yield replace(image.result, faces=tuple(faces)), image.pixels


def _columns(output: ModelOutput) -> tuple[Any, ...]:
    """Return probabilities, valence, arousal and embedding, None for each face without one."""
    *values, embedding = output
    return (*values, [None] * len(output.valence) if embedding is None else embedding)


def unreadable(result: PictureResult, size: int) -> Prepared:
    """Return a result that states why there is no image, with no crops of this size."""
    return Prepared(result, (), np.empty((0, size, size, 3), np.uint8), None)
