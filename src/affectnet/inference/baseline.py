"""Faces of a film compared with each person's own neutral face.

A face that looks sad at rest is taken for a sad one. What a person's expression adds is seen better
in the difference from that person's neutral face: for valence and arousal it is subtracted, for the
expressions the logarithms of the probabilities are.
"""

import math
import pickle
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from affectnet.errors import ConfigError, DataError
from affectnet.inference.pipeline import Pipeline
from affectnet.inference.results import FaceResult, PictureResult, Relative

T = TypeVar("T")
Floats = NDArray[np.float64]

TYPICAL: Final = 0.75
"""Probability of neutral that a face like the person's neutral one gets; the other classes share
the rest equally."""
CALMEST: Final = 0.1
"""Fraction of a person's faces that `auto` takes for neutral ones."""
MIN_FACES: Final = 5
_SAMPLE_SECONDS: Final = 0.1
_MAX_SAMPLES: Final = 8000
_SMALLEST: Final = 1e-6
_LENGTH: Final = 8


class Neutral(NamedTuple):
    """A person's neutral face: mean logarithms of the probabilities, and mean values."""

    log_probabilities: tuple[float, ...]
    valence: float
    arousal: float

    def compare(self, face: FaceResult) -> Relative:
        """Return a face compared with this one."""
        ratios = np.log(np.maximum(face.probabilities, _SMALLEST)) - self.log_probabilities
        typical = [
            TYPICAL if name == "neutral" else (1 - TYPICAL) / max(1, len(face.classes) - 1)
            for name in face.classes
        ]
        logits = ratios + np.log(typical)
        shares = np.exp(logits - logits.max())
        return Relative(
            face.classes,
            tuple(map(float, shares / shares.sum())),
            tuple(map(float, ratios)),
            face.valence - self.valence,
            face.arousal - self.arousal,
        )


def neutral_of(faces: Floats) -> Neutral:
    """Return the mean of faces: rows of log probabilities, valence and arousal."""
    *logs, valence, arousal = map(float, faces.mean(axis=0))
    return Neutral(tuple(logs), valence, arousal)


def _row(face: FaceResult) -> Floats:
    logs = np.log(np.maximum(face.probabilities, _SMALLEST))
    return np.array([*logs, face.valence, face.arousal])


@dataclass
class _Samples:
    """Faces of a person, at most `_MAX_SAMPLES`, evenly over the time in sight."""

    rows: list[Floats] = field(default_factory=list)
    step: float = _SAMPLE_SECONDS
    last: float = -math.inf
    first: float | None = None

    def add(self, face: FaceResult, time: float) -> None:
        if self.first is None:
            self.first = time
        if time - self.last < self.step - 1e-9:
            return
        self.last = time
        self.rows.append(_row(face))
        if len(self.rows) > _MAX_SAMPLES:
            self.rows, self.step = self.rows[::2], 2 * self.step


class Baseline:
    """How a person's neutral face is found.

    Args:
        setting: seconds, as a number or text: the mean over a person's first seconds; `auto`: the
            mean over the tenth of a person's faces with the highest odds of neutral, or, where the
            model was not trained on expressions, the lowest arousal; otherwise the path of a
            picture of one face, which is everyone's baseline, or such paths by person as
            `1=anna.jpg,2=ben.jpg`.
        predictor: of the picture.

    Faces that are not usable are left out. A person with fewer than `MIN_FACES` faces has no
    baseline.

    Attributes:
        method: words for it.
        waits: whether it is known only at the end of a film.

    Raises:
        ConfigError: the setting is none of these, or the model does not distinguish neutral.
        DataError: the picture cannot be read.
    """

    def __init__(self, setting: float | str | Path, predictor: Pipeline) -> None:
        if "neutral" not in predictor.classes:
            raise ConfigError(
                "a baseline compares with a neutral face, and the model does not distinguish "
                "neutral; leave the baseline out"
            )
        self._odds = "expression" in predictor.targets
        self._fixed: dict[int | None, Neutral] = {}
        self._samples: dict[int, _Samples] = {}
        self.seconds: float | None = None
        text = str(setting)
        self.waits = True
        if text == "auto":
            self.method = "the calmest tenth of each person's faces"
            return
        try:
            self.seconds = float(text)
        except ValueError:
            self.waits, self.method = False, f"the neutral face in {text}"
            self._fixed = {number: _neutral_in(path, predictor) for number, path in _paths(text)}
            return
        if not 0 < self.seconds < math.inf:
            raise ConfigError(f"baseline is {text}; it must be above 0 seconds")
        self.method = f"the first {self.seconds:g} s of each person"

    def add(self, result: PictureResult) -> None:
        """Learn from the next frame of a film."""
        time = result.time or 0.0
        for face in result.faces:
            if face.track is None or (face.quality is not None and not face.quality.usable):
                continue
            samples = self._samples.setdefault(face.track, _Samples())
            begun = time if samples.first is None else samples.first
            if self.seconds is None or time - begun < self.seconds:
                samples.add(face, time)

    def neutral(self) -> dict[int | None, Neutral]:
        """Return the neutral face of each person; that of None is everyone's."""
        if self._fixed:
            return self._fixed
        found: dict[int | None, Neutral] = {}
        for track, samples in self._samples.items():
            rows = np.array(samples.rows)
            if self.seconds is None and len(rows):
                count = max(MIN_FACES, round(CALMEST * len(rows)))
                rows = rows[np.argsort(-self._calmness(rows), kind="stable")[:count]]
            if len(rows) >= MIN_FACES:
                found[track] = neutral_of(rows)
        return found

    def _calmness(self, rows: Floats) -> Floats:
        if not self._odds:
            return -rows[:, -1]
        others = np.exp(rows[:, 1:-2]).sum(axis=1)  # neutral is the first class
        odds: Floats = rows[:, 0] - np.log(np.maximum(others, _SMALLEST))
        return odds


