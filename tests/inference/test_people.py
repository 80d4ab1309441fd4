"""Numbers of faces are joined to persons: by colours and place, never two seen together."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectnet.data.crop import Box
from affectnet.errors import ConfigError
from affectnet.inference.people import People, joined
from affectnet.inference.results import FaceResult, PictureResult
from affectnet.labels import EXPRESSIONS

COLOURS = {"red": (200, 40, 40), "green": (40, 160, 60), "blue": (40, 60, 200)}


def face(number: int, x: float) -> FaceResult:
    return FaceResult(Box(x, 40, 40, 50), 0.9, None, EXPRESSIONS, (1 / 8,) * 8, 0.0, 0.0, number)


def frame(time: float, shown: dict[int, tuple[str, float]]) -> tuple[PictureResult, np.ndarray]:
    """A frame of faces in plain skin above clothes of one colour: number -> colour, x."""
    pixels = np.full((240, 320, 3), 128, np.uint8)
    for colour, x in shown.values():
        left = int(x)
        pixels[40:90, left : left + 40] = (210, 170, 140)
        pixels[95:150, max(0, left - 20) : left + 60] = COLOURS[colour]
    faces = tuple(face(number, x) for number, (_, x) in shown.items())
    return PictureResult("film", 320, 240, faces, frame=round(time * 10), time=time), pixels


def scenes(*scenes: dict[int, tuple[str, float]], seconds: float = 2.0):
    """Frames of scenes that follow each other by cuts."""
    steps = round(seconds * 10)
    return [
        frame((number * steps + i) / 10, shown)
        for number, shown in enumerate(scenes)
        for i in range(steps)
    ]


def persons(frames, count: int) -> dict[int, int]:
    people = People(count)
    for result, pixels in frames:
        people.add(result, pixels)
    return people.persons()


def test_people_are_found_again_after_cuts_wherever_they_are() -> None:
    film = scenes(
        {1: ("red", 30), 2: ("blue", 200)},
        {3: ("blue", 30), 4: ("red", 200)},
        {5: ("green", 120)},
        {6: ("green", 30), 7: ("red", 120), 8: ("blue", 230)},
    )
    assert persons(film, 3) == {1: 1, 2: 2, 3: 2, 4: 1, 5: 3, 6: 3, 7: 1, 8: 2}


def test_alike_people_are_told_apart_by_their_place() -> None:
    film = scenes({1: ("red", 30), 2: ("red", 240)}, {3: ("red", 235), 4: ("red", 35)})
    assert persons(film, 2) == {1: 1, 2: 2, 3: 2, 4: 1}


def test_a_face_of_a_moment_takes_no_persons_place() -> None:
    film = scenes({1: ("red", 30)}, {2: ("blue", 200)}, {4: ("red", 30)})
    film.insert(25, frame(2.45, {3: ("green", 30), 2: ("blue", 200)}))
    found = persons(film, 2)
    assert (found[1], found[2], found[4]) == (1, 2, 1)
    assert found[3] == 1


def test_more_are_in_sight_than_there_should_be() -> None:
    shown = {1: ("red", 30), 2: ("blue", 130), 3: ("green", 230)}
    assert persons(scenes(shown), 2) == {1: 1, 2: 2, 3: 3}


def test_nobody_and_one() -> None:
    assert persons(scenes({}), 2) == {}
    assert persons(scenes({7: ("red", 30)}), 2) == {7: 1}


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_two_in_one_frame_are_never_joined(data: st.DataObject) -> None:
    numbers = iter(range(1, 99))
    plan = []
    for _ in range(data.draw(st.integers(1, 4))):
        places = data.draw(st.lists(st.sampled_from((10, 110, 210)), unique=True, max_size=3))
        plan.append({next(numbers): (data.draw(st.sampled_from(list(COLOURS))), x) for x in places})
    film = scenes(*plan, seconds=data.draw(st.sampled_from((0.3, 1.5))))
    count = data.draw(st.integers(1, 5))
    found = persons(film, count)
    for shown in plan:
        assert len({found[number] for number in shown}) == len(shown)
    assert sorted(set(found.values())) == list(range(1, len(set(found.values())) + 1))


def test_results_and_pictures_get_the_persons_numbers() -> None:
    film = scenes({1: ("red", 30), 2: ("blue", 200)}, {3: ("blue", 30), 4: ("red", 200)})
    people = People(2)

    def frames():
        for result, pixels in film:
            people.add(result, pixels)
            yield result, {one.track: f"picture {one.track}" for one in result.faces}

    found = list(joined(frames(), people))
    assert [one.track for one in found[0][0].faces] == [1, 2]
    assert [one.track for one in found[-1][0].faces] == [2, 1]
    assert found[-1][1] == {2: "picture 3", 1: "picture 4"}
    assert [one.time for one, _ in found] == [one.time for one, _ in film]


@pytest.mark.parametrize("count", [0, -1, 51])
def test_a_count_out_of_range(count: int) -> None:
    with pytest.raises(ConfigError, match="1 to 50"):
        People(count)


def test_a_film_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two drawn persons have changed places when they are back after a second and a half."""
    import csv

    import av

    from affectnet.cli import main
    from affectnet.data.drawn.release import render

    rng = np.random.default_rng(3)
    first, second = (render(one, 0.3, 0.2, rng, size=200, variety=0.8)[0] for one in (1, 3))
    with av.open(str(tmp_path / "film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width, stream.height = 480, 240
        for pair in [(first, second)] * 15 + [None] * 15 + [(second, first)] * 15:
            image = np.full((240, 480, 3), 90, np.uint8)
            if pair is not None:
                image[20:220, 20:220], image[20:220, 260:460] = pair
            film.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        film.mux(stream.encode(None))
    out = tmp_path / "faces.csv"
    assert main(["predict", str(tmp_path / "film.mp4"), "--out", str(out), "--people", "2"]) == 0
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    sides = {
        (float(row["time"]) < 1.5, float(row["x"]) < 240, row["track"])
        for row in rows
        if row["track"]
    }
    assert {track for _, _, track in sides} == {"1", "2"}
    assert len(sides) == 4
    (left,) = (track for early, at_left, track in sides if early and at_left)
    (right,) = (track for early, at_left, track in sides if not early and not at_left)
    assert left == right
    flags = ["--people", "2", "--annotate", str(tmp_path / "drawn")]
    assert main(["predict", str(tmp_path / "film.mp4"), *flags]) == 2
    assert "leave out --annotate" in capsys.readouterr().err
