"""Drawn faces: the image goes through its landmarks, and the tars read as AffectNet's."""

import csv
import tarfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from affectnet.data.drawn.release import draw_faces, render, write_affectnet_tars
from affectnet.errors import ConfigError
from affectnet.labels import CIRCUMPLEX, EXPRESSIONS

NEUTRAL, HAPPINESS, _, SURPRISE, FEAR, _, ANGER, _ = range(8)
EYES = (range(36, 42), range(42, 48))


def draw(expression, valence=0.0, arousal=0.0, seed=0, size=224, variety=0.0):
    return render(expression, valence, arousal, np.random.default_rng(seed), size, variety=variety)


def patch(pixels, at):
    """The brightness of the 3 x 3 pixels around a place."""
    x, y = np.round(at).astype(int)
    return pixels[y - 1 : y + 2, x - 1 : x + 2].mean(axis=2)


# --- the image and its landmarks


@settings(max_examples=60, deadline=None)
@given(
    expression=st.integers(0, 7),
    valence=st.floats(-1, 1),
    arousal=st.floats(-1, 1),
    seed=st.integers(0, 2**32),
    size=st.sampled_from([32, 48, 97]),
    variety=st.floats(0, 1),
)
def test_every_landmark_lies_inside_the_picture(expression, valence, arousal, seed, size, variety):
    rng = np.random.default_rng(seed)
    pixels, points = render(expression, valence, arousal, rng, size, variety=variety)
    assert pixels.shape == (size, size, 3)
    assert pixels.dtype == np.uint8
    assert points.shape == (68, 2)
    assert points.dtype == np.float32
    assert points.min() >= 0
    assert points.max() <= size - 1


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("expression", [NEUTRAL, HAPPINESS, SURPRISE, FEAR])
def test_pupils_lips_and_nostrils_are_where_the_landmarks_say(expression, seed):
    pixels, points = draw(expression, seed=seed)
    cheek = patch(pixels, (points[30] + points[14]) / 2).mean()
    for eye in EYES:
        corners = points[[eye[0], eye[3]]]
        white = patch(pixels, corners.mean(0) * 0.4 + corners[0] * 0.6).mean()
        pupil = patch(pixels, corners.mean(0)).mean()
        assert pupil < 60
        assert pupil < white - 40
    # A dark line runs along the edge of the upper lip; in an open mouth teeth shine below it.
    for seam in (60, 61, 62, 63, 64):
        assert patch(pixels, points[seam]).min() < 0.75 * cheek
    for nostril in (32, 34):
        assert patch(pixels, points[nostril]).min() < 0.75 * cheek
    if expression in (SURPRISE, FEAR):
        teeth = patch(pixels, 0.7 * points[62] + 0.3 * points[66]).mean()
        assert teeth > patch(pixels, points[66]).mean() + 30


@pytest.mark.parametrize("seed", range(4))
def test_the_edge_of_the_jaw_is_an_edge_of_the_image(seed):
    """Between neighbours of the jaw line, inside is skin and outside is something else."""
    pixels, points = draw(NEUTRAL, seed=seed)
    centre = points[33]

    def colours(share):
        at = np.round(centre + share * (points[3:14] - centre)).astype(int)
        return pixels[at[:, 1], at[:, 0]].astype(int)

    inside, outside = colours(0.93), colours(1.07)
    assert (np.abs(inside - outside).max(axis=1) > 10).all()


def test_half_the_size_is_the_same_picture():
    large, points = draw(HAPPINESS, 0.8, 0.5, seed=4, size=224)
    small, fewer = draw(HAPPINESS, 0.8, 0.5, seed=4, size=112)
    np.testing.assert_allclose((points + 0.5) / 2 - 0.5, fewer, atol=1e-3)
    halved = large.reshape(112, 2, 112, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - small).mean() < 3


def test_labels_change_neither_person_nor_place():
    """The same generator draws the same conditions: far from the face nothing changes."""
    first, points = draw(NEUTRAL, seed=3, variety=1.0)
    second, others = draw(SURPRISE, 0.4, 0.7, seed=3, variety=1.0)
    np.testing.assert_array_equal(first[:8, :8], second[:8, :8])
    np.testing.assert_array_equal(points[[0, 16, 27]], others[[0, 16, 27]])
    assert np.abs(first.astype(int) - second).max() > 50


