"""The predictor: images in any form to faces with expression, valence and arousal."""

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from PIL import Image

from affectnet.data.images import is_tensor
from affectnet.errors import ConfigError, DataError
from affectnet.inference.classifiers import (
    ClassifierLike,
    CorrectedPrior,
    Mirrored,
    OnnxClassifier,
    WithoutContempt,
)
from affectnet.inference.detector import MIN_SCORE
from affectnet.inference.pipeline import Faces, Pipeline, check_choice
from affectnet.inference.results import PictureResult, Results
from affectnet.models.model_config import DEFAULT_MODEL, resolve_model
from affectnet.models.prior import log_ratios, target_prior
from affectnet.seven import lacks_contempt

OnError = Literal["raise", "keep"]


class Predictor(Pipeline):
    """Predicts on images and videos; `load` makes one. See `Pipeline` for the arguments."""

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
            images: one image, or several in a list, an iterator or an array with one more axis. An
                image is a path, encoded bytes, a PIL image, a uint8 RGB array (height, width, 3)
                or a uint8 RGB tensor (3, height, width). EXIF orientation is respected.
            boxes: known faces: x, y, width and height in pixels of the upright image, (n, 4) for
                one image, a list of such arrays (or None: detect) for several.
            faces: `detect` finds them; `none` treats every image as one face, cropped as in
                training, which gives the numbers of `affectnet evaluate`.
            batch_size: faces per forward pass.
            workers: threads that read and detect; one per core, at most 8, where None.
            on_error: for an image that cannot be read: `raise`, or `keep` a result with the
                reason.

        Returns:
            One `PictureResult` for one image, `Results` for several.

        Raises:
            DataError: an image or box cannot be used.
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
                    where = result.source or ("the image" if one else f"image {number}")
                    raise DataError(f"{where}: {result.reason}")
                found.append(result)
        return found[0] if one else Results(found)

    def video(self, source: str | Path | int, **settings: Any) -> Iterator[PictureResult]:
        """Yield one result per frame of a video file or of a camera (given by its number).

        See `affectnet.inference.video.predict_video` for the settings.
        """
        from affectnet.inference.video import predict_video

        return (result for result, _ in predict_video(self, source, **settings))


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    revision: str | None = None,
    device: str = "auto",
    margin: float | None = None,
    min_score: float = MIN_SCORE,
    detect_size: int | None = None,
    without_contempt: bool = False,
    flip: bool = False,
    prior: str | None = None,
    prior_tau: float = 1.0,
) -> Predictor:
    """Load a model for prediction.

    Args:
        model: a run folder, its `model/` folder, an `.onnx` file (which needs no torch),
            `owner/name` on the Hugging Face Hub, or the name of a model included in the package.
        revision: branch, tag or commit on the hub.
        device: `auto` (a GPU where there is one), `cpu` or `cuda`.
        margin, min_score, detect_size: see `Pipeline`.
        without_contempt: seven classes: contempt is dropped, and the other probabilities are scaled
            to add up to 1.
        flip: return the mean for each face and its mirror image, in twice the time.
        prior: correct the probabilities for these class fractions of the faces: `train`, `uniform`
            or a file, see `affectnet.models.prior.target_prior`; no correction where None.
        prior_tau: strength of that correction, 0 to 2.

    Raises `RunError` and `WeightsError` as `resolve_model` and `AffectModel.from_pretrained`, and
    `ConfigError` for settings out of range.
    """
    check_choice("device", device, ("auto", "cpu", "cuda"))
    place = resolve_model(model)
    classifier: ClassifierLike
    if isinstance(place, Path) and place.suffix.lower() == ".onnx":
        classifier = file = OnnxClassifier(place, device)
        fractions, assumed = file.class_fractions, file.prior
    else:
        try:
            from affectnet.inference.torch_classifier import TorchClassifier
            from affectnet.models.affect_model import AffectModel
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"the model {model} needs {error.name or 'PyTorch'}, which is not installed; "
                "install it, or give a file that `affectnet export` wrote, which does not need it"
            ) from error

        loaded = AffectModel.from_pretrained(place, revision=revision)
        classifier = TorchClassifier(loaded, device)
        fractions, assumed = loaded.class_fractions, loaded.prior
    if prior is not None:
        target = target_prior(prior, classifier.classes, fractions)
        classifier = CorrectedPrior(classifier, log_ratios(assumed, target, prior_tau))
    if without_contempt and not lacks_contempt(classifier.classes):
        classifier = WithoutContempt(classifier)
    if flip:
        classifier = Mirrored(classifier)
    return Predictor(classifier, margin=margin, min_score=min_score, detect_size=detect_size)


def _is_one(images: Any) -> bool:
    if isinstance(images, np.ndarray) or is_tensor(images):
        return bool(images.ndim != 4)
    one = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)
    return isinstance(images, one) or not isinstance(images, Iterable)


def _pairs(items: Iterable[Any], boxes: Any, one: bool) -> list[tuple[Any, Any]]:
    images, given = list(items), [boxes] if one else list(boxes)
    if len(images) != len(given):
        raise DataError(f"{len(images)} images and boxes for {len(given)} are given")
    return list(zip(images, given, strict=True))
