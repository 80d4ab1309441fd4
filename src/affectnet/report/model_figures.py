"""The figures that need the trained model: Grad-CAM and the map of its features.

What a figure computes is stored next to the evaluation, and a slow model gets fewer faces.
"""

import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from affectnet.data.images import decode_image
from affectnet.data.store import open_split
from affectnet.errors import ConfigError, DataError, RunError, need_train
from affectnet.figures.explanations import attention_overlays, feature_map, mean_attention
from affectnet.figures.faces import class_name
from affectnet.figures.style import thin
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS
from affectnet.models.model_config import CONFIG, ModelConfig, read_config, untrained_note
from affectnet.report.embedding import (
    METHODS,
    MOST_FACES,
    Method,
    embed,
    evaluating,
    split_features,
)
from affectnet.report.run_figures import RunFigure
from affectnet.report.runs import PREDICTIONS_NAME, EvaluatedRun, read_run
from affectnet.report.samples import FaceRows, Verdict, fair_sample, interleave, most_confident
from affectnet.run import write_beside
from affectnet.version import __version__

if TYPE_CHECKING:
    from affectnet.models.affect_model import AffectModel

FOLDER: Final = "explained"  # in `evaluation/SPLIT/`, for computed arrays
# Numbers of faces to choose from: few, so that a machine chooses the same one every time.
STEPS: Final = (2000, 1200, 600, 300, 150, 96, 48, 24, 12, 6, 3, 1)
SLOW: Final = 0.2  # seconds per face above which one face is enough to measure the speed
OVERLAYS: Final = 12  # faces in a figure of Grad-CAM overlays
EACH: Final = 24  # faces per expression in a mean map
SECONDS: Final = 6.0  # model time for each of these figures in a report
FEWEST_MAPPED: Final = 24  # faces in a map of features
BACKWARD: Final = 1.5  # time of a Grad-CAM pass relative to a forward pass, at most

Arrays = Mapping[str, NDArray[Any]]


def figures_of_model(
    run: EvaluatedRun | Path | str,
    dataset: Path | str,
    split: str = "test",
    *,
    method: Method = "tsne",
    most: int | None = None,
    seed: int = 0,
    seconds: float | None = None,
) -> list[RunFigure]:
    """Grad-CAM over right and wrong predictions, its mean per expression, and the feature map.

    Nothing is computed before a figure is drawn. Computed arrays are stored in
    `evaluation/SPLIT/explained/` and reused until the model or its predictions change. A GPU is
    used if there is one.

    Args:
        run: an evaluated run with its `model/`.
        dataset: the folder on which it was evaluated.
        split: ignored if `run` is an `EvaluatedRun`.
        method, seed: of the feature map; the seed also chooses its faces.
        most: maximum number of faces in the feature map; 2,000 if None.
        seconds: model time per figure; a slow model gets fewer faces, and each figure states how
            many. No limit if None.

    Raises:
        RunError: the run is not evaluated on this split, or it has no model.
        DataError: there is no such dataset or split.
    """
    known = run if isinstance(run, EvaluatedRun) else read_run(Path(run), split)
    if not (known.folder.model / "config.json").is_file():
        raise RunError(
            f"{known.folder.path} contains no trained model, which these figures need; train the "
            "run again, or leave them out"
        )
    explainer = _Explainer(known, Path(dataset), seconds)
    average = _average_rows(explainer)
    reason = "" if len(average) else "no face in the dataset has an annotated expression"
    if "expression" not in explainer.config().targets:
        reason = str(untrained_note(explainer.config().targets))
    return [
        _overlay_figure(explainer, "wrong"),
        _overlay_figure(explainer, "right"),
        RunFigure(
            "attention-mean",
            "Mean Grad-CAM of each expression",
            f"Grad-CAM for the annotated expression, mean of up to {EACH} faces, over the mean of "
            "these faces.",
            "Mean Grad-CAM map of each expression over its mean face.",
            lambda: _draw_mean(explainer, average),
            reason,
            wide=True,
        ),
        RunFigure(
            "feature-map",
            "Map of the features",
            "Each mark is a face, coloured by annotated expression; hollow marks are predicted "
            "wrongly. Where groups overlap, the model confuses the expressions.",
            f"Map of the features of faces, by {method}, coloured by annotated expression.",
            lambda: _draw_feature_map(explainer, method, most, seed),
            "" if len(known.predictions) else "there is no face",
            wide=True,
        ),
    ]


