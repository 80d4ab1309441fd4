"""What prediction returns: frozen records that convert to JSON, a data frame and a figure."""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from affectnet.data.crop import Box, Landmarks, crop_face
from affectnet.data.images import Pixels, as_pixels, data_uri
from affectnet.errors import ConfigError, DataError, counted, installed
from affectnet.inference.quality import Pose, Quality
from affectnet.labels import EXPRESSIONS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_FACE_SIDE: Final = 256
_IMAGE_SIDE: Final = 800
_SHOWN: Final = 5
_POINTS: Final = ("right_eye", "left_eye", "nose", "mouth_right", "mouth_left")


def columns(film: bool, relative: bool = False, embedding: bool = False) -> dict[str, type]:
    """Return the columns of a table of results, in order, with the types of their values.

    Values may be missing.

    Args:
        film: with `frame`, `time` and `track`.
        relative: with the columns that are relative to a baseline.
        embedding: with the embedding.
    """
    return {
        "source": str,
        "status": str,
        **({"frame": int, "time": float} if film else {}),
        "face": int,
        **({"track": int} if film else {}),
        "expression": str,
        "valence": float,
        "arousal": float,
        **{f"p_{name}": float for name in EXPRESSIONS},
        **(_RELATIVE if relative else {}),
        **{"x": float, "y": float, "width": float, "height": float, "score": float},
        **{f"{point}_{axis}": float for point in _POINTS for axis in "xy"},
        **dict.fromkeys(Pose._fields, float),
        **dict.fromkeys(Quality._fields, float),
        "usable": bool,
        **({"embedding": list} if embedding else {}),
        "reason": str,
    }


_RELATIVE: Final[dict[str, type]] = {
    "relative_expression": str,
    "relative_valence": float,
    "relative_arousal": float,
    **{f"log_ratio_{name}": float for name in EXPRESSIONS},
}


class _Answer:
    """The most probable of `classes`."""

    __slots__ = ()
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def expression(self) -> str | None:
        """The most probable expression; None where the model was not trained on expressions."""
        best = self.probability
        return None if math.isnan(best) else self.classes[self.probabilities.index(best)]

    @property
    def probability(self) -> float:
        """Probability of the most probable expression."""
        return max(self.probabilities)


@dataclass(frozen=True, slots=True)
class Relative(_Answer):
    """A face compared with the person's own neutral face, see `affectnet.inference.baseline`.

    Attributes:
        classes: expressions that the model distinguishes.
        probabilities: of `classes`, if the person's neutral face looked like a typical one.
        log_ratios: natural logarithms of the face's probabilities over those of the neutral face.
        valence, arousal: differences from the neutral face, in [-2, 2].

    Values are NaN where the model was not trained on them.
    """

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    log_ratios: tuple[float, ...]
    valence: float
    arousal: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "expression": self.expression,
            "valence": _known(self.valence),
            "arousal": _known(self.arousal),
            "log_ratios": dict(zip(self.classes, map(_known, self.log_ratios), strict=True)),
        }


