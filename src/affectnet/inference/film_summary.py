"""Summary of a film: who showed what, when and for how long. Computed while the film is predicted.

The expression of a frame is the most probable one, with hysteresis: it changes only to one whose
probability is higher by `MARGIN`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from affectnet.errors import ConfigError, counted
from affectnet.inference.result_files import csv_row
from affectnet.inference.results import FaceResult, PictureResult, Relative, data_frame
from affectnet.inference.tracks import GAP
from affectnet.labels import EXPRESSIONS
from affectnet.run import write_beside

if TYPE_CHECKING:
    import pandas as pd

MARGIN: Final = 0.1
MIN_EPISODE: Final = 0.3
MAX_PERSONS: Final = 2000
MAX_EPISODES: Final = 20_000
MAX_PICTURES: Final = 150
"""Of very many persons and episodes, those in sight for longest are kept."""

_STATISTICS: Final = ("mean", "sd", "min", "max", "slope")
_LONGEST: Final = {"longest_expression": str, "longest_start": float, "longest_end": float}
PERSON_COLUMNS: Final[dict[str, type]] = {
    "source": str,
    "person": int,
    "start": float,
    "end": float,
    "seconds": float,
    "frames": int,
    "usable": float,
    **{f"fraction_{name}": float for name in EXPRESSIONS},
    **{f"episodes_{name}": int for name in EXPRESSIONS},
    **{f"{name}_{what}": float for name in ("valence", "arousal") for what in _STATISTICS},
    **_LONGEST,
    "baseline": str,
}
EPISODE_COLUMNS: Final[dict[str, type]] = {
    "source": str,
    "person": int,
    "expression": str,
    "start": float,
    "end": float,
    "peak": float,
    "probability": float,
    "baseline": str,
}


@dataclass(frozen=True, slots=True)
class Episode:
    """A person shows one expression.

    Attributes:
        person: number, from 1.
        expression: its name.
        start, end: in seconds.
        peak: time at which the expression is most probable.
        probability: mean of the expression's, in [0, 1].
        picture: the face near the peak, a `data:` URI; None where none was kept.
    """

    person: int
    expression: str
    start: float
    end: float
    peak: float
    probability: float
    picture: str | None = field(default=None, repr=False)

    @property
    def seconds(self) -> float:
        """Length."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Statistics:
    """Of valence or arousal over the time in sight; NaN where they are not predicted.

    `slope` is the change per minute of the line fitted by least squares.
    """

    mean: float
    sd: float
    min: float
    max: float
    slope: float


@dataclass(frozen=True, slots=True)
class PersonSummary:
    """One person of a film.

    Attributes:
        person: number, from 1.
        start, end: when the person is first and last in sight, in seconds.
        seconds: in sight.
        frames: in which the person is in sight.
        usable: fraction of the time in which the face is usable, see `affectnet.inference.quality`.
        fractions: fraction of the time of each expression; empty where none is predicted.
        episodes: number of episodes of each expression.
        longest: episode; None where there is none.
    """

    person: int
    start: float
    end: float
    seconds: float
    frames: int
    usable: float
    fractions: Mapping[str, float]
    episodes: Mapping[str, int]
    valence: Statistics
    arousal: Statistics
    longest: Episode | None


