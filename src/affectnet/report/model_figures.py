"""How many faces a model can be asked about in a given time, measured on the model itself.

Arrays that take a model seconds to compute, kept beside the evaluation that they belong to.

The figures that need the trained model itself, not only its predictions.
"""

import json
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from affectnet.data.images import decode_image
from affectnet.data.store import open_split
from affectnet.errors import DataError, RunError
from affectnet.figures.explanations import attention_overlays, feature_map, mean_attention
from affectnet.figures.faces import class_name
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS
from affectnet.models.affect_model import AffectModel
from affectnet.report.run_figures import Drawing
from affectnet.report.runs import PREDICTIONS_NAME, EvaluatedRun, read_run
from affectnet.report.samples import fair_sample, most_confident
from affectnet.run import write_beside
from affectnet.version import __version__

STEPS: Final = (2000, 1200, 600, 300, 150, 96, 48, 24, 12, 6, 3, 1)
"""Numbers of faces to choose from: few, so that one machine chooses the same every time."""
SLOW: Final = 0.2
"""Seconds a face from which one face alone tells the speed."""


def seconds_per_face(model: AffectModel) -> float:
    """Time a forward pass on the device where the model is; the model is left as it was."""
    device = next(model.parameters()).device
    size = model.preprocessing.size
    training = model.training
    seconds = 0.0
    model.eval()
    try:
        with torch.inference_mode():
            for faces in (1, 1, 8):  # the first pass warms up
                batch = torch.zeros(faces, 3, size, size, device=device)
                started = time.perf_counter()
                float(model(batch).valence.sum())  # waits for a GPU
                passed, seconds = seconds, (time.perf_counter() - started) / faces
                if min(passed, seconds) > SLOW:
                    break
    finally:
        model.train(training)
    return seconds


def affordable(seconds_a_face: float, seconds: float, most: int) -> int:
    """The largest of `STEPS`, and at most `most`, that takes no longer than `seconds`; at least 1.

    Where `most` itself is affordable it is returned, though it be no step.
    """
    if most * seconds_a_face <= seconds:
        return most
    return next((n for n in STEPS if n <= most and n * seconds_a_face <= seconds), 1)


FOLDER: Final = "explained"

Arrays = Mapping[str, NDArray[Any]]


def kept(run: EvaluatedRun, name: str, asked: str, compute: Callable[[], Arrays]) -> Arrays:
    """Return what `compute` gave when it was asked last, or ask it now and keep the answer.

    Kept as `evaluation/SPLIT/explained/NAME.npz`, and computed anew where the predictions, the
    model's weights or what is `asked` have changed. Where the folder cannot be written to, nothing
    is kept.

    Args:
        asked: all that the answer depends on beside the run: rows, method, seed.
    """
    place = run.folder.evaluation(run.split) / FOLDER / f"{name}.npz"
    key = f"{__version__} {_state(run)} {asked}"
    found = _read(place, key)
    if found is not None:
        return found
    fresh = dict(compute())
    try:
        with write_beside(place) as new, new.open("wb") as file:
            np.savez_compressed(file, key=np.array(key), **fresh)  # type: ignore[arg-type]
    except OSError:
        pass  # a run on a read-only disk: the next report computes it again
    return fresh


def _state(run: EvaluatedRun) -> str:
    """Tells one state of a run from another without reading its weights."""
    predictions = run.folder.evaluation(run.split) / PREDICTIONS_NAME
    weights = [
        f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for path in sorted(run.folder.model.glob("*.safetensors"))
    ]
    return f"{zlib.crc32(predictions.read_bytes()):08x} {' '.join(weights)}"


def _read(place: Path, key: str) -> dict[str, NDArray[Any]] | None:
    try:
        with np.load(place, allow_pickle=False) as file:
            known = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    if str(known.pop("key", "")) != key:
        return None
    return known


if TYPE_CHECKING:
    from affectnet.models.affect_model import AffectModel
    from affectnet.report.embedding import Method

OVERLAYS = 12
EACH = 24
"""Faces of each expression in a mean map."""
SECONDS = 6.0
"""Of model time for each of these figures, where they are drawn unasked; fewer faces if slower."""
FEWEST_MAPPED = 24
"""Faces under which a map of features tells nothing."""
BACKWARD = 1.5
"""Time of a Grad-CAM pass over that of a forward pass, at most: the way back is a short one."""

Rows = NDArray[np.int64]