@dataclass(frozen=True, slots=True, repr=False)
class FaceResult(_Answer):
    """One face.

    Attributes:
        box: in pixels of the upright image; from the detector or the caller, without margin.
        landmarks: five points in pixels (right eye, left eye, nose tip, corners of the mouth), the
            person's own right and left; None where no detector ran.
        score: the detector's, (0, 1]; None where no detector ran.
        classes: expressions that the model distinguishes.
        probabilities: of `classes`, in [0, 1], adding up to 1; NaN where the model was not trained
            on expressions.
        valence, arousal: in [-1, 1]; NaN where the model was not trained on them.
        track: number of the person in a video, from 1; None in images.
        pose: of the head; None without landmarks, and where they are not those of a face.
        quality: how well the face can be seen; `quality.usable` is its documented rule.
        relative: compared with the person's own neutral face; None without a baseline.
        embedding: the backbone's features, float16 (F,); None where they were not requested.
    """

    box: Box
    landmarks: Landmarks | None
    score: float | None
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    valence: float
    arousal: float
    track: int | None = None
    pose: Pose | None = None
    quality: Quality | None = None
    relative: Relative | None = None
    embedding: NDArray[np.float16] | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        expression, valence, arousal, box = _facts(self)
        parts = [
            expression,
            f"valence {valence}" if valence else "",
            f"arousal {arousal}" if arousal else "",
            box if self.track is None else f"{box}, person {self.track}",
        ]
        return f"<FaceResult {', '.join(filter(None, parts))}>"

    def _repr_html_(self) -> str:
        """Return a table of one row, which notebooks show."""
        return _table([self])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "track": self.track,
            "expression": self.expression,
            "valence": _known(self.valence),
            "arousal": _known(self.arousal),
            "probabilities": dict(zip(self.classes, map(_known, self.probabilities), strict=True)),
            **({} if self.relative is None else {"relative": self.relative.to_dict()}),
            "box": self.box._asdict(),
            "score": self.score,
            "landmarks": None
            if self.landmarks is None
            else {name: list(at) for name, at in zip(_POINTS, self.landmarks, strict=True)},
            "pose": None if self.pose is None else self.pose._asdict(),
            "quality": None
            if self.quality is None
            else {**self.quality._asdict(), "usable": self.quality.usable},
        }

    def to_row(self) -> dict[str, Any]:
        """Return the face's columns of `columns`."""
        row = self.to_dict()
        probabilities, points = row.pop("probabilities"), row.pop("landmarks") or {}
        row |= row.pop("box") | {f"p_{name}": value for name, value in probabilities.items()}
        row |= (row.pop("pose") or {}) | (row.pop("quality") or {})
        for name, (x, y) in points.items():
            row |= {f"{name}_x": x, f"{name}_y": y}
        if relative := row.pop("relative", None):
            ratios = relative.pop("log_ratios")
            row |= {f"relative_{name}": value for name, value in relative.items()}
            row |= {f"log_ratio_{name}": value for name, value in ratios.items()}
        return row if self.embedding is None else row | {"embedding": self.embedding}

    def to_frame(self) -> "pd.DataFrame":
        """Return a data frame of one row."""
        return _frame([self.to_row()])

    def plot(self, picture: Any) -> "Figure":
        """Draw the face, its probabilities as bars, and its point on the circumplex.

        Args:
            picture: the image that the face is in, in any form that `predict` takes.
        """
        from affectnet.figures.faces import face_prediction

        crop = crop_face(as_pixels(picture), self.box, _FACE_SIDE)
        affect = np.array([self.valence, self.arousal])
        return face_prediction(crop, self.classes, np.array(self.probabilities), affect)


@dataclass(frozen=True, slots=True, repr=False)
class PictureResult:
    """The faces of one image, or of one frame of a video.

    Attributes:
        source: path of the file, or None where pixels or bytes were given.
        width, height: of the upright image in pixels; None where it could not be read.
        faces: the largest first; empty where no face was found.
        reason: why it could not be read, else None.
        frame: number of the frame in the video, from 0; None for images.
        time: of the frame in seconds; None for images.
    """

    source: str | None
    width: int | None
    height: int | None
    faces: tuple[FaceResult, ...] = ()
    reason: str | None = None
    frame: int | None = None
    time: float | None = None

    def __repr__(self) -> str:
        return f"<PictureResult {self._title()}{': ' if self.faces else ''}{self._list()}>"

    def _repr_html_(self) -> str:
        """Return the image with its faces drawn in, and a table of the faces; notebooks show it.

        Without the image where pixels, bytes or a video were given: results do not keep pixels.
        """
        picture = ""
        if self.faces and self.source is not None and self.frame is None:
            with suppress(DataError):  # the file may be gone
                pixels = _annotated(self, None)
                picture = f'<img src="{data_uri(pixels, "jpeg", 85)}" style="max-width: 100%">'
        return f"<div>{picture}<p>{escape(self._title())}</p>{_table(self.faces)}</div>"

    def _title(self) -> str:
        """Name, size, and how many faces there are."""
        name = "pixels" if self.source is None else Path(self.source).name
        if self.time is not None:
            name += f" at {self.time:.2f} s"
        if self.reason is not None:
            return f"{name}, unreadable: {self.reason}"
        return f"{name}, {self.width} x {self.height}, {counted(len(self.faces), 'face')}"

    def _list(self) -> str:
        shown = [_facts(face)[0] or "face" for face in self.faces[:_SHOWN]]
        more = len(self.faces) - len(shown)
        return ", ".join([*shown, *([f"{more} more"] if more else [])])

    @property
    def status(self) -> str:
        """`ok`, `no face` or `unreadable`."""
        if self.reason is not None:
            return "unreadable"
        return "ok" if self.faces else "no face"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "source": self.source,
            "status": self.status,
            "reason": self.reason,
            "frame": self.frame,
            "time": self.time,
            "width": self.width,
            "height": self.height,
            "faces": [face.to_dict() for face in self.faces],
        }

    def to_rows(self) -> list[dict[str, Any]]:
        """Return one row of `columns` per face; one row with the status where there is none."""
        names = ("source", "status", "frame", "time", "reason")
        common = {name: getattr(self, name) for name in names}
        if not self.faces:
            return [common]
        return [common | {"face": i} | face.to_row() for i, face in enumerate(self.faces, 1)]

    def to_frame(self) -> "pd.DataFrame":
        """Return a data frame with one row per face and the columns `columns`."""
        return _frame(self.to_rows())

    def plot(self, picture: Any = None) -> "Figure":
        """Draw the image with its faces, and their points on the circumplex.

        Args:
            picture: in any form that `predict` takes; read from `source` where not given.
        """
        from affectnet.figures.faces import image_prediction

        classes = self.faces[0].classes if self.faces else ()
        probabilities = np.array([face.probabilities for face in self.faces])
        affect = np.array([(face.valence, face.arousal) for face in self.faces])
        return image_prediction(_annotated(self, picture), classes, probabilities, affect)