# --- draw_faces


def test_same_seed_same_faces():
    def run(seed):
        return list(draw_faces(2, seed, 48, soft=True))

    once, again, other = run(5), run(5), run(6)
    for face, same in zip(once, again, strict=True):
        assert face.image == same.image
        assert (face.id, face.expression, face.valence, face.arousal) == (
            same.id,
            same.expression,
            same.valence,
            same.arousal,
        )
        np.testing.assert_array_equal(face.landmarks, same.landmarks)
        np.testing.assert_array_equal(face.soft, same.soft)
    assert not {face.image for face in once} & {face.image for face in other}
    assert len({face.image for face in once}) == 16


def test_faces_have_the_counts_asked_for_and_labels_near_their_circumplex():
    counts = [3, 0, 20, 1, 0, 0, 60, 2]
    faces = list(draw_faces(counts, seed=1, size=32, soft=True))
    assert [face.id for face in faces] == [str(i) for i in range(sum(counts))]
    found = Counter(face.expression for face in faces)
    assert [found[i] for i in range(8)] == counts
    assert [face.expression for face in faces] != sorted(face.expression for face in faces)
    angry = np.array([(f.valence, f.arousal) for f in faces if f.expression == ANGER])
    np.testing.assert_allclose(angry.mean(axis=0), CIRCUMPLEX["anger"], atol=0.08)
    assert (angry.std(axis=0) > 0.08).all()
    assert np.abs(angry).max() <= 1
    for face in faces:
        assert face.soft.sum() == pytest.approx(1)
        assert face.soft.argmax() == face.expression
        with Image.open(BytesIO(face.image)) as image:
            assert (image.format, image.size, image.mode) == ("JPEG", (32, 32), "RGB")
    assert next(draw_faces(1, size=32)).soft is None


def _normalised(points):
    """Take landmarks out of their pose: the eyes' centres to a fixed place."""
    left, right = points[36:42].mean(0), points[42:48].mean(0)
    x, y = (right - left) / np.sum((right - left) ** 2)
    return ((points - (left + right) / 2) @ np.array([[x, -y], [y, x]])).ravel()


def test_expression_valence_and_arousal_can_be_learnt():
    faces = list(draw_faces(70, seed=2, size=48))
    labels = np.array([face.expression for face in faces])
    affect = np.array([(face.valence, face.arousal) for face in faces])
    shapes = np.stack([_normalised(face.landmarks) for face in faces])
    pixels = np.stack(
        [
            np.asarray(Image.open(BytesIO(face.image)).convert("L").resize((24, 24))).ravel()
            for face in faces
        ]
    )
    half = len(faces) // 2

    def accuracy(features, strength):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=500))
        return model.fit(features[:half], labels[:half]).score(features[half:], labels[half:])

    assert accuracy(shapes, 1.0) > 0.9
    assert accuracy(pixels, 0.01) > 0.22  # chance is 0.125; the pose is still in them
    # Beyond what the expression tells: valence and arousal move the face within a class.
    known = np.column_stack([shapes, np.eye(8)[labels]])
    model = make_pipeline(StandardScaler(), Ridge(5.0)).fit(known[:half], affect[:half])
    means = np.array([CIRCUMPLEX[name] for name in EXPRESSIONS])[labels[half:]]
    within = model.predict(known[half:]) - means
    for dimension, least in ((0, 0.6), (1, 0.3)):
        found = np.corrcoef(within[:, dimension], (affect[half:] - means)[:, dimension])[0, 1]
        assert found > least


# --- the tars


def read_tar(path):
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}