def model_drawings(
    run: EvaluatedRun | Path | str,
    dataset: Path | str,
    split: str = "test",
    *,
    method: "Method" = "tsne",
    most: int | None = None,
    seed: int = 0,
    seconds: float | None = None,
) -> list[Drawing]:
    """Where the model looks, rightly and wrongly and on average, and the map of its features.

    Nothing is computed before a drawing is drawn. What was computed is kept in
    `evaluation/SPLIT/explained/`, and taken from there until the model or its predictions change.
    A GPU is used where there is one.

    Args:
        run: an evaluated run with its `model/`.
        dataset: the folder that it was evaluated on.
        split: of the dataset; that of `run` where it is read already.
        method: of the feature map, `tsne`, `umap` or `pca`.
        most: faces in the feature map, at most; 2,000 where None.
        seed: of the feature map, and of the faces in it.
        seconds: of model time a figure; a model that is too slow gets fewer faces, and each figure
            says how many. No limit where None.

    Raises:
        RunError: the run is not evaluated on this split, or its model is gone.
        DataError: no such dataset or split.
    """
    known = run if isinstance(run, EvaluatedRun) else read_run(Path(run), split)
    if not (known.folder.model / "config.json").is_file():
        raise RunError(
            f"{known.folder.path} holds no trained model, which these figures need; train the run "
            "again, or leave them out"
        )
    view = _View(known, Path(dataset), seconds)
    p = known.predictions
    average = _average_rows(view)
    return [
        _overlays(view, "wrong", "What it looked at when surely wrong"),
        _overlays(view, "right", "What it looked at when surely right"),
        Drawing(
            "attention-mean",
            "Where it looks for each expression",
            f"Grad-CAM for the annotated expression, mean of up to {EACH} faces, over the mean of "
            "these faces.",
            "Mean Grad-CAM map of each expression over its mean face.",
            lambda: _mean(view, average),
            "" if len(average) else "no face in the dataset has an annotated expression",
            wide=True,
        ),
        Drawing(
            "feature-map",
            "Which faces are alike to it",
            "Each mark is a face, coloured by annotated expression; hollow: predicted wrongly. "
            "Groups that run into one another are expressions that it cannot tell apart.",
            f"Map of the features of faces, by {method}, coloured by annotated expression.",
            lambda: _feature_map(view, method, most, seed),
            "" if len(p) else "there is no face",
            wide=True,
        ),
    ]


def explaining_drawings(run: EvaluatedRun, datasets: Sequence[Path]) -> list[Drawing]:
    """`model_drawings` for a report that goes on without them, within `SECONDS` each.

    Where there is no model or no dataset, one drawing that says so.
    """
    try:
        if not datasets:
            raise DataError("the dataset was not found")
        return model_drawings(run, datasets[0], seconds=SECONDS)
    except (DataError, RunError) as error:
        title = "Where the model looks"
        return [Drawing("attention-wrong", title, "", "", Figure, str(error))]


class _View:
    """A run beside the images of its faces; the model is loaded when it is first asked for."""

    def __init__(self, run: EvaluatedRun, dataset: Path, seconds: float | None) -> None:
        self.run = run
        self.seconds = seconds
        self.split = open_split(dataset, run.split)
        places = {face: row for row, face in enumerate(self.split.ids)}
        self.rows = np.array([places.get(face, -1) for face in run.predictions.ids], np.int64)
        """Row in the split of each predicted face, -1 where it is not there."""
        self.model: Callable[[], AffectModel] = cache(self._load)
        self._speed: Callable[[], float] = cache(self._measure)

    def _load(self) -> "AffectModel":
        import torch

        from affectnet.models.affect_model import AffectModel

        model = AffectModel.from_pretrained(self.run.folder.model)
        return model.to("cuda") if torch.cuda.is_available() else model

    def _measure(self) -> float:
        pass

        return seconds_per_face(self.model())

    def affordable(self, most: int, cost: float = 1.0) -> int:
        """At most so many faces, fewer where the time does not allow them."""
        pass

        return (
            most if self.seconds is None else affordable(cost * self._speed(), self.seconds, most)
        )

    def config(self) -> dict[str, Any]:
        """The model's config.json, which needs no weights."""
        path = self.run.folder.model / "config.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise RunError(f"{path} is damaged ({error}); train the run again") from error

    def there(self, rows: Rows) -> Rows:
        """Those rows of the predictions whose image is in the dataset."""
        return rows[self.rows[rows] >= 0]

    def images(self, rows: Rows) -> NDArray[np.uint8]:
        """The faces as the model takes them, uint8 (n, S, S, 3)."""
        facts = self.config()["preprocessing"]
        size = int(facts["size"])
        images = np.empty((len(rows), size, size, 3), np.uint8)
        for i, row in enumerate(self.rows[rows].tolist()):
            images[i] = decode_image(self.split.image_bytes(row), size, facts["interpolation"])
        return images

    def kept(self, name: str, rows: Rows, asked: object, compute: Callable[[], Arrays]) -> Arrays:
        """What was computed of these rows of this dataset; see `report.kept`."""
        faces = zlib.crc32("\n".join(self.run.predictions.ids[row] for row in rows).encode())
        size = self.split.path.stat().st_size
        return kept(self.run, name, f"{faces:08x} {size} {self.seconds} {asked}", compute)

    def maps(self, rows: Rows, says: list[str]) -> NDArray[np.uint8]:
        """Grad-CAM of each face for what it `says`, in 255 steps, uint8 (n, S, S)."""
        from affectnet.report.grad_cam import grad_cam

        try:
            maps = grad_cam(self.model(), self.images(rows), says)
        except RuntimeError as error:
            # A backbone of the many that timm has may not let gradients through, or memory ends.
            line = str(error).splitlines()[0]
            raise RunError(f"Grad-CAM does not go through this backbone: {line}") from error
        return np.asarray((255 * maps).round(), np.uint8)