@dataclass(frozen=True, slots=True)
class FilmSummary:
    """Summary of a film or of what a camera saw.

    Attributes:
        source: name of the film.
        seconds: its length, as far as it was predicted.
        persons: by number.
        episodes: by start.
        baseline: what the values are relative to; empty where to nothing.
        note: persons or episodes that were left out; empty where none.
    """

    source: str
    seconds: float
    persons: tuple[PersonSummary, ...]
    episodes: tuple[Episode, ...]
    baseline: str = ""
    note: str = ""

    def person_rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row of `PERSON_COLUMNS` per person."""
        for one in self.persons:
            names = ("person", "start", "end", "seconds", "frames", "usable")
            row: dict[str, Any] = {"source": self.source, "baseline": self.baseline or None}
            row |= {name: getattr(one, name) for name in names}
            row |= {f"fraction_{name}": value for name, value in one.fractions.items()}
            row |= {f"episodes_{name}": value for name, value in one.episodes.items()}
            for name in ("valence", "arousal"):
                found = getattr(one, name)
                row |= {f"{name}_{what}": _known(getattr(found, what)) for what in _STATISTICS}
            if one.longest is not None:
                values = (one.longest.expression, one.longest.start, one.longest.end)
                row |= dict(zip(_LONGEST, values, strict=True))
            yield row

    def episode_rows(self) -> Iterator[dict[str, Any]]:
        """Yield one row of `EPISODE_COLUMNS` per episode."""
        for one in self.episodes:
            row = {"source": self.source, "baseline": self.baseline or None}
            yield row | {name: getattr(one, name) for name in EPISODE_COLUMNS if name not in row}

    def to_frame(self) -> "pd.DataFrame":
        """Return a data frame with one row per person."""
        return data_frame(list(self.person_rows()), PERSON_COLUMNS)

    def episodes_frame(self) -> "pd.DataFrame":
        """Return a data frame with one row per episode."""
        return data_frame(list(self.episode_rows()), EPISODE_COLUMNS)


def write_summaries(
    path: Path, films: Sequence[FilmSummary], escape_formulas: bool = False
) -> None:
    """Write the persons of films to `path`, a CSV, and their episodes to `NAME_episodes.csv`."""
    for target, names, rows in (
        (path, PERSON_COLUMNS, (row for film in films for row in film.person_rows())),
        (episodes_path(path), EPISODE_COLUMNS, (row for f in films for row in f.episode_rows())),
    ):
        with write_beside(target) as new, new.open("wb") as file:
            file.writelines(csv_table(names, rows, escape_formulas))


def csv_table(
    names: Mapping[str, type], rows: Iterable[dict[str, Any]], escape_formulas: bool = False
) -> Iterator[bytes]:
    """Yield the lines of a CSV with these columns."""
    yield csv_row(names)
    for row in rows:
        yield csv_row((row.get(name) for name in names), escape_formulas)


def episodes_path(path: Path) -> Path:
    """Return the name of the table of episodes next to a summary."""
    return path.with_name(f"{path.stem}_episodes{path.suffix}")


class _Moments:
    """Weighted mean, variance and trend, frame by frame (West 1979, "Updating mean and variance
    estimates: an improved method")."""

    def __init__(self) -> None:
        self.weight = self.mean = self.time = self.squares = self.times = self.products = 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, value: float, time: float, weight: float) -> None:
        if math.isnan(value):
            return
        self.low, self.high = min(self.low, value), max(self.high, value)
        self.weight += weight
        if self.weight <= 0:
            self.mean = value
            return
        part, off, late = weight / self.weight, value - self.mean, time - self.time
        self.mean += part * off
        self.time += part * late
        self.squares += weight * off * (value - self.mean)
        self.times += weight * late * (time - self.time)
        self.products += weight * late * (value - self.mean)

    def statistics(self) -> Statistics:
        if math.isinf(self.low):
            return Statistics(*[math.nan] * 5)
        sd = math.sqrt(max(0.0, self.squares) / self.weight) if self.weight else 0.0
        slope = 60 * self.products / self.times if self.times > 1e-9 else math.nan
        return Statistics(self.mean, sd, self.low, self.high, slope)


@dataclass(slots=True)
class _Shown:
    """An expression that may become, or is, an episode."""

    expression: str
    start: float
    end: float
    weight: float = 0.0
    total: float = 0.0
    best: float = -1.0
    peak: float = 0.0
    best_pictured: float = -1.0
    picture: str | None = None

    def add(self, p: float, time: float, seconds: float, picture: str | None) -> None:
        self.end = time + seconds
        self.weight += seconds
        self.total += p * seconds
        if p > self.best:
            self.best, self.peak = p, time
        if picture is not None and p > self.best_pictured:
            self.best_pictured, self.picture = p, picture


