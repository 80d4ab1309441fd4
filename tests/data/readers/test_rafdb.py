import pytest

from affectnet.errors import DataError
from affectnet.labels import EXPRESSIONS

ORDER = ["surprise", "fear", "disgust", "happiness", "sadness", "anger", "neutral"]
LINES = [f"train_{i:05}.jpg {i}" for i in range(1, 8)] + ["test_0001.jpg 4", "test_0002.jpg 7"]


def source(kit, lines=LINES, *, where="Image/aligned", **others):
    files = {"EmoLabel/list_patition_label.txt": "\n".join([*lines, ""])} | others
    for i, text in enumerate(lines):
        stem = text.partition(".jpg")[0]
        files.setdefault(f"{where}/{stem}_aligned.jpg", kit.image(i, "JPEG", 100, 100))
        files.setdefault(f"Image/original/{stem}.jpg", kit.image(i, "JPEG", 300, 200))
    return kit.write(files)


def test_labels_are_in_the_order_of_rafdb_and_images_are_aligned(kit):
    out, info = kit.ingest(source(kit), val_fraction=0)
    assert info.release == "rafdb"
    faces = kit.rows(out)
    for i, name in enumerate(ORDER):
        one = faces[f"train_{i + 1:05}"]
        assert EXPRESSIONS[one.expression] == name
        assert one.image == kit.image(i, "JPEG", 100, 100)
        assert (one.valence, one.arousal, one.landmarks, one.soft) == (None,) * 4
    test = kit.rows(out, "test")
    assert {n: EXPRESSIONS[f.expression] for n, f in test.items()} == {
        "test_0001": "happiness",
        "test_0002": "neutral",
    }


def test_broken_lines_are_dropped(kit):
    lines = [*LINES, "train_00008.jpg 8", "train_00009.jpg 0", "train_00010.jpg", "odd.jpg 3"]
    lines += ["train_00011.jpg 3", "train_00012.jpg 3", "train_00013.jpg five", "train_00001.jpg 1"]
    top = source(kit, lines)
    (top / "Image/aligned/train_00011_aligned.jpg").unlink()
    (top / "Image/aligned/train_00012_aligned.jpg").write_bytes(b"x")
    (top / "EmoLabel/list_patition_label.txt").open("ab").write(
        b"train_\xff.jpg 3\n\ntrain_00014.\xff 3\n"
    )
    out, _ = kit.ingest(top, val_fraction=0)
    assert len(kit.rows(out)) == 7
    assert kit.dropped(out) == {
        "train_00001": "duplicate id",
        "train_00008": "label outside 0-7",
        "train_00009": "label outside 0-7",
        "train_00010.jpg": "unreadable annotation",
        "odd.jpg": "unreadable annotation",
        "train_00011": "annotation without image",
        "train_00012": "undecodable image",
        "train_00013": "label outside 0-7",
        "train_\\udcff": "unreadable id",
        "train_00014": "annotation without image",
    }


def test_original_images_are_refused_and_renamed_aligned_images_read(kit):
    top = source(kit)
    for image in (top / "Image/aligned").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"aligned images .* needed, but there are only those of"):
        kit.ingest(top)
    for i, text in enumerate(LINES):
        name = text.partition(" ")[0]
        kit.write({f"Image/renamed/{name}": kit.image(i, "JPEG", 100, 100)})
    out, _ = kit.ingest(top, val_fraction=0)
    assert kit.rows(out)["train_00003"].image == kit.image(2, "JPEG", 100, 100)


def test_missing_and_ambiguous_sources_are_refused(kit):
    with pytest.raises(DataError, match=r"there is no list_patition_label.txt"):
        kit.ingest(kit.write({"a/b.txt": b""}), release="rafdb")
    top = source(kit)
    kit.write({"copy/train_00001_aligned.jpg": kit.image(0, "JPEG", 100, 100)})
    with pytest.raises(DataError, match=r"aligned images are in .* and in"):
        kit.ingest(top)
    kit.write({"copy/list_patition_label.txt": "train_00001.jpg 1\n"})
    with pytest.raises(DataError, match="two lists of labels"):
        kit.ingest(top)
    empty = kit.write({"list_patition_label.txt": ""}, "empty")
    with pytest.raises(DataError, match=r"aligned images .* there are none"):
        kit.ingest(empty)
