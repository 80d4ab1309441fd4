import io
import sys

import numpy as np
import pytest
from PIL import Image

from affectnet.data.images import decode_image
from affectnet.data.readers.folder import split_of
from affectnet.errors import ConfigError, DataError
from affectnet.labels import EXPRESSIONS

WORDS = ["Neutral", "happy", "SAD", "surprised", "fear", "disgust", "6_anger", "contempt"]


def files(kit, names, per_class=1, prefix="", start=0):
    return {
        f"{prefix}{name}/{j}.png": kit.image(start + i * per_class + j)
        for i, name in enumerate(names)
        for j in range(per_class)
    }


def test_folders_named_by_words(kit):
    top = kit.write(files(kit, WORDS, 5) | {"happy/notes.txt": b"x", "happy/.DS_Store": b"x"})
    out, info = kit.ingest(top)
    assert info.release == "folder"
    assert info.counts["train"] == dict.fromkeys(EXPRESSIONS, 4)
    assert info.counts["val"] == dict.fromkeys(EXPRESSIONS, 1)
    faces = kit.rows(out, "train", "val")
    for i, word in enumerate(WORDS):
        for j in range(5):
            assert faces[f"{word}/{j}.png"].expression == i
            assert faces[f"{word}/{j}.png"].image == kit.image(i * 5 + j)


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Training", "valid", "Testing")])
def test_splits_are_kept(kit, names):
    made = {}
    for place, name in enumerate(names):
        made |= files(kit, WORDS[: 8 - place], 2, f"set/{name}/", 20 * place)
    out, info = kit.ingest(kit.write(made))
    counts = {split: sum(n.values()) for split, n in info.counts.items()}
    assert counts == {"train": 16, "val": 14, "test": 12}
    assert kit.rows(out, "val")["happy/1.png"].image == kit.image(20 + 3)
    _one, info = kit.ingest(kit.folder / "source" / "set" / names[2])
    assert list(info.counts) == ["test"]
    _both, info = kit.ingest(*(kit.folder / "source" / "set" / name for name in names[:2]))
    assert list(info.counts) == ["train", "val"]


def test_numbers_need_a_class_order(kit):
    top = kit.write(files(kit, "01234567"))
    with pytest.raises(DataError, match=r"numbers its classes .* state what they mean: --class"):
        kit.ingest(top)
    out, info = kit.ingest(top, class_order=(",".join(sorted(EXPRESSIONS)),), val_fraction=0)
    faces = kit.rows(out)
    assert [EXPRESSIONS[faces[f"{i}/0.png"].expression] for i in range(8)] == sorted(EXPRESSIONS)
    assert info.settings["class_order"]["1"] == "contempt"
    out, _ = kit.ingest(top, class_order=("ferplus",), val_fraction=0)
    assert EXPRESSIONS[kit.rows(out)["2/0.png"].expression] == "surprise"


def test_folders_counted_from_one_need_pairs(kit):
    top = kit.write(files(kit, "1234567"))
    with pytest.raises(DataError, match="counts its folders from 1"):
        kit.ingest(top, class_order=EXPRESSIONS)
    out, _ = kit.ingest(top, class_order=("rafdb",), val_fraction=0)
    assert EXPRESSIONS[kit.rows(out)["1/0.png"].expression] == "surprise"
    pairs = tuple(f"{i}={name}" for i, name in enumerate(EXPRESSIONS[:6], 1))
    with pytest.raises(DataError, match="'7', which --class-order does not name; add 7=happiness"):
        kit.ingest(top, class_order=pairs)
    out, _ = kit.ingest(top, class_order=(*pairs, "7=drop"), val_fraction=0)
    assert kit.dropped(out) == {"7/0.png": "none, uncertain, unknown or no face"}


def test_unknown_words_need_a_class_order(kit):
    top = kit.write(files(kit, ["happy", "sad", "weird"]))
    with pytest.raises(DataError, match="'weird', whose meaning is not certain"):
        kit.ingest(top)
    out, _ = kit.ingest(top, class_order=("weird=anger",), val_fraction=0)
    assert kit.rows(out)["weird/0.png"].expression == 6