class _Person:
    def __init__(self, number: int, min_episode: float) -> None:
        self.number, self.min_episode = number, min_episode
        self.start: float | None = None
        self.end = self.seconds = self.usable = 0.0
        self.frames = 0
        self.time_of: dict[str, float] = {}
        self.counts: dict[str, int] = {}
        self.valence, self.arousal = _Moments(), _Moments()
        self.longest: Episode | None = None
        self.current: _Shown | None = None  # the episode, or what may become one
        self.next: _Shown | None = None  # what is shown instead, not for long enough yet
        self.state = ""
        self.shared = 0.0  # when the time of `current` ends, if `next` is confirmed

    def add(
        self,
        face: FaceResult,
        answer: FaceResult | Relative | None,
        time: float,
        seconds: float,
        picture: str | None,
    ) -> Iterator[Episode]:
        """Add a frame; yield an episode that it ends."""
        if self.start is None:
            self.start = time
        if self.frames and time - self.end > self.min_episode + 1e-9:
            yield from self.close()
        self.end = time + seconds
        self.frames += 1
        self.seconds += seconds
        if face.quality is None or face.quality.usable:
            self.usable += seconds
        if answer is None:
            return
        self.valence.add(answer.valence, time, seconds)
        self.arousal.add(answer.arousal, time, seconds)
        if answer.expression is None:
            return
        shares = dict(zip(answer.classes, answer.probabilities, strict=True))
        for name in shares:
            self.time_of.setdefault(name, 0.0)
            self.counts.setdefault(name, 0)
        if not self.state or answer.probability >= shares[self.state] + MARGIN:
            self.state = answer.expression
        self.time_of[self.state] += seconds
        yield from self._show(shares[self.state], time, seconds, picture)

    def _show(
        self, p: float, time: float, seconds: float, picture: str | None
    ) -> Iterator[Episode]:
        if self.current is None:
            self.current = _Shown(self.state, time, time)
        if self.state == self.current.expression:  # what was in between was short
            self.next = None
            self.current.add(p, time, seconds, picture)
            return
        if self.next is None:
            self.shared = time
        if self.next is None or self.next.expression != self.state:
            self.next = _Shown(self.state, time, time)
        self.next.add(p, time, seconds, picture)
        if self.next.end - self.next.start >= self.min_episode - 1e-9:
            self.current.end = min(self.current.end, self.shared)
            yield from self._finished(self.current)
            self.current, self.next = self.next, None

    def close(self) -> Iterator[Episode]:
        """End what is shown, since the person is out of sight or the film ends."""
        if self.current is not None:
            yield from self._finished(self.current)
        self.current = self.next = None
        self.state = ""

    def _finished(self, shown: _Shown) -> Iterator[Episode]:
        if shown.end - shown.start < self.min_episode - 1e-9 or shown.weight <= 0:
            return
        episode = Episode(
            self.number,
            shown.expression,
            round(shown.start, 3),
            round(shown.end, 3),
            round(shown.peak, 3),
            shown.total / shown.weight,
            shown.picture,
        )
        self.counts[shown.expression] += 1
        if self.longest is None or episode.seconds > self.longest.seconds:
            self.longest = replace(episode, picture=None)
        yield episode

    def summary(self) -> PersonSummary:
        whole = sum(self.time_of.values()) or 1.0
        return PersonSummary(
            self.number,
            round(self.start or 0.0, 3),
            round(self.end, 3),
            self.seconds,
            self.frames,
            self.usable / self.seconds if self.seconds else 0.0,
            {name: value / whole for name, value in self.time_of.items()},
            dict(self.counts),
            self.valence.statistics(),
            self.arousal.statistics(),
            self.longest,
        )


