import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from affectnet.errors import DataError
from affectnet.labels import EXPRESSIONS


def images(kit, n=8, folder="images"):
    return {f"{folder}/{i}.png": kit.image(i) for i in range(n)}


def table(*lines: str) -> str:
    return "\n".join([*lines, ""])


def test_csv_with_paths(kit):
    lines = ["id,path,expression,valence,arousal,split", "a,images/0.png,Happy,0.5,-0.5,train"]
    lines += ["b,images/1.png,anger,,,valid", "c,images/2.png,,-1,1,test"]
    out, info = kit.ingest(kit.write(images(kit) | {"faces.csv": table(*lines)}))
    assert info.release == "table"
    one = kit.rows(out)["a"]
    assert (one.expression, one.valence, one.arousal, one.image) == (1, 0.5, -0.5, kit.image(0))
    two = kit.rows(out, "val")["b"]
    assert (two.expression, two.valence, two.arousal) == (6, None, None)
    three = kit.rows(out, "test")["c"]
    assert (three.expression, three.valence, three.arousal) == (None, -1, 1)


def test_without_split_and_id(kit):
    lines = ["path,expression", *(f"images/{i}.png,{EXPRESSIONS[i]}" for i in range(8))]
    top = kit.write(images(kit) | {"faces.csv": table(*lines)})
    out, _ = kit.ingest(top / "faces.csv", val_fraction=0)
    faces = kit.rows(out)
    assert {name: one.expression for name, one in faces.items()} == {
        f"images/{i}.png": i for i in range(8)
    }
    absolute = [f"{top}/images/{i}.png,{EXPRESSIONS[i]}" for i in range(8)]
    kit.write({"test.csv": table("path,emotion", *absolute)}, "elsewhere")
    out, info = kit.ingest(kit.folder / "elsewhere" / "test.csv", allow_outside=True)
    assert list(info.counts) == ["test"]
    assert sum(info.counts["test"].values()) == 8


TRAPS = {
    "minus_two": ("images/0.png", "happy", "-2", "-2", "valence or arousal is -2"),
    "beyond": ("images/0.png", "happy", "1.5", "0", "valence or arousal outside [-1, 1]"),
    "text": ("images/0.png", "happy", "good", "0", "unreadable annotation"),
    "digits": ("images/0.png", "happy", "1_0", "0", "unreadable annotation"),
    "nothing": ("images/0.png", "", "", "nan", "missing annotation"),
    "gone": ("images/99.png", "happy", "0", "0", "annotation without image"),
    "folder": ("images", "happy", "0", "0", "annotation without image"),
    "no_path": ("", "happy", "0", "0", "annotation without image"),
    "nul": ("a\0b.png", "happy", "0", "0", "unreadable id"),
    "broken": ("broken.png", "happy", "0", "0", "undecodable image"),
}


def test_every_fault_is_dropped_with_its_reason(kit):
    lines = ["id,path,expression,valence,arousal"]
    lines += [",".join((name, *cells[:4])) for name, cells in TRAPS.items()]
    lines += ["short,images/0.png", "good,images/0.png,happy,0,0", ",images/0.png,happy,0,0"]
    lines += ["twice,images/0.png,happy,0,0", "twice,images/1.png,happy,0,0"]
    text = table(*lines).encode() + b"\xff\xfe,images/0.png,happy,0,0\n"
    top = kit.write(images(kit) | {"faces.csv": text, "broken.png": b"x"})
    out, _info = kit.ingest(top, val_fraction=0)
    assert list(kit.rows(out)) == ["good"]
    assert kit.dropped(out) == {name: cells[4] for name, cells in TRAPS.items()} | {
        "row 10": "unreadable annotation",
        "row 12": "missing annotation",
        "twice": "duplicate id",
        "row 15": "missing annotation",
    }


def test_numbers_need_a_class_order(kit):
    lines = ["path,label", *(f"images/{i}.png,{i}" for i in range(8))]
    top = kit.write(images(kit) | {"faces.csv": table(*lines)})
    with pytest.raises(DataError, match="column label, numbers its classes"):
        kit.ingest(top)
    out, _ = kit.ingest(top, class_order=("ferplus",), val_fraction=0)
    assert kit.rows(out)["images/2.png"].expression == 3
    with pytest.raises(DataError, match="'7', which --class-order does not name"):
        kit.ingest(top, class_order=EXPRESSIONS[:7])


