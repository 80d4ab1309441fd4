"""The summary of a film against what is known of it: episodes, fractions and baselines.

    python benchmarks/film_summary.py [--seconds 60] [--persons 3] [--seed 0] [--page FILE]
    python benchmarks/film_summary.py --memory

A film of drawn persons whose expression is known at every moment (`films.plan`). CVNet does not
know drawn faces, so its features are classified by a logistic regression fitted to drawn faces of
other persons; detection, tracking, smoothing and summary are those of `affectnet predict`.

1. Episodes: found, missed, in addition, and how far their starts and ends are from the true ones.
   Compared with the simple way, which takes every run of frames with the same most probable
   expression.
2. Fractions of the time of each expression: the largest and the mean difference.
3. Baseline: an offset is added to the logits, valence and arousal of the first person, as a face
   that looks sad at rest would; the largest difference of that person's fractions and mean valence
   and arousal from those without the offset, without and with a baseline.
4. With --memory, instead: the peak of predicting an hour of video over that of a minute, each with
   summary, baseline and page.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
from films import Shown, encode, persons_film, plan
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression

import affectnet
from affectnet.commands.predict import predict
from affectnet.config import PredictConfig
from affectnet.data.drawn.release import render
from affectnet.inference.baseline import Baseline
from affectnet.inference.classifiers import ClassifierLike, ModelOutput
from affectnet.inference.film import Film
from affectnet.inference.film_summary import Episode, FilmSummary
from affectnet.inference.predictor import Predictor
from affectnet.inference.results import PictureResult
from affectnet.inference.video import predict_video
from affectnet.labels import CIRCUMPLEX, EXPRESSIONS
from affectnet.report.film_page import write_film_page

CLASSES = ("neutral", "happiness", "sadness", "surprise", "anger")
OFFSET_LOGITS, OFFSET_AFFECT = {"sadness": 10.0}, (-0.25, -0.15)
STRANGERS = range(100, 200)
TOLERANCE = 0.2


class DrawnClassifier:
    """A classifier of drawn faces: the features of another, and a logistic regression."""

    targets = ("expression", "valence", "arousal")
    classes = CLASSES

    def __init__(self, features: ClassifierLike) -> None:
        self.features = features
        for name in ("size", "margin", "alignment", "interpolation", "face_size"):
            setattr(self, name, getattr(features, name))
        predictor = Predictor(features)
        pictures, expressions = [], []
        for person in STRANGERS:
            for number, name in enumerate(CLASSES):
                rng = np.random.default_rng(person)
                drawn = render(
                    EXPRESSIONS.index(name), *CIRCUMPLEX[name], rng, size=213, variety=0.4
                )
                pictures.append(drawn[0])
                expressions.append(number)
        results = predictor.predict(pictures)
        seen = [i for i, result in enumerate(results) if result.faces]
        rows = np.array([results[i].faces[0].embedding for i in seen], np.float64)
        self.mean, self.std = rows.mean(axis=0), rows.std(axis=0) + 1e-6
        self.regression = LogisticRegression(max_iter=500).fit(
            (rows - self.mean) / self.std, np.array(expressions)[seen]
        )

    def __call__(self, crops: np.ndarray) -> ModelOutput:
        """Classify face crops."""
        if not len(crops):
            empty = np.empty(0, np.float32)
            return ModelOutput(np.empty((0, len(CLASSES)), np.float32), empty, empty)
        rows = np.asarray(self.features(crops).embedding, np.float64)
        shares = self.regression.predict_proba((rows - self.mean) / self.std)
        affect = shares @ np.array([CIRCUMPLEX[name] for name in CLASSES])
        return ModelOutput(*(v.astype(np.float32) for v in (shares, affect[:, 0], affect[:, 1])))


def main() -> int:
    """Make the film, summarise it and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--persons", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, help="also write the page of the film")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", nargs=2, metavar=("FILM", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        return peak(*map(Path, options.peak))
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as name:
        if options.memory:
            memory(console, Path(name))
            return 0
        plans = plan(options.persons, options.seconds, options.seed)
        frames = persons_film(plans, options.seconds)
        film = encode(frames, Path(name) / "three_persons.avi")
        predictor = Predictor(DrawnClassifier(affectnet.load(embedding=True).classifier))
        results = list(predict_video(predictor, film, keep_pixels=options.page is not None))
    compare(console, plans, results, predictor, options.page)
    return 0


def compare(
    console: Console,
    plans: list[list[Shown]],
    results: list[tuple[PictureResult, np.ndarray | None]],
    predictor: Predictor,
    page: Path | None,
) -> None:
    """Print how far the summary is from the plans, which are of persons from left to right."""
    film = Film(results, "three_persons.avi", pictures=page is not None)
    summary = film.summary()
    if page is not None:
        write_film_page(page, summary, film.over_time)
    first = next(result for result, _ in results if len(result.faces) == len(plans))
    tracks = [face.track for face in sorted(first.faces, key=lambda face: face.box.x)]
    table = Table("", "episodes", "found", "missed", "in addition", "mean", "largest difference")
    ways = (("summary", list(summary.episodes)), ("runs of frames", list(runs(results))))
    for name, episodes in ways:
        found = [match(shown, episodes, tracks[i]) for i, row in enumerate(plans) for shown in row]
        known = np.array([pair for pair in found if pair is not None])
        kept = (np.abs(known) <= TOLERANCE).all(axis=1).sum() if len(known) else 0
        more = len(episodes) - len(known)
        cells = (len(found), kept, len(found) - len(known), more)
        distances = (f"{np.abs(known).mean():.3f} s", f"{np.abs(known).max():.2f} s")
        table.add_row(name, *map(str, cells), *distances)
    console.print(table)
    differences = [
        abs(part(shown, name) - person(summary, track).fractions[name])
        for shown, track in zip(plans, tracks, strict=True)
        for name in CLASSES
    ]
    console.print(
        f"fractions: mean difference {100 * np.mean(differences):.2f} points, largest "
        f"{100 * max(differences):.2f}"
    )
    offset = list(shifted(results, tracks[0]))
    for setting in ("none", "4", "auto"):
        made = []
        for given in (results, offset):
            baseline = None if setting == "none" else Baseline(setting, predictor)
            made.append(person(Film(given, "", baseline).summary(), tracks[0]))
        plain, planted = made
        parts = max(abs(plain.fractions[n] - planted.fractions[n]) for n in CLASSES)
        affect = [abs(getattr(plain, n).mean - getattr(planted, n).mean) for n in AFFECT]
        true = max(abs(part(plans[0], n) - planted.fractions[n]) for n in CLASSES)
        console.print(
            f"offset, baseline {setting}: fractions {100 * parts:.1f} points, mean valence "
            f"{affect[0]:.3f}, mean arousal {affect[1]:.3f}; from the true fractions "
            f"{100 * true:.1f} points"
        )


AFFECT = ("valence", "arousal")


def match(shown: Shown, episodes: list[Episode], track: int | None) -> tuple[float, float] | None:
    """Return start and end less the true ones, of the episode that overlaps most; None: missed."""
    same = [e for e in episodes if (e.person, e.expression) == (track, shown.expression)]
    overlap = [min(e.end, shown.end) - max(e.start, shown.start) for e in same]
    if not overlap or max(overlap) <= 0:
        return None
    best = same[int(np.argmax(overlap))]
    return best.start - shown.start, best.end - shown.end


def runs(results: Iterable[tuple[PictureResult, object]]) -> Iterator[Episode]:
    """Yield runs of frames with the same most probable expression."""
    faces = [(f.track, r.time, f.expression) for r, _ in results for f in r.faces]
    faces.sort(key=lambda one: one[:2])
    for (track, expression), run in groupby(faces, lambda one: (one[0], one[2])):
        times = [time for _, time, _ in run]
        yield Episode(track, expression, times[0], times[-1] + 0.05, times[0], 1.0)


def part(plan_: list[Shown], name: str) -> float:
    """Return the true fraction of the time of an expression."""
    total = sum(one.end - one.start for one in plan_ if one.expression == name)
    return total / (plan_[-1].end - plan_[0].start)


def person(summary: FilmSummary, track: int | None):
    """Return one person of a summary."""
    return next(one for one in summary.persons if one.person == track)


def shifted(
    results: Iterable[tuple[PictureResult, object]], track: int | None
) -> Iterator[tuple[PictureResult, None]]:
    """Yield the results with the offset in one person's faces."""
    for result, _ in results:
        faces = []
        for face in result.faces:
            if face.track == track:
                logits = np.log(np.maximum(face.probabilities, 1e-6))
                logits += [OFFSET_LOGITS.get(name, 0.0) for name in face.classes]
                shares = np.exp(logits - logits.max())
                face = replace(
                    face,
                    probabilities=tuple((shares / shares.sum()).tolist()),
                    valence=face.valence + OFFSET_AFFECT[0],
                    arousal=face.arousal + OFFSET_AFFECT[1],
                )
            faces.append(face)
        yield replace(result, faces=tuple(faces)), None


def memory(console: Console, folder: Path) -> None:
    """Print the peak of an hour and of a minute: small frames, two a second."""
    peaks = {}
    for seconds in (60, 3600):
        plans = plan(3, seconds)
        film = encode(
            persons_film(plans, seconds, fps=2, size=(480, 160)), folder / f"{seconds}.avi", fps=2
        )
        done = subprocess.run(
            [sys.executable, __file__, "--peak", str(film), str(folder / str(seconds))],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[seconds] = float(done.stdout.split()[-1])
        console.print(f"{seconds} s of video: {peaks[seconds]:.0f} MB")
    console.print(f"ratio {peaks[3600] / peaks[60]:.2f}")


def peak(film: Path, folder: Path) -> int:
    """Predict a film with everything that this module is about; print the peak in MB."""
    config = PredictConfig(
        (str(film),),
        out=folder / "faces.csv",
        summary=folder / "summary.csv",
        report=folder / "film.html",
        baseline="auto",
        device="cpu",
    )
    status = predict(config)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return status


if __name__ == "__main__":
    sys.exit(main())
