"""The predictor: images in any form to faces with expression, valence and arousal."""

import os
from collections.abc import Iterable, Mapping
from contextlib import closing
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, overload

import numpy as np
from PIL import Image

from affectnet.data.images import is_file_object, is_tensor
from affectnet.errors import ConfigError, DataError, check_choice
from affectnet.inference.classifiers import (
    ClassifierLike,
    CorrectedPrior,
    Mirrored,
    WithoutContempt,
)
from affectnet.inference.detector import MIN_SCORE
from affectnet.inference.film_summary import MIN_EPISODE
from affectnet.inference.pipeline import Faces, Pipeline
from affectnet.inference.results import PictureResult, Results
from affectnet.inference.runtime import open_classifier
from affectnet.models.model_config import DEFAULT_MODEL
from affectnet.models.prior import correction
from affectnet.seven import lacks_contempt

if TYPE_CHECKING:
    from affectnet.inference.film import Film

OnError = Literal["raise", "keep"]


class Predictor(Pipeline):
    """Predicts on images and videos; `load` makes one. See `Pipeline` for the arguments.

    It may be used from several threads, and given to spawned processes, which load it again. In a
    forked process it raises `ConfigError`.
    """

    _settings: Mapping[str, Any] | None = None
    _runtime: str = ""

    def __repr__(self) -> str:
        size = self.classifier.size
        facts = [f"{len(self.classes)} classes", f"faces of {size} px", f"margin {self.margin:g}"]
        settings, usual = self._settings or {}, load.__kwdefaults__ or {}
        given = [f"{k}={v!r}" for k, v in settings.items() if k not in usual or v != usual[k]]
        name = ", ".join(given) or type(self.classifier).__name__
        return f"<Predictor {name}: {', '.join([*facts, *filter(None, [self._runtime])])}>"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._settings is not None:
            return partial(load, **self._settings), ()
        names = ("margin", "min_score", "detect_size")
        settings = {name: getattr(self, name) for name in names}
        return partial(Predictor, self.classifier, **settings), ()

    @overload
    def predict(
        self,
        images: str | bytes | os.PathLike[str] | BinaryIO | Image.Image,
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
                image is a path, encoded bytes, a file object, a PIL image, a uint8 RGB array
                (height, width, 3) or a uint8 RGB tensor (3, height, width). EXIF orientation is
                respected.
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

    def video(
        self,
        source: str | Path | int,
        *,
        baseline: float | str | Path | None = None,
        min_episode: float = MIN_EPISODE,
        people: int | None = None,
        **settings: Any,
    ) -> "Film":
        """Return the results of a video file or a camera (given by its number), frame by frame.

        `film.summary()` then summarises all of it.

        Args:
            source: the file, or the number of the camera.
            baseline: compare each face with the person's neutral face, `face.relative`; see
                `affectnet.inference.baseline.Baseline`. Except with pictures, results come when
                the film has been predicted.
            min_episode: see `affectnet.inference.film_summary.Summariser`.
            people: number of persons, to whom the faces' numbers are joined at the end of the film;
                see `affectnet.inference.people.People`.
            settings: see `affectnet.inference.video.predict_video`.
        """
        from affectnet.inference.baseline import Baseline
        from affectnet.inference.film import Film
        from affectnet.inference.video import predict_video

        if people is not None:
            settings["keep_pixels"] = True
        results = predict_video(self, source, **settings)
        own = None if baseline is None else Baseline(baseline, self)
        return Film(results, str(source), own, min_episode, people=people)


def load(
    model: str | Path = DEFAULT_MODEL,
    *,
    revision: str | None = None,
    device: str = "auto",
    provider: str | None = None,
    margin: float | None = None,
    min_score: float = MIN_SCORE,
    detect_size: int | None = None,
    without_contempt: bool = False,
    flip: bool = False,
    prior: str | None = None,
    prior_tau: float = 1.0,
    embedding: bool = False,
) -> Predictor:
    """Load a model for prediction.

    Args:
        model: a run folder, its `model/` folder, an `.onnx` file, `owner/name` on the Hugging Face
            Hub, or the name of a model included in the package.
        revision, device, provider: see `affectnet.inference.runtime.open_classifier`.
        margin, min_score, detect_size: see `Pipeline`.
        without_contempt: seven classes: contempt is dropped, and the other probabilities are scaled
            to add up to 1.
        flip: return the mean for each face and its mirror image, in twice the time.
        prior: correct the probabilities for these class fractions of the faces: `train`, `uniform`
            or a file, see `affectnet.models.prior.target_prior`; no correction where None.
        prior_tau: strength of that correction, 0 to 2.
        embedding: also return the backbone's features of each face, `face.embedding`. Of a model
            with an ONNX file that has none (see `affectnet export --features`), PyTorch computes
            them.

    Raises as `open_classifier`, and `ConfigError` for settings out of range.
    """
    settings = dict(locals())  # all arguments
    opened = open_classifier(
        model, revision=revision, device=device, provider=provider, embedding=embedding
    )
    if Path(model).exists():
        settings["model"] = str(Path(model).resolve())  # spawned processes may work elsewhere
    classifier: ClassifierLike = Mirrored(opened, opened.temperature) if flip else opened
    if prior is not None:
        classifier = CorrectedPrior(classifier, correction(opened, prior, prior_tau))
    if without_contempt and not lacks_contempt(classifier.classes):
        classifier = WithoutContempt(classifier)
    predictor = Predictor(classifier, margin=margin, min_score=min_score, detect_size=detect_size)
    predictor._settings, predictor._runtime = settings, opened.runtime
    return predictor


def predict(
    images: Any,
    boxes: Any = None,
    *,
    model: str | Path = DEFAULT_MODEL,
    faces: Faces = "detect",
    batch_size: int = 32,
    workers: int | None = None,
    on_error: OnError = "raise",
    **settings: Any,
) -> Any:
    """Predict with the model of the package, or another; see `Predictor.predict` and `load`.

    The model is loaded at the first call and kept for later calls with the same settings.
    """
    predictor = _loaded(model, os.getpid(), **settings)
    return predictor.predict(
        images, boxes, faces=faces, batch_size=batch_size, workers=workers, on_error=on_error
    )


@lru_cache(maxsize=2)
def _loaded(model: str | Path, _process: int, **settings: Any) -> Predictor:
    return load(model, **settings)


def _is_one(images: Any) -> bool:
    if isinstance(images, np.ndarray) or is_tensor(images):
        return bool(images.ndim != 4)
    one = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image)
    return isinstance(images, one) or is_file_object(images) or not isinstance(images, Iterable)


def _pairs(items: Iterable[Any], boxes: Any, one: bool) -> list[tuple[Any, Any]]:
    images, given = list(items), [boxes] if one else list(boxes)
    if len(images) != len(given):
        raise DataError(f"{len(images)} images and boxes for {len(given)} are given")
    return list(zip(images, given, strict=True))