def test_two_folders_of_one_class_need_a_class_order(kit):
    top = kit.write(files(kit, ["happy", "joy", "sad"]))
    with pytest.raises(DataError, match="has happy and joy, both happiness"):
        kit.ingest(top)
    out, _ = kit.ingest(top, class_order=("happy=happiness", "joy=happiness"), val_fraction=0)
    assert [face.expression for face in kit.rows(out).values()] == [1, 2, 1]  # joy, sad, happy


def test_broken_images_are_dropped(kit):
    bad = {"happy/text.jpg": b"text", "sad/cut.png": kit.image(1)[:-40], "sad/empty.png": b""}
    out, _ = kit.ingest(kit.write(files(kit, ["happy", "sad"]) | bad), val_fraction=0)
    assert kit.dropped(out) == {
        "happy/text.jpg": "undecodable image",
        "sad/cut.png": "truncated image",
        "sad/empty.png": "undecodable image",
    }


def jpeg(kit, seed, form="JPEG", **settings):
    buffer = io.BytesIO()
    Image.fromarray(kit.pixels(seed, 24, 24)).save(buffer, form, **settings)
    return buffer.getvalue()


def test_images_are_known_by_their_content(kit):
    made = {
        "happy/a.jfif": jpeg(kit, 0),
        "happy/b.JPE": jpeg(kit, 1),
        "happy/c": jpeg(kit, 2),
        "happy/d.bin": kit.image(3),
        "sad/e.avif": jpeg(kit, 4, "AVIF"),
        "sad/one/f.png": kit.image(5),
        "sad/one/two/three/four/five/six/g.png": kit.image(6),
        "fear/IMG_1.backup": kit.image(7, "BMP"),
        "fear/Thumbs.db": b"\xd0\xcf\x11\xe0",
        "fear/notes.txt": b"BMI and P5 are words",
        "list.txt": b"x",
        "logs/today.log": b"x",
    }
    out, info = kit.ingest(kit.write(made), val_fraction=0)
    assert set(kit.rows(out)) == {
        name for name in made if name.split("/")[-1][1:2] in ("", ".", "M")
    }
    assert kit.dropped(out) == dict.fromkeys(
        ("fear/Thumbs.db", "fear/notes.txt", "list.txt", "logs"), "file that is not an image"
    )
    assert info.dropped == {"file that is not an image": 4}


def test_heic_is_read_with_its_package_and_named_without(kit, monkeypatch):
    pytest.importorskip("pillow_heif").register_heif_opener()
    made = files(kit, ["happy", "sad"]) | {"fear/0.heic": jpeg(kit, 9, "HEIF")}
    top = kit.write(made)
    out, _ = kit.ingest(top, val_fraction=0)
    image = kit.rows(out)["fear/0.heic"].image
    assert image[:3] == b"\xff\xd8\xff"  # the dataset can be read without the package
    assert np.abs(decode_image(image).astype(int) - kit.pixels(9, 24, 24)).mean() < 20
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DataError, match=r"no image in .*fear can be used \(1 x .*HEIC.*\[heif\]"):
        kit.ingest(top)
    out, _ = kit.ingest(top, val_fraction=0, allow_empty_classes=True)
    assert kit.dropped(out) == {"fear/0.heic": "undecodable image"}


@pytest.mark.parametrize("content", [{}, {"fear/readme.txt": b"x"}, {"fear/0.png": b"no image"}])
def test_a_class_that_becomes_empty_is_an_error_unless_allowed(kit, content):
    top = kit.write(files(kit, ["happy", "sad"]) | content)
    (top / "fear").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=r"no image in .*fear can be used .*--allow-empty-classes"):
        kit.ingest(top)
    _, info = kit.ingest(top, val_fraction=0, allow_empty_classes=True)
    assert info.counts["train"]["fear"] == 0
    with pytest.raises(ConfigError, match="--allow-empty-classes does not apply to table"):
        table = kit.write(
            {"t.csv": "image,label\nfear.png,fear", "fear.png": kit.image(0)}, "table"
        )
        kit.ingest(table, allow_empty_classes=True)