def model_figures_for_report(run: EvaluatedRun, datasets: Sequence[Path]) -> list[RunFigure]:
    """`figures_of_model` within `SECONDS` each; without model or dataset, one that says why."""
    try:
        if not datasets:
            raise DataError("the dataset was not found")
        if not (run.folder.evaluation(run.split) / FOLDER).is_dir():
            need_train("Grad-CAM")
        return figures_of_model(run, datasets[0], seconds=SECONDS)
    except (ConfigError, DataError, RunError) as error:
        return [RunFigure("attention-wrong", "Grad-CAM", "", "", Figure, str(error))]


def seconds_per_face(model: "AffectModel") -> float:
    """Time a forward pass on the device of the model; the model is left unchanged."""
    import torch

    device = next(model.parameters()).device
    size = model.preprocessing.size
    seconds = 0.0
    with evaluating(model), torch.inference_mode():
        for faces in (1, 1, 8):  # the first pass warms up
            batch = torch.zeros(faces, 3, size, size, device=device)
            started = time.perf_counter()
            float(model(batch).valence.sum())  # waits for a GPU
            previous, seconds = seconds, (time.perf_counter() - started) / faces
            if min(previous, seconds) > SLOW:
                break
    return seconds


def affordable(cost: float, seconds: float, most: int) -> int:
    """How many faces, at `cost` seconds each, are processed within `seconds`; at least 1.

    `most` if that many are, otherwise the largest of `STEPS` below it.
    """
    if most * cost <= seconds:
        return most
    return next((n for n in STEPS if n <= most and n * cost <= seconds), 1)


def cached_arrays(run: EvaluatedRun, name: str, key: str, compute: Callable[[], Arrays]) -> Arrays:
    """Return the stored result of `compute`, or call it and store the result.

    Stored as `evaluation/SPLIT/explained/NAME.npz`, and computed again when the predictions, the
    model's weights or `key` change. Nothing is stored where the folder cannot be written to.

    Args:
        key: everything else on which the result depends: rows, method, seed.
    """
    path = run.folder.evaluation(run.split) / FOLDER / f"{name}.npz"
    key = f"{__version__} {_fingerprint(run)} {key}"
    try:
        with np.load(path, allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
        if str(stored.pop("key", "")) == key:
            return stored
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        pass  # missing or damaged: compute it again
    fresh = dict(compute())
    try:
        with write_beside(path) as new, new.open("wb") as file:
            np.savez_compressed(file, key=np.array(key), **fresh)  # type: ignore[arg-type]
    except OSError:
        pass  # a read-only disk: the next report computes it again
    return fresh


def _fingerprint(run: EvaluatedRun) -> str:
    """Changes with the predictions and the weights, without reading the weights."""
    predictions = run.folder.evaluation(run.split) / PREDICTIONS_NAME
    files = [(path.name, path.stat()) for path in sorted(run.folder.model.glob("*.safetensors"))]
    weights = " ".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files)
    return f"{zlib.crc32(predictions.read_bytes()):08x} {weights}"


class _Explainer:
    """A run with the images of its faces; the model is loaded when it is first needed."""

    def __init__(self, run: EvaluatedRun, dataset: Path, seconds: float | None) -> None:
        self.run = run
        self.seconds = seconds
        self.split = open_split(dataset, run.split)
        places = {face: row for row, face in enumerate(self.split.ids)}
        self.rows = np.array([places.get(face, -1) for face in run.predictions.ids], np.int64)
        """Row in the split of each predicted face, -1 where the split does not have it."""

    @cached_property
    def model(self) -> "AffectModel":
        need_train("computing Grad-CAM and the map of the features", "leave them out: --no-explain")
        import torch

        from affectnet.models.affect_model import AffectModel

        model = AffectModel.from_pretrained(self.run.folder.model)
        return model.to("cuda") if torch.cuda.is_available() else model

    @cached_property
    def speed(self) -> float:
        return seconds_per_face(self.model)

    def affordable(self, most: int, cost: float = 1.0) -> int:
        """At most `most` faces, fewer where the time does not suffice."""
        return most if self.seconds is None else affordable(cost * self.speed, self.seconds, most)

    def config(self) -> ModelConfig:
        """The model's config.json, read without its weights."""
        return read_config(self.run.folder.model / CONFIG)

    def available(self, rows: FaceRows) -> FaceRows:
        """Those rows of the predictions whose image is in the dataset."""
        return rows[self.rows[rows] >= 0]

    def images(self, rows: FaceRows) -> NDArray[np.uint8]:
        """The input images of the model, uint8 (n, S, S, 3)."""
        preprocessing = self.config().preprocessing
        size = preprocessing.size
        images = np.empty((len(rows), size, size, 3), np.uint8)
        for i, row in enumerate(self.rows[rows].tolist()):
            data = self.split.image_bytes(row)
            images[i] = decode_image(data, size, preprocessing.interpolation)
        return images

    def cached(
        self, name: str, rows: FaceRows, key: object, compute: Callable[[], Arrays]
    ) -> Arrays:
        """`cached_arrays` for these rows of this dataset."""
        faces = zlib.crc32("\n".join(self.run.predictions.ids[row] for row in rows).encode())
        size = self.split.path.stat().st_size
        return cached_arrays(self.run, name, f"{faces:08x} {size} {self.seconds} {key}", compute)

    def maps(self, rows: FaceRows, classes: NDArray[np.int64], fewest: int) -> Arrays:
        """Grad-CAM of as many of the rows as the time allows, each for its class.

        `rows` are those shown, `maps` uint8 (n, S, S) in 255 steps.
        """
        model = self.model
        from affectnet.report.gradcam import grad_cam

        rows = rows[: max(fewest, self.affordable(len(rows), BACKWARD))]
        targets = [EXPRESSIONS[c] for c in classes[rows]]
        try:
            maps = grad_cam(model, self.images(rows), targets)
        except RuntimeError as error:
            # Some of timm's backbones do not pass gradients through, or the memory is exhausted.
            line = str(error).splitlines()[0]
            raise RunError(f"Grad-CAM fails on this backbone: {line}") from error
        return {"rows": rows, "maps": np.asarray((255 * maps).round(), np.uint8)}


