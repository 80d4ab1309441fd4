import pytest

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