ORDER = tuple(f"{i}={name}" for i, name in enumerate(EXPRESSIONS, 1))


@pytest.mark.parametrize(
    ("train", "val", "names", "order"),
    [
        ("train_class", "val_class", [f"class{i:03}" for i in range(1, 9)], ORDER),
        ("train_set", "val_set", "01234567", ("affectnet",)),
        ("train_set/train_set", "val_set/val_set", "01234567", ("affectnet",)),
        ("archive/Train", "archive/Test", WORDS, ()),
        ("a/train/train/train", "a/val", WORDS, ()),
    ],
)
def test_layouts_of_copies(kit, train, val, names, order):
    made = files(kit, names, 1, f"{train}/") | files(kit, names, 1, f"{val}/", 8)
    top = kit.write(made | {"readme.txt": b"x"})
    if order:
        with pytest.raises(DataError, match=r"numbers its classes .*--class-order"):
            kit.ingest(top)
    out, info = kit.ingest(top, class_order=order)
    splits = ["train", "test" if "Test" in val else "val"]
    assert info.counts == {split: dict.fromkeys(EXPRESSIONS, 1) for split in splits}
    assert kit.rows(out, splits[1])[f"{names[5]}/0.png"].expression == 5


def test_a_single_class_is_not_mistaken_for_a_folder_in_between(kit):
    top = kit.write({"train/happy/a/0.png": kit.image(0), "val/happy/0.png": kit.image(1)})
    _, info = kit.ingest(top, release="folder")
    assert {split: counts["happiness"] for split, counts in info.counts.items()} == {
        "train": 1,
        "val": 1,
    }


@pytest.mark.parametrize(
    ("csv", "says"),
    [
        (",pth,label,relFCs\n0,happy/0.png,sad,0.9\n", "choose with --release table or folder"),
        ("name,Label\n0.png,sad\n", "with labels, which may differ; --release folder uses"),
    ],
)
def test_labels_beside_class_folders_are_asked_about(kit, csv, says):
    top = kit.write(files(kit, ["happy", "sad"]) | {"labels.csv": csv})
    with pytest.raises(DataError, match=says):
        kit.ingest(top)
    out, _ = kit.ingest(top, release="folder", val_fraction=0)
    assert kit.rows(out)["happy/0.png"].expression == 1
    assert kit.dropped(out) == {"labels.csv": "file that is not an image"}
    if "pth" in csv:
        out, _ = kit.ingest(top, release="table", val_fraction=0)
        assert {name: face.expression for name, face in kit.rows(out).items()} == {"happy/0.png": 2}


@pytest.mark.parametrize(
    ("made", "word"),
    [
        (["train/happy", "training/sad"], "train and training, both the train split"),
        (["train/happy", "sad"], "has the split train next to the folder sad"),
        (["happy", "."], "has images next to its folders"),
        ([], "has no folders of images"),
    ],
)
def test_ambiguous_folders_are_refused(kit, made, word):
    top = kit.write(files(kit, made) | {"readme.txt": b""})
    with pytest.raises(DataError, match=word):
        kit.ingest(top, release="folder")


def test_alignment_needs_landmarks(kit):
    with pytest.raises(DataError, match="2 x cannot be aligned"):
        kit.ingest(kit.write(files(kit, ["happy", "sad"])), align=True)
    with pytest.raises(ConfigError, match="--labels shares does not apply to folder"):
        kit.ingest(kit.folder / "source", labels="shares")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00002", "train"),
        ("fer_valid", "val"),
        ("Validation", "val"),
        ("my.test.v2", "test"),
        ("trainable", None),
        ("latest", None),
        ("data", None),
    ],
)
def test_the_split_in_a_name(name, split):
    assert split_of(name) == split