class Summariser:
    """Summarises results frame by frame, in bounded memory.

    A frame lasts until the next, at most `GAP` seconds. A person who is out of sight for longer
    than an episode lasts at least shows a new one afterwards.

    Args:
        source: name of the film.
        min_episode: seconds; what is shown for less is no episode, and does not interrupt one.
        baseline: what the faces are compared with (`Baseline.method`); then the values are those
            of `face.relative`, and none for persons without a baseline. Empty where with nothing.

    Raises `ConfigError` for a length out of range.
    """

    def __init__(
        self, source: str = "", min_episode: float = MIN_EPISODE, baseline: str = ""
    ) -> None:
        if not 0 < min_episode <= 60:
            raise ConfigError(f"min_episode is {min_episode}; it may be up to 60 seconds")
        self.source, self.min_episode, self.baseline = source, min_episode, baseline
        self._persons: dict[int, _Person] = {}
        self._episodes: list[Episode] = []
        self._waiting: tuple[PictureResult, Mapping[int, str]] | None = None
        self._step, self._end, self._pictured = 0.04, 0.0, 0
        self._left_out = {"person": 0, "episode": 0}

    def add(self, result: PictureResult, pictures: Mapping[int, str] | None = None) -> None:
        """Add the next frame, with pictures of some of its faces, `data:` URIs, by person."""
        if self._waiting is not None:
            step = (result.time or 0.0) - (self._waiting[0].time or 0.0)
            self._step = min(max(step, 0.0), GAP)
            self._count(*self._waiting)
        self._waiting = result, pictures or {}

    def finish(self) -> FilmSummary:
        """Return the summary of all frames."""
        if self._waiting is not None:
            self._count(*self._waiting)
            self._waiting = None
        for person in self._persons.values():
            self._episodes.extend(person.close())
        self._bound()
        left_out = [counted(n, noun) for noun, n in self._left_out.items() if n]
        return FilmSummary(
            self.source,
            round(self._end, 3),
            tuple(self._persons[number].summary() for number in sorted(self._persons)),
            tuple(sorted(self._episodes, key=lambda one: (one.start, one.person))),
            self.baseline,
            f"{' and '.join(left_out)} of the shortest left out" if left_out else "",
        )

    def _count(self, result: PictureResult, pictures: Mapping[int, str]) -> None:
        time = result.time or 0.0
        self._end = max(self._end, time + self._step)
        for face in result.faces:
            if face.track is None:
                continue
            person = self._persons.get(face.track)
            if person is None:
                person = self._persons[face.track] = _Person(face.track, self.min_episode)
            answer = face.relative if self.baseline else face
            found = list(person.add(face, answer, time, self._step, pictures.get(face.track)))
            self._episodes.extend(found)
            self._pictured += sum(one.picture is not None for one in found)
        if (
            len(self._persons) > 2 * MAX_PERSONS
            or len(self._episodes) > 2 * MAX_EPISODES
            or self._pictured > 2 * MAX_PICTURES
        ):
            self._bound()

    def _bound(self) -> None:
        """Keep the persons and episodes in sight for longest, and the pictures of some."""
        if (more := len(self._persons) - MAX_PERSONS) > 0:
            longest = sorted(self._persons.values(), key=lambda one: -one.seconds)[:MAX_PERSONS]
            self._persons = {one.number: one for one in longest}
            self._episodes = [one for one in self._episodes if one.person in self._persons]
            self._left_out["person"] += more
        self._episodes.sort(key=lambda one: -one.seconds)
        if (more := len(self._episodes) - MAX_EPISODES) > 0:
            del self._episodes[MAX_EPISODES:]
            self._left_out["episode"] += more
        pictured = [i for i, one in enumerate(self._episodes) if one.picture is not None]
        for i in pictured[MAX_PICTURES:]:
            self._episodes[i] = replace(self._episodes[i], picture=None)
        self._pictured = min(len(pictured), MAX_PICTURES)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