def test_tars_have_the_layout_of_affectnet(tmp_path):
    counts = [2, 1, 1, 1, 1, 1, 1, 0]
    train, test = write_affectnet_tars(tmp_path / "new", counts, 1, size=32, seed=3, soft=True)
    assert (train.name, test.name) == ("train_and_val_set.tar", "test_set.tar")
    for path, part, n, seeds in ((train, "train_set", 8, [3, 0]), (test, "val_set", 8, [3, 1])):
        files = read_tar(path)
        per_class = counts if path == train else 1
        expected = list(draw_faces(per_class, seeds, 32, soft=True))
        assert len(files) == 5 * n
        for i, face in enumerate(expected):
            assert files[f"{part}/images/{i}.jpg"] == face.image
            arrays = {
                kind: np.load(
                    BytesIO(files[f"{part}/annotations/{i}_{kind}.npy"]), allow_pickle=False
                )
                for kind in ("exp", "val", "aro", "lnd")
            }
            for kind in ("exp", "val", "aro"):
                assert arrays[kind].dtype.kind == "U"
                assert arrays[kind].shape == ()
            assert int(arrays["exp"].item()) == face.expression
            assert float(arrays["val"].item()) == face.valence
            assert float(arrays["aro"].item()) == face.arousal
            assert arrays["lnd"].shape == (136,)
            np.testing.assert_array_equal(arrays["lnd"].reshape(68, 2), face.landmarks)
        soft = tmp_path / "new" / f"{path.name.removesuffix('_set.tar')}_soft.csv"
        with soft.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        assert rows[0] == ["id", *EXPRESSIONS]
        assert [row[0] for row in rows[1:]] == [face.id for face in expected]
        given = np.array([row[1:] for row in rows[1:]], float)
        np.testing.assert_allclose(given, [face.soft for face in expected], atol=5e-5)
    assert not set(read_tar(train).values()) & {
        content for name, content in read_tar(test).items() if name.endswith(".jpg")
    }


def test_tars_are_the_same_bytes_for_the_same_seed(tmp_path):
    first = write_affectnet_tars(tmp_path / "a", 1, 1, size=32, seed=8)
    second = write_affectnet_tars(tmp_path / "b", 1, 1, size=32, seed=8)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "test_set.tar",
        "train_and_val_set.tar",
    ]


def test_distinct_repeats_a_pool_under_new_ids(tmp_path):
    counts = [40, 1, 9, 0, 5, 5, 20, 20]
    train, _ = write_affectnet_tars(
        tmp_path, counts, 1, size=32, seed=1, distinct=20, landmarks=False
    )
    files = read_tar(train)
    images = {name: content for name, content in files.items() if name.endswith(".jpg")}
    assert len(images) == sum(counts)
    assert len(files) == 4 * sum(counts)
    by_picture = {}
    found = Counter()
    for name, content in images.items():
        id_ = Path(name).stem
        labels = tuple(files[f"train_set/annotations/{id_}_{k}.npy"] for k in ("exp", "val", "aro"))
        assert by_picture.setdefault(content, labels) == labels
        found[int(np.load(BytesIO(labels[0])).item())] += 1
    assert 14 <= len(by_picture) <= 24
    assert [found[i] for i in range(8)] == counts


# --- mistakes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expression": 8}, "expression is 8; choose 0-7"),
        ({"expression": -1}, "neutral, happiness"),
        ({"valence": 1.2}, "valence is 1.2; choose a number from -1 to 1"),
        ({"valence": -2}, "valence is -2"),
        ({"arousal": float("nan")}, "arousal is nan"),
        ({"size": 31}, "size is 31 pixels; choose 32 to 2048"),
        ({"size": 5000}, "size is 5000"),
        ({"variety": 1.5}, "variety is 1.5"),
    ],
)
def test_render_refuses_what_it_cannot_draw(change, words):
    good = {"expression": 0, "valence": 0.0, "arousal": 0.0}
    with pytest.raises(ConfigError, match=words):
        render(**(good | change), rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"per_class": 0}, "number of faces is 0"),
        ({"per_class": [1, 2, 3]}, "8 numbers"),
        ({"per_class": [1] * 7 + [-1]}, "8 numbers from 0 up"),
        ({"per_class": 1, "seed": -1}, "seed is -1"),
        ({"per_class": 1, "size": 8}, "size is 8"),
    ],
)
def test_draw_faces_refuses_at_once(arguments, words):
    with pytest.raises(ConfigError, match=words):
        draw_faces(**arguments)


def test_write_refuses_before_it_writes(tmp_path):
    for wrong in ({"distinct": 0}, {"test_per_class": -1}, {"size": 1}, {"seed": -4}):
        with pytest.raises(ConfigError):
            write_affectnet_tars(tmp_path / "out", **({"train_per_class": 1} | wrong))
    assert not (tmp_path / "out").exists()
