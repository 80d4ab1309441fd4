"""A film from beginning to end: its frames, their baseline, the courses and the summary."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Final, Self

from affectnet.data.crop import crop_face
from affectnet.data.images import Pixels, data_uri
from affectnet.inference.baseline import Baseline, compared
from affectnet.inference.film_summary import MIN_EPISODE, FilmSummary, Summariser
from affectnet.inference.people import People, joined
from affectnet.inference.results import PictureResult
from affectnet.inference.tracks import OverTime

PICTURE_SIDE: Final = 96
_PICTURE_SECONDS: Final = 0.25
_QUALITY: Final = 80


class Film(Iterator[PictureResult]):
    """The results of a film, frame by frame; afterwards its summary.

    Args:
        results: each frame's result with its pixels, or None, as `predict_video` yields them.
        source: name of the film.
        baseline: what faces are compared with; None: with nothing.
        min_episode: of the summary, in seconds.
        people: number of persons, to whom the faces' numbers are joined, see `People`; needs the
            pixels. The results come when all frames were seen.
        pictures: keep a small JPEG of the face near the peak of an episode; needs the pixels.

    Attributes:
        over_time: valence, arousal and expression so far.
    """

    def __init__(
        self,
        results: Iterable[tuple[PictureResult, Pixels | None]],
        source: str = "",
        baseline: Baseline | None = None,
        min_episode: float = MIN_EPISODE,
        pictures: bool = False,
        people: int | None = None,
    ) -> None:
        self._people = None if people is None else People(people)
        self._summariser = Summariser(source, min_episode, baseline.method if baseline else "")
        self.over_time = OverTime(relative=baseline is not None)
        self._pictured: dict[int, float] | None = {} if pictures else None
        self._summary: FilmSummary | None = None
        self._frames = self._record(results, baseline)

    def __next__(self) -> PictureResult:
        return next(self._frames)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the film here."""
        self._frames.close()

    def summary(self) -> FilmSummary:
        """Predict the rest of the film, and return the summary of all of it."""
        for _ in self:
            pass
        if self._summary is None:
            self._summary = self._summariser.finish()
        return self._summary

    def _record(
        self, results: Iterable[tuple[PictureResult, Pixels | None]], baseline: Baseline | None
    ) -> Generator[PictureResult, None, None]:
        pairs = self._with_pictures(results)
        if self._people is not None:
            pairs = joined(pairs, self._people)
        if baseline is not None:
            pairs = compared(pairs, baseline)
        with closing(pairs):
            for result, pictures in pairs:
                self.over_time.add(result)
                self._summariser.add(result, pictures)
                yield result

    def _with_pictures(
        self, results: Iterable[tuple[PictureResult, Pixels | None]]
    ) -> Generator[tuple[PictureResult, Mapping[int, str]], None, None]:
        for result, pixels in results:
            pictures = {}
            if self._people is not None and pixels is not None:
                self._people.add(result, pixels)
            if self._pictured is not None and pixels is not None:
                time = result.time or 0.0
                for face in result.faces:
                    last = self._pictured.get(face.track or 0, -1.0)
                    if face.track is not None and time - last >= _PICTURE_SECONDS:
                        self._pictured[face.track] = time
                        crop = crop_face(pixels, face.box, PICTURE_SIDE, margin=0.2)
                        pictures[face.track] = data_uri(crop, "jpeg", _QUALITY)
            yield result, pictures