class Results(tuple[PictureResult, ...]):
    """The results of several images, in the order given."""

    __slots__ = ()

    def __repr__(self) -> str:
        faces = sum(len(result.faces) for result in self)
        lines = [f"<Results {counted(len(self), 'image')}, {counted(faces, 'face')}"]
        lines += [f"  {result!r}" for result in self[:_SHOWN]]
        more = len(self) - _SHOWN
        return "\n".join([*lines, *([f"  and {more:,} more"] if more > 0 else [])]) + ">"

    def _repr_html_(self) -> str:
        """Return the first results as notebooks show them, and how many more there are."""
        more = len(self) - _SHOWN
        parts = [result._repr_html_() for result in self[:_SHOWN]]
        return "".join([*parts, f"<p>and {more:,} more</p>" if more > 0 else ""])

    def to_dict(self) -> list[dict[str, Any]]:
        """Return one mapping of plain values per image."""
        return [result.to_dict() for result in self]

    def to_frame(self) -> "pd.DataFrame":
        """Return a data frame with one row per face, and one for each image without a face."""
        return _frame([row for result in self for row in result.to_rows()])

    def plot(self, pictures: Sequence[Any] | None = None, most: int = 12) -> "Figure":
        """Draw the first `most` readable images with their faces.

        Args:
            pictures: as many as there are results; read from their `source` where not given.
        """
        from affectnet.figures.faces import images_prediction

        readable = [i for i, result in enumerate(self) if result.reason is None][:most]
        given = [None] * len(self) if pictures is None else list(pictures)
        return images_prediction(
            [_annotated(self[i], given[i]) for i in readable],
            [len(self[i].faces) for i in readable],
        )


def _facts(face: FaceResult) -> list[str]:
    """Expression, valence, arousal and box in words; an empty text for what is not known."""
    x, y, width, height = map(round, face.box)
    return [
        f"{face.expression} {face.probability:.0%}" if face.expression else "",
        *(
            f"{value:+.2f}" if math.isfinite(value) else ""
            for value in (face.valence, face.arousal)
        ),
        f"{width} x {height} px at {x}, {y}",
    ]


def _table(faces: Sequence[FaceResult]) -> str:
    """Return an HTML table with one row per face; empty without faces."""
    if not faces:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("expression", "valence", "arousal", "box"))
    rows = ("".join(f"<td>{value}</td>" for value in _facts(face)) for face in faces)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _annotated(result: PictureResult, picture: Any) -> Pixels:
    """Return the image, read from its source where not given, with the faces drawn in."""
    from affectnet.inference.drawing import annotate

    if picture is None and result.source is None:
        raise DataError("the result does not contain its image; pass it: result.plot(picture)")
    pixels = as_pixels(result.source if picture is None else picture)
    return annotate(pixels, result, panel=False, largest=_IMAGE_SIDE)


def _known(value: float) -> float | None:
    """Null for what is missing: NaN is not JSON."""
    return None if math.isnan(value) else value


def _frame(rows: list[dict[str, Any]]) -> "pd.DataFrame":
    film = any(row.get("frame") is not None for row in rows)
    relative, embedding = (
        any(name in row for row in rows) for name in ("relative_valence", "embedding")
    )
    return data_frame(rows, columns(film, relative, embedding))


def data_frame(rows: list[dict[str, Any]], names: Mapping[str, type]) -> "pd.DataFrame":
    """Return rows as a data frame with these columns; raises `ConfigError` without pandas."""
    if not installed("pandas"):
        raise ConfigError(
            "a data frame needs pandas, which is not installed; run `pip install pandas`"
        )
    import pandas as pd

    kinds = {str: "object", int: "Int64", float: "float64", bool: "boolean", list: "object"}
    return pd.DataFrame(
        {
            name: pd.Series([row.get(name) for row in rows], dtype=kinds[kind])
            for name, kind in names.items()
        }
    )
