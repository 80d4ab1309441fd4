"""The predictor: pictures in any form to faces with expression, valence and arousal.

No torch here: a model that runs without it, through ONNX Runtime, is used the same way.
"""

import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from affectnet.errors import ConfigError, DataError
from affectnet.inference.classifiers import ClassifierLike, Mirrored, WithoutContempt
from affectnet.inference.detector import (
    DEFAULT_MARGIN,
    MIN_SCORE,
    PICTURE_SIZE,
    Box,
    FaceDetector,
    Landmarks,
    as_boxes,
    crop_face,
)
from affectnet.inference.images import (
    Pixels,
    as_face,
    as_pixels,
    is_tensor,
    one_large_at_a_time,
    read_file,
    shrink,
)
from affectnet.inference.results import FaceResult, PictureResult, Results
from affectnet.models.model_config import DEFAULT_MODEL, resolve_model
from affectnet.seven import lacks_contempt
from affectnet.threads import cores, ordered_map

Faces = Literal["detect", "none"]
OnError = Literal["raise", "keep"]

KEPT_SIDE: Final = 2048
_KEPT_BYTES: Final = 128 * 2**20
"""Whole pictures that wait for their batch to fill take no more than this, save a single one."""


class Candidate(NamedTuple):
    """A face before the model has seen it."""

    box: Box
    landmarks: Landmarks | None
    score: float | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A picture with its faces cropped, waiting for the model."""

    result: PictureResult
    candidates: tuple[Candidate, ...]
    crops: NDArray[np.uint8]
    pixels: Pixels | None


class Predictor:
    """A model with everything it needs around it: reading, detection, cropping, preprocessing.

    Class order, colour order, size, normalisation, margin and alignment are the model's own.

    Args:
        classifier: the model; `load` makes one.
        margin: share of the face box added on each side, where the model does not say;
            `faces.DEFAULT_MARGIN` (0.1) where nobody does.
        min_score: detections less sure than this are left out, [0, 1].
        detect_size: long side in pixels at which faces are searched in pictures.

    Raises `ConfigError` for values out of range, and for a margin other than the model's.
    """

    def __init__(
        self,
        classifier: ClassifierLike,
        *,
        margin: float | None = None,
        min_score: float = MIN_SCORE,
        detect_size: int = PICTURE_SIZE,
    ) -> None:
        if margin is not None and not -0.4 <= margin <= 2:
            raise ConfigError(f"margin is {margin}; it may be -0.4 to 2")
        if None not in (margin, classifier.margin) and margin != classifier.margin:
            raise ConfigError(
                f"margin is {margin}, but the model was trained with {classifier.margin}, as its "
                "config.json says; leave the margin out"
            )
        self.classifier = classifier
        self.classes = classifier.classes
        own = classifier.margin if classifier.margin is not None else margin
        self.margin: float = DEFAULT_MARGIN if own is None else own
        self.min_score = min_score
        self.detect_size = detect_size
        self._detector: FaceDetector | None = None

    @overload
    def predict(
        self,
        images: str | bytes | os.PathLike[str] | Image.Image,
        boxes: Any = None,
        *,
        faces: Faces = "detect",
        batch_size: int = 32,
        workers: int | None = None,
        on_error: OnError = "raise",
    ) -> PictureResult: ...
    @overload
    def predict(
        self,
        images: Any,
        boxes: Any = None,
        *,
        faces: Faces = "detect",
        batch_size: int = 32,
        workers: int | None = None,
        on_error: OnError = "raise",
    ) -> Any: ...
    def predict(
        self,
        images: Any,
        boxes: Any = None,
        *,
        faces: Faces = "detect",
        batch_size: int = 32,
        workers: int | None = None,
        on_error: OnError = "raise",
    ) -> PictureResult | Results:
        """Predict expression, valence and arousal of every face.

        Args:
            images: a picture, or several in a list, an iterator or an array with one axis more. A
                picture is a path, encoded bytes, a PIL image, a uint8 RGB array (height, width, 3)
                or a uint8 RGB tensor (3, height, width). EXIF orientation is respected.
            boxes: faces found already: x, y, width and height in pixels of the upright picture,
                (n, 4) for one picture, a list of such (or None: search) for several.
            faces: `detect` finds them; `none` takes every picture for one face, cropped as in
                training, which gives the numbers of `affectnet evaluate`.
            batch_size: faces a forward pass.
            workers: threads that read and search; as many as cores, at most 8, where None.
            on_error: what a picture that cannot be read does: `raise`, or `keep` a result with the
                reason.

        Returns:
            One `PictureResult` for one picture, `Results` for several.

        Raises:
            DataError: a picture or box cannot be used.
            ConfigError: a setting is out of range.
        """
        check_choice("faces", faces, ("detect", "none"))
        check_choice("on_error", on_error, ("raise", "keep"))
        if boxes is not None and faces == "none":
            raise ConfigError("boxes are given and faces is 'none'; leave one of them out")
        one = _is_one(images)
        items: Iterable[Any] = [images] if one else images
        pairs = ((item, None) for item in items) if boxes is None else _pairs(items, boxes, one)
        found = []
        prepared = self.prepare_all(pairs, faces=faces, workers=1 if one else workers)
        with closing(prepared):
            for number, (result, _) in enumerate(self.classify_all(prepared, batch_size)):
                if result.reason is not None and on_error == "raise":
                    where = result.source or ("the picture" if one else f"picture {number}")
                    raise DataError(f"{where}: {result.reason}")
                found.append(result)
        return found[0] if one else Results(found)

    def video(self, source: str | Path | int, **settings: Any) -> Iterator[PictureResult]:
        """Yield a result a frame of a video file or a camera (its number).

        See `affectnet.inference.video.predict_video` for the settings.
        """
        from affectnet.inference.video import predict_video

        return (result for result, _ in predict_video(self, source, **settings))

    @property
    def detector(self) -> FaceDetector:
        """The detector for pictures."""
        if self._detector is None:
            self._detector = FaceDetector(self.min_score, self.detect_size)
        return self._detector

    def prepare_all(
        self,
        pictures: Iterable[tuple[Any, Any]],
        *,
        faces: Faces = "detect",
        workers: int | None = None,
        keep: bool = False,
    ) -> Generator[Prepared, None, None]:
        """Read, search and crop (picture, boxes or None) in threads; yield in the order given.

        A picture that cannot be read comes out with the reason. `keep` keeps its pixels, shrunk to
        a long side of `KEPT_SIDE` where it is larger.
        """
        if faces == "detect":
            _ = self.detector  # a missing model file is told once, not a picture
        workers = workers or min(cores(), 8)

        def prepare(pair: tuple[Any, Any]) -> Prepared:
            picture, boxes = pair
            source = os.fspath(picture) if isinstance(picture, str | os.PathLike) else None
            try:
                given = picture if source is None else read_file(Path(source))
                with one_large_at_a_time(given):
                    return self._prepare(given, boxes, source, faces, keep)
            except DataError as error:
                return self.refused(str(error), source)

        return ordered_map(prepare, pictures, workers, ahead=2 * workers)

    def refused(self, reason: str, source: str | None) -> Prepared:
        """Return a picture that cannot be read."""
        none = np.empty((0, self.classifier.size, self.classifier.size, 3), np.uint8)
        return Prepared(PictureResult(source, None, None, reason=reason), (), none, None)

    def crop(
        self, pixels: Pixels, candidates: Sequence[Candidate], result: PictureResult, keep: bool
    ) -> Prepared:
        """Cut the faces out of a picture for the model."""
        size = self.classifier.size
        crops = np.empty((len(candidates), size, size, 3), np.uint8)
        for crop, face in zip(crops, candidates, strict=True):
            crop[:] = crop_face(
                pixels,
                face.box,
                size,
                margin=self.margin,
                landmarks=face.landmarks,
                alignment=self.classifier.alignment,
                interpolation=self.classifier.interpolation,
            )
        return Prepared(result, tuple(candidates), crops, pixels if keep else None)

    def classify_all(
        self, prepared: Iterable[Prepared], batch_size: int, most: int | None = None
    ) -> Iterator[tuple[PictureResult, Pixels | None]]:
        """Classify the faces in batches that reach over pictures; yield in the order given.

        Args:
            prepared: from `prepare_all`.
            batch_size: faces a forward pass.
            most: pictures that wait for a batch to fill, at most; twice the batch where None.

        Yields each result, with the picture's pixels where they were kept.
        """
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; it must be 1 or more")
        most = most or 2 * batch_size
        waiting: list[Prepared] = []
        faces = kept = 0
        for picture in prepared:
            waiting.append(picture)
            faces += len(picture.crops)
            kept += 0 if picture.pixels is None else picture.pixels.nbytes
            if faces >= batch_size or len(waiting) >= most or kept >= _KEPT_BYTES:
                yield from self._classify(waiting, batch_size)
                waiting, faces, kept = [], 0, 0
        yield from self._classify(waiting, batch_size)

    def _prepare(
        self, picture: Any, boxes: Any, source: str | None, faces: Faces, keep: bool
    ) -> Prepared:
        size = self.classifier.size
        if faces == "none":
            pixels, width, height = as_face(picture, size, self.classifier.interpolation)
            whole = Candidate(Box(0.0, 0.0, float(width), float(height)), None, None)
            shown = shrink(as_pixels(picture), KEPT_SIDE) if keep else None
            return Prepared(PictureResult(source, width, height), (whole,), pixels[None], shown)
        pixels = as_pixels(picture)
        if boxes is None:
            found = self.detector.detect(pixels)
            candidates = [Candidate(face.box, face.landmarks, face.score) for face in found]
        else:
            candidates = [Candidate(box, None, None) for box in as_boxes(boxes)]
        height, width = pixels.shape[:2]
        found_in = PictureResult(source, width, height)
        prepared = self.crop(pixels, candidates, found_in, keep=False)
        return replace(prepared, pixels=shrink(pixels, KEPT_SIDE)) if keep else prepared

    def _classify(
        self, pictures: list[Prepared], batch_size: int
    ) -> Iterator[tuple[PictureResult, Pixels | None]]:
        if not pictures:
            return
        crops = np.concatenate([picture.crops for picture in pictures])
        parts = [
            self.classifier(crops[start : start + batch_size])
            for start in range(0, len(crops), batch_size)
        ]
        rows = (
            (tuple(map(float, p)), float(v), float(a))
            for part in parts
            for p, v, a in zip(*part, strict=True)
        )
        for picture in pictures:
            faces = tuple(
                FaceResult(*candidate, self.classes, *next(rows))
                for candidate in picture.candidates
            )
            yield replace(picture.result, faces=faces), picture.pixels


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    revision: str | None = None,
    device: str = "auto",
    margin: float | None = None,
    min_score: float = MIN_SCORE,
    detect_size: int = PICTURE_SIZE,
    without_contempt: bool = False,
    flip: bool = False,
) -> Predictor:
    """Load a model for prediction.

    Args:
        model: a run folder, its `model/` folder, an `.onnx` file (which needs no torch),
            `owner/name` on the Hugging Face Hub, or the name of a model that the package ships.
        revision: branch, tag or commit on the hub.
        device: `auto` (a GPU where there is one), `cpu` or `cuda`.
        margin, min_score, detect_size: as `Predictor`.
        without_contempt: seven classes: contempt is never said, and the probabilities of the others
            are scaled to add up to 1.
        flip: answer with the mean for each face and its mirror image, in twice the time.

    Raises `RunError` and `WeightsError` as `resolve_model` and `AffectModel.from_pretrained`, and
    `ConfigError` for settings out of range.
    """
    check_choice("device", device, ("auto", "cpu", "cuda"))
    place = resolve_model(model)
    classifier: ClassifierLike
    if isinstance(place, Path) and place.suffix.lower() == ".onnx":
        from affectnet.inference.classifiers import OnnxClassifier

        classifier = OnnxClassifier(place, device)
    else:
        try:
            from affectnet.inference.torch_classifier import load_classifier
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"the model {model} needs {error.name or 'PyTorch'}, which is not installed; "
                "install it, or give a file that `affectnet export` wrote, which needs none"
            ) from error

        classifier = load_classifier(place, revision=revision, device=device)
    if without_contempt and not lacks_contempt(classifier.classes):
        classifier = WithoutContempt(classifier)
    if flip:
        classifier = Mirrored(classifier)
    return Predictor(classifier, margin=margin, min_score=min_score, detect_size=detect_size)


def check_choice(name: str, given: str, allowed: tuple[str, ...]) -> None:
    """Raise `ConfigError` where the value is none of those allowed."""
    if given not in allowed:
        raise ConfigError(f"{name} is {given!r}; it may be {' or '.join(allowed)}")


def _is_one(images: Any) -> bool:
    if isinstance(images, np.ndarray) or is_tensor(images):
        return bool(images.ndim != 4)
    one = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)
    return isinstance(images, one) or not isinstance(images, Iterable)


def _pairs(items: Iterable[Any], boxes: Any, one: bool) -> list[tuple[Any, Any]]:
    pictures, given = list(items), [boxes] if one else list(boxes)
    if len(pictures) != len(given):
        raise DataError(f"{len(pictures)} pictures and boxes for {len(given)} are given")
    return list(zip(pictures, given, strict=True))
