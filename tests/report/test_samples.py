import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn import write_faces
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from affectnet.data.images import decode_image
from affectnet.data.store import DatasetInfo, Face, open_split
from affectnet.report.runs import ScoredFaces, read_run
from affectnet.report.samples import (
    FaceSource,
    Thumbnails,
    datasets_of,
    fair_sample,
    for_gallery,
    largest_affect_errors,
    least_confident,
    most_confident,
    thumbnail,
)


def scored_faces(n, seed, missing=0.2):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.ones(8), n)
    probabilities[rng.random(n) < missing] = np.nan

    def values():
        return np.where(rng.random(n) < missing, np.nan, rng.uniform(-1, 1, n))

    return ScoredFaces(
        ids=[f"face{i:05d}" for i in rng.permutation(n)],
        expression=rng.integers(-1, 8, n),
        valence=values(),
        arousal=values(),
        probabilities=probabilities,
        expression_pred=rng.integers(-1, 8, n),
        valence_pred=values(),
        arousal_pred=values(),
    )


wild = st.builds(scored_faces, st.integers(0, 60), st.integers(0, 99), st.sampled_from([0, 0.5, 1]))
most = st.integers(0, 30)


@given(wild, most, st.sampled_from(["right", "wrong"]))
def test_most_confident_have_the_highest_confidence_of_their_kind(preds, most, kind):
    rows = most_confident(preds, kind, most)
    both = (preds.expression >= 0) & (preds.expression_pred >= 0)
    of_kind = both & ((preds.expression == preds.expression_pred) == (kind == "right"))
    assert len(rows) == min(most, of_kind.sum())
    assert of_kind[rows].all()
    sure = np.nan_to_num(preds.confidence, nan=-1.0)
    assert (np.diff(sure[rows]) <= 0).all()
    left = np.setdiff1d(np.flatnonzero(of_kind), rows)
    if len(left) and len(rows):
        assert sure[left].max() <= sure[rows].min()


@given(wild, most)
def test_least_confident_and_largest_affect_errors(preds, most):
    unsure = least_confident(preds, most)
    assert (np.diff(preds.confidence[unsure]) >= 0).all()
    far = largest_affect_errors(preds, most)
    assert (np.diff(preds.affect_error[far]) <= 0).all()
    assert np.isfinite(preds.affect_error[far]).all()


@given(wild, most)
def test_gallery_has_no_face_twice_and_not_too_many(preds, most):
    rows = for_gallery(preds, most)
    assert len(set(rows.tolist())) == len(rows) <= most


def test_gallery_shows_mistakes_of_every_class():
    preds = scored_faces(4000, 0, missing=0)
    rows = for_gallery(preds, 240)
    wrong = rows[~preds.right[rows] & preds.labelled[rows]]
    assert set(preds.expression[wrong]) == set(range(8))
    assert preds.right[rows].sum() >= 40


@pytest.mark.parametrize("choose", [fair_sample, for_gallery, largest_affect_errors])
def test_the_order_of_the_file_does_not_matter(choose):
    preds = scored_faces(300, 1)
    turned = ScoredFaces(
        ids=preds.ids[::-1],
        **{
            name: getattr(preds, name)[::-1]
            for name in ScoredFaces.__dataclass_fields__
            if name != "ids"
        },
    )
    first = {preds.ids[row] for row in choose(preds, 40)}
    assert first == {turned.ids[row] for row in choose(turned, 40)}
    assert len(first) == 40


def test_the_sample_represents_all_faces():
    preds = scored_faces(20_000, 2, missing=0)
    sample = fair_sample(preds, 2000)
    fraction = np.bincount(preds.expression[sample] + 1, minlength=9) / 2000
    np.testing.assert_allclose(fraction, 1 / 9, atol=0.03)


def opened(uri):
    head, _, data = uri.partition(",")
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


@pytest.mark.parametrize(("shape", "side"), [((48, 48), 48), ((224, 224), 96), ((300, 200), 96)])
def test_thumbnails_are_small_squares_of_the_middle(shape, side):
    pixels = np.zeros((*shape, 3), np.uint8)
    middle = (shape[0] - min(shape)) // 2
    pixels[middle : middle + min(shape)] = (200, 120, 40)
    image = opened(thumbnail(pixels))
    assert image.shape == (side, side, 3)
    np.testing.assert_allclose(image.mean(axis=(0, 1)), (200, 120, 40), atol=6)


def test_a_missing_dataset_is_described_in_words(tmp_path):
    source = FaceSource([tmp_path / "gone"], "test")
    assert "gone is not a dataset" in source.problem
    assert source.pixels("1") is None
    assert "neither the run nor its metrics" in FaceSource([], "test").problem


def test_a_missing_split(faces):
    assert "has no split 'val'" in FaceSource([faces], "val").problem


def test_several_datasets_are_searched_in_turn(faces, tmp_path):
    extra = replace(open_split(faces, "test").face(0), id="extra")
    write_faces(tmp_path / "test.arrow", [extra, Face("bad", b"\xff\xd8 no image")])
    DatasetInfo([], "affectnet", {}, {}, "", "").write(tmp_path)
    source = FaceSource([faces, tmp_path], "test")
    assert source.pixels("extra").shape == (48, 48, 3)
    assert source.pixels("bad") is None
    assert source.datasets == [faces, tmp_path]


def test_thumbnails_contain_each_face_once_up_to_the_limit(faces):
    source = FaceSource([faces], "test")
    thumbnails = Thumbnails(6000)
    places = [thumbnails.add(source, str(i)) for i in [0, 1, 0]]
    assert places == [0, 1, 0]
    assert thumbnails.add(source, "no such id") is None
    assert thumbnails.omitted == 0
    for i in range(2, 30):
        thumbnails.add(source, str(i))
    assert sum(map(len, thumbnails.uris)) <= 6000
    assert thumbnails.omitted == 30 - len(thumbnails.uris)
    np.testing.assert_allclose(opened(thumbnails.uris[1]), source.pixels("1"), atol=90)


def test_relative_paths_start_at_the_working_directory_or_run(
    make_run, faces, tmp_path, monkeypatch
):
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


def test_a_run_without_a_dataset_name(make_run):
    run = make_run("nameless")
    (run / "config.yaml").write_text("backbone: x\n")
    assert datasets_of(read_run(run, "test")) == []
