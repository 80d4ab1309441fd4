import json

import numpy as np
import pytest

from affectnet.data.store import open_split
from affectnet.errors import DataError
from affectnet.labels import EXPRESSIONS

POINTS = np.arange(136).reshape(68, 2) / 8
SOFT = [0.4, 0.2, 0.1, 0.1, 0.1, 0.05, 0.05, 0.0]


def face(label=1, **changes) -> dict:
    meta = {
        "age": 31.5,
        "valence": 0.5,
        "arousal": -0.25,
        "gender": "female",
        "race": "asian",
        "pose": [1.0, -2.5, 3.25],
        "landmark-68": POINTS.tolist(),
        "landmark-29": [[0, 0]] * 29,
    }
    top = {"human-label": label, "soft-label": SOFT, "subset": 0, "meta-data": meta}
    for key, value in changes.items():
        key = key.replace("_", "-")
        where = meta if key in meta else top
        if value is ...:
            del where[key]
        else:
            where[key] = value
    return top


def source(kit, faces: dict, part="train_set", **others):
    files = dict(others)
    for i, (name, annotation) in enumerate(faces.items()):
        files[f"human_annotated/{part}/images/{name}.jpg"] = kit.image(i, "JPEG")
        text = annotation if isinstance(annotation, str | bytes) else json.dumps(annotation)
        files[f"human_annotated/{part}/annotations/{name}.json"] = text
    return kit.write(files)


def test_everything_of_a_face_is_read(kit):
    faces = {str(i): face(label=i, subset=i % 3) for i in range(8)}
    top = source(kit, faces)
    source(kit, {"0": face(label=7)}, part="validation_set")
    out, info = kit.ingest(top, val_fraction=0)
    assert info.release == "affectnet_plus"
    assert kit.rows(out, "test")["0"].expression == 7
    found = kit.rows(out)
    assert {name: f.expression for name, f in found.items()} == {str(i): i for i in range(8)}
    one = found["3"]
    assert one.image == kit.image(3, "JPEG")
    assert (one.valence, one.arousal) == (0.5, -0.25)
    np.testing.assert_array_equal(one.landmarks, POINTS.astype("f4"))
    np.testing.assert_allclose(one.soft, SOFT, atol=1e-6)
    split = open_split(out, "train")
    subsets = ["easy", "challenging", "difficult"]
    assert split.column("subset").to_pylist() == [subsets[i % 3] for i in range(8)]
    assert split.column("age").to_pylist() == [31.5] * 8
    assert split.column("gender").to_pylist() == ["female"] * 8
    assert split.column("race").to_pylist() == ["asian"] * 8
    assert split.column("pose").to_pylist() == [[1.0, -2.5, 3.25]] * 8


@pytest.mark.parametrize(
    "rename",
    [str.upper, str.title, lambda k: k.replace("-", "_"), lambda k: k.replace("-", "")],
)
def test_the_case_of_keys_does_not_matter(kit, rename):
    table = {rename(key): value for key, value in face(label=4).items()}
    meta = rename("meta-data")
    table[meta] = {rename(key): value for key, value in table[meta].items()}
    out, _ = kit.ingest(source(kit, {"1": table}), val_fraction=0)
    one = kit.rows(out)["1"]
    assert (one.expression, one.valence, one.soft is None) == (4, 0.5, False)
    assert open_split(out, "train").column("race").to_pylist() == ["asian"]


def test_values_come_in_many_forms(kit):
    faces = {
        "text": face(label="5", valence="0.25", subset="2", age="44", soft_label=str(SOFT)),
        "word": face(label="Happy", subset="Difficult", gender=1, pose="1, 2 3"),
        "float": face(label=5.0, landmark_68=POINTS.ravel().tolist(), pose={"yaw": 1, "roll": 2}),
        "counts": face(soft_label=[4, 4, 0, 0, 0, 0, 0, 0]),
        "little": face(
            soft_label=...,
            subset=...,
            age="20-30",
            gender=None,
            race=...,
            pose=...,
            landmark_68=None,
        ),
    }
    flat = face(label=2)
    faces["flat"] = {**flat.pop("meta-data"), **flat}
    out, info = kit.ingest(source(kit, faces), val_fraction=0)
    assert info.dropped == {}
    found = kit.rows(out)
    assert found["text"].expression == found["float"].expression == 5
    assert found["word"].expression == 1
    assert found["flat"].expression == 2
    assert found["text"].valence == 0.25
    np.testing.assert_array_equal(found["float"].landmarks, POINTS.astype("f4"))
    np.testing.assert_allclose(found["text"].soft, SOFT, atol=1e-6)
    assert found["counts"].soft.tolist() == [0.5, 0.5, 0, 0, 0, 0, 0, 0]
    split = open_split(out, "train")
    extra = {
        name: {field: split.column(field)[i].as_py() for field in split.schema.names[7:-1]}
        for i, name in enumerate(split.ids)
    }
    assert extra["little"] == dict.fromkeys(["subset", "age", "gender", "race", "pose"])
    assert found["little"].soft is None
    assert found["little"].landmarks is None
    assert extra["text"]["subset"] == extra["word"]["subset"] == "difficult"
    assert extra["text"]["age"] == 44
    assert extra["word"]["gender"] == "1"
    assert extra["word"]["pose"] == [1, 2, 3]
    assert extra["float"]["pose"] == [1, 2]