def _overlay_figure(explainer: _Explainer, verdict: Verdict) -> RunFigure:
    p = explainer.run.predictions
    ranked = explainer.available(most_confident(p, verdict, len(p)))
    rows = interleave(ranked, p.expression)[:OVERLAYS]

    def draw() -> Figure:
        compute = partial(explainer.maps, rows, p.expression_pred, 3)
        found = explainer.cached(f"attention-{verdict}", rows, verdict, compute)
        shown = found["rows"]
        captions = [
            EXPRESSIONS[pred] + (f"\nis {class_name(truth)}" if verdict == "wrong" else "")
            for pred, truth in zip(p.expression_pred[shown], p.expression[shown], strict=True)
        ]
        return attention_overlays(explainer.images(shown), found["maps"] / 255.0, captions)

    return RunFigure(
        f"attention-{verdict}",
        f"Grad-CAM of the most confidently {verdict} predictions",
        "For the predicted expression: brighter regions of the face contributed more to it. "
        "The faces are balanced over the expressions.",
        f"Grad-CAM maps over the most confidently {verdict} faces, balanced over the expressions.",
        draw,
        "" if len(rows) else f"no face in the dataset is predicted {verdict}",
        wide=True,
    )


def _average_rows(explainer: _Explainer) -> FaceRows:
    """Random faces of each expression, chosen by id and interleaved."""
    p = explainer.run.predictions
    order = explainer.available(fair_sample(p, len(p)))
    own = [order[p.expression[order] == c][:EACH] for c in range(N_EXPRESSIONS)]
    return interleave(np.concatenate(own), p.expression)


def _draw_mean(explainer: _Explainer, rows: FaceRows) -> Figure:
    p, classes = explainer.run.predictions, explainer.config().classes
    rows = rows[np.array([EXPRESSIONS[c] in classes for c in p.expression[rows]])]
    compute = partial(explainer.maps, rows, p.expression, N_EXPRESSIONS)
    found = explainer.cached("attention-mean", rows, "mean", compute)
    shown, maps = found["rows"], found["maps"] / 255.0
    return mean_attention(
        explainer.images(shown), maps, p.expression[shown], "", explainer.run.classes
    )


def _draw_feature_map(explainer: _Explainer, method: Method, most: int | None, seed: int) -> Figure:
    p = explainer.run.predictions
    every = explainer.available(np.arange(len(p)))
    limit = min(len(every), MOST_FACES if most is None else most)

    def compute() -> Arrays:
        n = explainer.affordable(limit)
        if n < min(limit, FEWEST_MAPPED):
            raise RunError(
                f"this model processes only {n} faces in {explainer.seconds:g} s here, too few for "
                f"a map; report.figures_of_model(run, dataset, most={FEWEST_MAPPED}) has no time "
                "limit"
            )
        rows = every[thin(len(every), n, seed)]
        features = split_features(explainer.model, explainer.split, explainer.rows[rows])
        return {"rows": rows, "points": embed(features, method, seed)}

    found = explainer.cached("feature-map", every, f"{method} {limit} {seed}", compute)
    rows = found["rows"]
    right = p.right[rows] if p.labelled[rows].any() else None
    return feature_map(found["points"], p.expression[rows], right, METHODS[method], len(every))
