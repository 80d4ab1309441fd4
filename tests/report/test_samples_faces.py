import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn import write_faces
from PIL import Image

from affectnet.data.images import decode_image
from affectnet.data.store import DatasetInfo, Face, open_split
from affectnet.report.runs import read_run
from affectnet.report.samples import Album, FaceSource, datasets_of, thumbnail


def opened(picture):
    head, _, data = picture.partition(",")
    assert head == "data:image/webp;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        return np.asarray(image.convert("RGB")).astype(float)


def test_pixels_by_id(faces):
    source = FaceSource([faces], "test")
    split = open_split(faces, "test")
    np.testing.assert_array_equal(
        source.pixels("7"), decode_image(split.face(split.ids.index("7")).image)
    )
    assert source.pixels("7", 20).shape == (20, 20, 3)
    assert source.pixels("no such id") is None
    assert source.problem == ""
    assert source.infos()[0].release == "affectnet"


@pytest.mark.parametrize(("shape", "side"), [((48, 48), 48), ((224, 224), 96), ((300, 200), 96)])
def test_thumbnails_are_small_squares_of_the_middle(shape, side):
    pixels = np.zeros((*shape, 3), np.uint8)
    middle = (shape[0] - min(shape)) // 2
    pixels[middle : middle + min(shape)] = (200, 120, 40)
    image = opened(thumbnail(pixels))
    assert image.shape == (side, side, 3)
    np.testing.assert_allclose(image.mean(axis=(0, 1)), (200, 120, 40), atol=6)


def test_a_missing_dataset_is_a_problem_in_words(tmp_path):
    source = FaceSource([tmp_path / "gone"], "test")
    assert "gone is not a dataset" in source.problem
    assert source.pixels("1") is None
    assert "neither the run nor its scores" in FaceSource([], "test").problem


def test_a_split_that_the_dataset_lacks(faces):
    assert "has no split 'val'" in FaceSource([faces], "val").problem


def test_several_datasets_are_searched_in_turn(faces, tmp_path):
    extra = replace(open_split(faces, "test").face(0), id="extra")
    write_faces(tmp_path / "test.arrow", [extra, Face("bad", b"\xff\xd8 no image")])
    DatasetInfo([], "affectnet", {}, {}, "", "").write(tmp_path)
    source = FaceSource([faces, tmp_path], "test")
    assert source.pixels("extra").shape == (48, 48, 3)
    assert source.pixels("bad") is None
    assert len(source.infos()) == 2


def test_the_album_holds_each_face_once_and_keeps_its_budget(faces):
    source = FaceSource([faces], "test")
    album = Album(6000)
    places = [album.add(source, str(i)) for i in [0, 1, 0]]
    assert places == [0, 1, 0]
    assert album.add(source, "no such id") is None
    assert album.refused == 0
    for i in range(2, 30):
        album.add(source, str(i))
    assert sum(map(len, album.pictures)) <= 6000
    assert album.refused == 30 - len(album.pictures)
    np.testing.assert_allclose(opened(album.pictures[1]), source.pixels("1"), atol=90)


def test_relative_paths_from_here_then_from_the_run(make_run, faces, tmp_path, monkeypatch):
    run = make_run("relative", data="data/set")
    (run / "data").mkdir()
    (run / "data" / "set").symlink_to(faces)
    known = read_run(run, "test")
    assert datasets_of(known) == [faces.resolve()]
    here = tmp_path / "here" / "data" / "set"
    here.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert datasets_of(known) == [here.resolve()]


def test_the_dataset_that_was_scored_comes_first(make_run, faces, change_metrics):
    run = make_run("scored", data="/nowhere/else")
    change_metrics(run, lambda known: known["protocol"].update(truth=str(faces)))
    assert datasets_of(read_run(run, "test")) == [faces, Path("/nowhere/else")]


def test_a_run_that_names_no_dataset(make_run):
    run = make_run("nameless")
    (run / "config.yaml").write_text("backbone: x\n")
    assert datasets_of(read_run(run, "test")) == []