def export(kit, path, n=8, names=None, struct=True, **columns):
    """Write Parquet as Hugging Face datasets do."""
    images = [{"bytes": kit.image(i), "path": None} for i in range(n)]
    data = {"image": images if struct else [kit.image(i) for i in range(n)]}
    data |= columns or {"label": list(range(n))}
    made = pa.table(data)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        made = made.replace_schema_metadata(
            {"huggingface": json.dumps({"info": {"features": features}})}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(made, path, row_group_size=3)
    return path


@pytest.mark.parametrize("struct", [True, False])
def test_a_hugging_face_export(kit, struct):
    names = sorted(EXPRESSIONS)
    top = kit.folder / "export"
    export(kit, top / "data" / "train-00000-of-00002.parquet", names=names, struct=struct)
    export(kit, top / "data" / "train-00001-of-00002.parquet", 3, names=names, struct=struct)
    export(kit, top / "data" / "test-00000-of-00001.parquet", 5, names=names, struct=struct)
    out, info = kit.ingest(top, val_fraction=0)
    assert {split: sum(n.values()) for split, n in info.counts.items()} == {"train": 11, "test": 5}
    faces = kit.rows(out, "test")
    for i in range(5):
        one = faces[f"test-00000-of-00001:{i}"]
        assert EXPRESSIONS[one.expression] == names[i]
        assert one.image == kit.image(i)


def test_numbers_without_names_need_a_class_order_in_parquet_too(kit):
    file = export(kit, kit.folder / "faces.parquet")
    with pytest.raises(DataError, match="numbers its classes"):
        kit.ingest(file)
    out, _ = kit.ingest(file, class_order=("affectnet",), val_fraction=0)
    assert [face.expression for face in kit.rows(out).values()] == list(range(8))
    odd = export(kit, kit.folder / "odd.parquet", names=[str(i) for i in range(8)])
    with pytest.raises(DataError, match="numbers its classes"):
        kit.ingest(odd)


def test_parquet_with_everything(kit):
    points = np.arange(136, dtype=float).reshape(68, 2)
    file = export(
        kit,
        kit.folder / "faces.parquet",
        4,
        id=[f"f{i}" for i in range(4)],
        expression=pa.array([1.0, None, 3.0, 9.0]),
        valence=pa.array([0.5, None, -2.0, 0.0], pa.float32()),
        arousal=pa.array([0.5, 0.25, -2.0, 0.0], pa.float32()),
        landmarks=[points.tolist(), None, None, [[1.0, 2.0]]],
        split=["train", "train", "train", "train"],
    )
    out, _ = kit.ingest(file, val_fraction=0, class_order=(*EXPRESSIONS, "drop", "drop"))
    faces = kit.rows(out)
    assert (faces["f0"].expression, faces["f1"].expression) == (1, None)
    assert faces["f1"].arousal == 0.25
    np.testing.assert_array_equal(faces["f0"].landmarks, points.astype("f4"))
    assert kit.dropped(out) == {
        "f2": "valence or arousal is -2",
        "f3": "none, uncertain, unknown or no face",
    }


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"a.csv": "x,y\n1,2\n"}, "has the columns x, y; it needs image or path"),
        ({"a.csv": ""}, "it needs image or path"),
        ({"a.csv": "path,expression,label\n"}, "columns expression and label; leave only the one"),
        ({"a.csv": "path,path,label\n"}, "two columns 'path'"),
        ({"a.csv": "path,label\n"}, "contain no face"),
        ({"a.csv": 'path,label\n"x.png,happy\ny.png,sad\n'}, "a quote opens"),
        ({"a.parquet": b"PAR1 and no more"}, "cannot be read as Parquet"),
        ({"a.csv": "path,label\n", "b.csv": "path,label\n"}, "the split of .* is unknown"),
    ],
)
def test_errors_explain_unusable_tables(kit, files, word):
    top = kit.write(files)
    with pytest.raises(DataError, match=word):
        kit.ingest(*(top / name for name in files), release="table")