def compared(
    results: Iterable[tuple[PictureResult, T]], baseline: Baseline
) -> Generator[tuple[PictureResult, T], None, None]:
    """Yield the results of a film, their faces compared with the baseline.

    Where the baseline is known only at the end, the results wait; see `at_the_end`.
    """
    if not baseline.waits:
        for result, more in results:
            yield _compare(result, baseline.neutral()), more
        return
    neutral: dict[int | None, Neutral] = {}
    for result, more in at_the_end(results, lambda one: baseline.add(one[0])):
        neutral = neutral or baseline.neutral()
        yield _compare(result, neutral), more


def at_the_end(items: Iterable[T], learn: Callable[[T], object]) -> Generator[T, None, None]:
    """Yield the items when there are no more, after `learn` was called with each.

    They wait in a temporary file, not in memory, so they must be something that can be pickled.
    """
    with tempfile.TemporaryFile() as file:
        for item in items:
            learn(item)
            data = zlib.compress(pickle.dumps(item, pickle.HIGHEST_PROTOCOL), 1)
            file.write(len(data).to_bytes(_LENGTH, "little") + data)
        file.seek(0)
        while length := file.read(_LENGTH):
            # The file is this process's own and has no name.
            yield pickle.loads(zlib.decompress(file.read(int.from_bytes(length, "little"))))


def _compare(result: PictureResult, neutral: dict[int | None, Neutral]) -> PictureResult:
    faces = []
    for face in result.faces:
        own = neutral.get(face.track, neutral.get(None))
        faces.append(face if own is None else replace(face, relative=own.compare(face)))
    return replace(result, faces=tuple(faces))


def _paths(text: str) -> list[tuple[int | None, Path]]:
    """Return person and path of each picture in `anna.jpg` or `1=anna.jpg,2=ben.jpg`."""
    if Path(text).is_file():
        return [(None, Path(text))]
    pairs: list[tuple[int | None, Path]] = []
    for part in text.split(","):
        number, equals, path = part.partition("=")
        is_number = number.isdecimal() and len(number) < 10
        if not equals or not is_number or not Path(path).is_file():
            raise ConfigError(
                f"baseline is {text!r}; it may be a number of seconds, auto, a picture of a face, "
                "or pictures by person such as 1=anna.jpg,2=ben.jpg"
                + (f"; there is no file {path}" if equals and is_number else "")
            )
        pairs.append((int(number), Path(path)))
    return pairs


def _neutral_in(path: Path, predictor: Pipeline) -> Neutral:
    prepared: Any = predictor.prepare_all([(path, None)], workers=1)
    ((result, _),) = predictor.classify_all(prepared, 1)
    if result.reason is not None:
        raise DataError(f"the baseline {path}: {result.reason}")
    if len(result.faces) != 1:
        raise ConfigError(
            f"the baseline {path} has {len(result.faces)} faces; give a picture of one face"
        )
    return neutral_of(_row(result.faces[0])[None])
