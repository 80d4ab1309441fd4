"""Episodes, fractions and statistics of planted courses against what was planted."""

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from affectnet.data.crop import Box
from affectnet.errors import ConfigError
from affectnet.inference.film import Film
from affectnet.inference.film_summary import FilmSummary, Summariser, write_summaries
from affectnet.inference.quality import Quality
from affectnet.inference.results import FaceResult, PictureResult
from affectnet.labels import EXPRESSIONS

STEP = 0.04
NAN = float("nan")


def face(track: int, expression: str | None, valence: float = 0.0, p: float = 0.86) -> FaceResult:
    rest = (1 - p) / 7
    shares = tuple(
        NAN if expression is None else p if name == expression else rest for name in EXPRESSIONS
    )
    quality = Quality(50, 0.5, 1.0)
    found = FaceResult(Box(0, 0, 9, 9), None, None, EXPRESSIONS, shares, valence, 0.1, track)
    return FaceResult(
        **{name: getattr(found, name) for name in found.__slots__} | {"quality": quality}
    )


def film(*persons: Sequence[str | None]) -> list[PictureResult]:
    """Frames in which each person shows the expression of that frame; "-": out of sight."""
    return [
        PictureResult(
            "f.mp4",
            9,
            9,
            tuple(face(i, one) for i, one in enumerate(shown, 1) if one != "-"),
            frame=n,
            time=n * STEP,
        )
        for n, shown in enumerate(zip(*persons, strict=True))
    ]


def summarise(results: Sequence[PictureResult], **settings: float) -> FilmSummary:
    summariser = Summariser("f.mp4", **settings)
    for result in results:
        summariser.add(result)
    return summariser.finish()


def test_planted_episodes_are_found() -> None:
    one = ["neutral"] * 50 + ["happiness"] * 25 + ["neutral"] * 25
    two = ["-"] * 20 + ["anger"] * 40 + ["-"] * 40
    summary = summarise(film(one, two))
    found = [(e.person, e.expression, e.start, e.end) for e in summary.episodes]
    assert found == [
        (1, "neutral", 0.0, 2.0),
        (2, "anger", 0.8, 2.4),
        (1, "happiness", 2.0, 3.0),
        (1, "neutral", 3.0, 4.0),
    ]
    first, second = summary.persons
    assert first.seconds == pytest.approx(4)
    assert second.seconds == pytest.approx(1.6)
    assert (second.start, second.end) == (0.8, 2.4)
    assert first.fractions["happiness"] == pytest.approx(0.25)
    assert sum(first.fractions.values()) == pytest.approx(1)
    assert first.episodes == {
        name: {"neutral": 2, "happiness": 1}.get(name, 0) for name in EXPRESSIONS
    }
    assert first.longest is not None
    assert (first.longest.expression, first.longest.seconds) == ("neutral", 2.0)
    assert summary.episodes[0].probability == pytest.approx(0.86)


def test_what_is_short_is_no_episode_and_does_not_interrupt_one() -> None:
    shown = ["neutral"] * 30 + ["fear"] * 5 + ["neutral"] * 30 + ["surprise"] * 4 + ["anger"] * 20
    summary = summarise(film(shown))
    found = [(e.expression, round(e.start / STEP), round(e.end / STEP)) for e in summary.episodes]
    assert found == [("neutral", 0, 65), ("anger", 69, 89)]
    assert summary.persons[0].fractions["fear"] == pytest.approx(5 / 89)
    short = summarise(film(shown), min_episode=0.1)
    assert [e.expression for e in short.episodes] == [
        "neutral",
        "fear",
        "neutral",
        "surprise",
        "anger",
    ]


def test_hysteresis_keeps_an_expression_that_is_nearly_the_most_probable() -> None:
    results = []
    for n in range(100):
        p = 0.46 + 0.04 * (-1) ** n  # the two take turns at being the more probable
        shares = (p, 0.92 - p, *[0.08 / 6] * 6)
        one = FaceResult(Box(0, 0, 9, 9), None, None, EXPRESSIONS, shares, 0.0, 0.0, 1)
        results.append(PictureResult("f.mp4", 9, 9, (one,), frame=n, time=n * STEP))
    assert [e.expression for e in summarise(results).episodes] == ["neutral"]


def test_an_absence_ends_an_episode() -> None:
    shown = ["anger"] * 20 + ["-"] * 15 + ["anger"] * 20 + ["-"] * 3 + ["anger"] * 20
    found = [(round(e.start / STEP), round(e.end / STEP)) for e in summarise(film(shown)).episodes]
    assert found == [(0, 20), (35, 78)]


def test_statistics_are_those_of_numpy() -> None:
    rng = np.random.default_rng(0)
    values, times = rng.uniform(-1, 1, 300), np.cumsum(rng.uniform(0.02, 0.2, 300))
    results = [
        PictureResult("f", 9, 9, (face(1, "fear", v),), frame=i, time=t)
        for i, (v, t) in enumerate(zip(values, times, strict=True))
    ]
    (person,) = summarise(results).persons
    weights = np.append(np.diff(times), np.diff(times)[-1])
    mean = np.average(values, weights=weights)
    assert person.valence.mean == pytest.approx(mean)
    assert person.valence.sd == pytest.approx(
        np.sqrt(np.average((values - mean) ** 2, weights=weights))
    )
    assert (person.valence.min, person.valence.max) == (values.min(), values.max())
    slope = np.polyfit(times, values, 1, w=np.sqrt(weights))[0]
    assert person.valence.slope == pytest.approx(60 * slope)


def test_what_is_not_predicted_is_missing_in_every_table(tmp_path: Path) -> None:
    results = [
        PictureResult("f", 9, 9, (face(1, None, NAN),), frame=i, time=i * STEP) for i in range(50)
    ]
    summary = summarise(results)
    assert summary.episodes == ()
    (person,) = summary.persons
    assert math.isnan(person.valence.mean)
    assert person.arousal.mean == pytest.approx(0.1)
    write_summaries(tmp_path / "s.csv", [summary])
    (row,) = csv.DictReader((tmp_path / "s.csv").open())
    assert row["fraction_neutral"] == row["valence_mean"] == row["longest_expression"] == ""
    assert float(row["seconds"]) == pytest.approx(2)
    assert (tmp_path / "s_episodes.csv").read_text().count("\n") == 1
    frame = summary.to_frame()
    assert frame["valence_mean"].isna().all()
    assert list(frame) == list(row)


@pytest.mark.parametrize("escape", [False, True])
def test_names_that_spreadsheets_would_run_are_escaped_on_request(
    escape: bool, tmp_path: Path
) -> None:
    summary = dataclasses.replace(summarise(film(["anger"] * 50)), source="=cmd|' /C calc'!A0.mp4")
    write_summaries(tmp_path / "s.csv", [summary], escape)
    for name in ("s.csv", "s_episodes.csv"):
        (row,) = csv.DictReader((tmp_path / name).open())
        assert row["source"] == "'" * escape + summary.source


def test_a_film_without_faces_or_frames() -> None:
    assert summarise([]).persons == ()
    assert summarise(film(["-"] * 10)).persons == ()
    with pytest.raises(ConfigError, match="min_episode"):
        Summariser(min_episode=0)


def test_the_summary_of_a_film_includes_frames_that_nobody_asked_for() -> None:
    given = Film([(result, None) for result in film(["anger"] * 50)], "f.mp4")
    first = next(given)
    assert first.frame == 0
    assert given.summary().persons[0].frames == 50
    assert given.summary() is given.summary()
    assert len(given.summary().episodes_frame()) == 1