TRAPS = {
    "none": (face(label=8), "none, uncertain, unknown or no face"),
    "uncertain": (face(label=9, valence=-2, arousal=-2), "none, uncertain, unknown or no face"),
    "said": (face(label="no face"), "none, uncertain, unknown or no face"),
    "minus_two": (face(valence=-2), "valence or arousal is -2"),
    "beyond": (face(arousal=1.5), "valence or arousal outside [-1, 1]"),
    "not_a_number": (face(valence=float("nan")), "missing annotation"),
    "infinite": (face(valence=float("inf")), "valence or arousal outside [-1, 1]"),
    "unlabelled": (face(human_label=...), "missing annotation"),
    "unmeasured": (face(valence=...), "missing annotation"),
    "eleven": (face(label=11), "label outside 0-7"),
    "half": (face(label=1.5), "label outside 0-7"),
    "true": (face(label=True), "unreadable annotation"),
    "list": (face(label=[1]), "unreadable annotation"),
    "nine_shares": (face(soft_label=[0.1] * 9), "unreadable annotation"),
    "negative": (face(soft_label=[1, -1, 0, 0, 0, 0, 0, 0]), "unreadable annotation"),
    "zeros": (face(soft_label=[0] * 8), "unreadable annotation"),
    "subset": (face(subset=3), "unreadable annotation"),
    "points": (face(landmark_68=[1, 2]), "unreadable annotation"),
    "far": (face(landmark_68=[1e30] * 136), "unreadable annotation"),
    "meta": (face() | {"meta-data": 3}, "unreadable annotation"),
    "array": ("[1, 2]", "unreadable annotation"),
    "cut": (json.dumps(face())[:-9], "unreadable annotation"),
    "latin": (b'{"human-label": "\xff"}', "unreadable annotation"),
    "deep": ("[" * 200_000, "unreadable annotation"),
    "endless": ('{"human-label": 1' + "0" * 5000 + "}", "unreadable annotation"),
    "empty": ("", "unreadable annotation"),
}


def test_every_fault_is_dropped_with_its_reason(kit):
    top = source(kit, {name: annotation for name, (annotation, _) in TRAPS.items()})
    source(
        kit,
        {"good": face()},
        **{
            "human_annotated/train_set/images/alone.jpg": kit.image(1),
            "human_annotated/train_set/annotations/orphan.json": json.dumps(face()),
            "human_annotated/train_set/images/broken.jpg": b"x",
            "human_annotated/train_set/annotations/broken.json": json.dumps(face()),
            "human_annotated/train_set/images/._good.jpg": b"resource fork",
        },
    )
    out, _ = kit.ingest(top, val_fraction=0)
    assert list(kit.rows(out)) == ["good"]
    assert kit.dropped(out) == {name: reason for name, (_, reason) in TRAPS.items()} | {
        "alone": "image without annotation",
        "orphan": "annotation without image",
        "broken": "undecodable image",
    }


def test_the_stratified_split_is_made_of_the_training_part(kit):
    out, info = kit.ingest(source(kit, {str(i): face(label=i % 8) for i in range(40)}))
    assert info.counts["train"] == dict.fromkeys(EXPRESSIONS, 4)
    assert info.counts["val"] == dict.fromkeys(EXPRESSIONS, 1)
    assert open_split(out, "val").column("subset").to_pylist() == ["easy"] * 8


def test_aligned_faces(kit):
    points = POINTS.copy()
    points[36:42], points[42:48] = (6, 8), (16, 9)
    top = source(kit, {"a": face(landmark_68=points.tolist()), "b": face(landmark_68=...)})
    out, info = kit.ingest(top, val_fraction=0, align=True, face_size=64)
    found = kit.rows(out)
    assert list(found) == ["a"]
    np.testing.assert_allclose(found["a"].landmarks[36], (0.35 * 64 - 0.5, 0.36 * 64 - 0.5), 1e-5)
    assert info.dropped == {"cannot be aligned": 1}


def test_two_validation_parts_are_refused(kit):
    top = source(kit, {"0": face()}, part="validation_set")
    source(kit, {"0": face()}, part="val_set")
    with pytest.raises(DataError, match="both val_set and validation_set are there"):
        kit.ingest(top)