def _overlays(view: _View, kind: str, title: str) -> Drawing:
    p = view.run.predictions
    surest = most_confident(p, "wrong" if kind == "wrong" else "right", len(p))
    rows = _in_turn(view.there(surest), p.expression)[:OVERLAYS]

    def compute() -> Arrays:
        shown = rows[: max(3, view.affordable(len(rows), BACKWARD))]
        maps = view.maps(shown, [EXPRESSIONS[c] for c in p.expression_pred[shown]])
        return {"rows": shown, "maps": maps}

    def draw() -> Figure:
        found = view.kept(f"attention-{kind}", rows, kind, compute)
        shown = found["rows"]
        captions = [
            EXPRESSIONS[said] if kind == "right" else f"{EXPRESSIONS[said]}\nis {class_name(truth)}"
            for said, truth in zip(p.expression_pred[shown], p.expression[shown], strict=True)
        ]
        return attention_overlays(view.images(shown), found["maps"] / 255.0, captions)

    return Drawing(
        f"attention-{kind}",
        title,
        "Grad-CAM for the predicted expression: the brighter, the more that part of the face "
        "spoke for it. Each expression gives in turn its surest.",
        f"Grad-CAM maps over the faces that the model is most confidently {kind} about, each "
        "expression in turn.",
        draw,
        "" if len(rows) else f"no face in the dataset is predicted {kind}",
        wide=True,
    )


def _in_turn(rows: Rows, labels: Rows) -> Rows:
    """Rows in another order: the first of each class, then the second of each, and so on."""
    rank = np.empty(len(rows), np.int64)
    for c in np.unique(labels[rows]):
        own = labels[rows] == c
        rank[own] = np.arange(own.sum())
    return rows[np.argsort(rank, kind="stable")]


def _average_rows(view: _View) -> Rows:
    """Some faces of each expression that the model tells apart, chosen by id, in turn."""
    p = view.run.predictions
    order = view.there(fair_sample(p, len(p)))
    own = [order[p.expression[order] == c][:EACH] for c in range(N_EXPRESSIONS)]
    return _in_turn(np.concatenate(own), p.expression)


def _mean(view: _View, rows: Rows) -> Figure:
    p, classes = view.run.predictions, view.config()["classes"]
    known = np.array([EXPRESSIONS[c] in classes for c in p.expression[rows]])
    rows = rows[known]

    def compute() -> Arrays:
        shown = rows[: max(N_EXPRESSIONS, view.affordable(len(rows), BACKWARD))]
        maps = view.maps(shown, [EXPRESSIONS[c] for c in p.expression[shown]])
        return {"rows": shown, "maps": maps}

    found = view.kept("attention-mean", rows, "mean", compute)
    shown = found["rows"]
    return mean_attention(
        view.images(shown), found["maps"] / 255.0, p.expression[shown], "", view.run.classes
    )


def _feature_map(view: _View, method: Any, most: int | None, seed: int) -> Figure:
    from affectnet.figures.style import thin
    from affectnet.report.embedding import MOST_FACES, embed, method_words, split_features

    p = view.run.predictions
    every = view.there(np.arange(len(p)))
    limit = min(len(every), MOST_FACES if most is None else most)

    def compute() -> Arrays:
        n = view.affordable(limit)
        if n < min(limit, FEWEST_MAPPED):
            raise RunError(
                f"{n} faces are all that this model reads in {view.seconds:g} s here, too few for "
                f"a map; plots.model_drawings(run, dataset, most={FEWEST_MAPPED}) takes its time"
            )
        rows = every[thin(len(every), n, seed)]
        features = split_features(view.model(), view.split, view.rows[rows])
        return {"rows": rows, "points": embed(features, method, seed)}

    found = view.kept("feature-map", every, f"{method} {limit} {seed}", compute)
    rows = found["rows"]
    right = p.right[rows] if p.labelled[rows].any() else None
    words = method_words(method)
    return feature_map(found["points"], p.expression[rows], right, words, len(every))
