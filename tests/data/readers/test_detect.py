import io
import json
import re

import numpy as np
import pytest

from affectnet.cli import main
from affectnet.data.crop import eye_centres
from affectnet.data.images import decode_image
from affectnet.data.readers.affectnet_csv import COLUMNS
from affectnet.data.readers.detect import READERS, TITLES, detect
from affectnet.data.store import open_split
from affectnet.errors import DataError

CSV = ",".join(COLUMNS) + "\n1/a.png,0,0,20,20,,1,0.5,0.5\n"
JSON = json.dumps({"human-label": 1, "valence": 0, "arousal": 0})


def layouts(kit) -> dict[str, dict]:
    image = kit.image(0)
    return {
        "affectnet": {"x/train_set/images/1.jpg": image, "x/train_set/annotations/1_exp.npy": b""},
        "affectnet_csv": {"lists/training.csv": CSV, "images/1/a.png": image},
        "affectnet_plus": {
            "train_set/images/1.jpg": image,
            "train_set/annotations/1.json": JSON,
        },
        "ferplus": {"FER2013Valid/label.csv": b"", "FER2013Valid/a.png": image},
        "rafdb": {
            "EmoLabel/list_patition_label.txt": "train_00001.jpg 1\n",
            "Image/aligned/train_00001_aligned.jpg": kit.image(0, "JPEG", 100, 100),
        },
        "folder": {"train/happy/1.png": image, "train/sad/2.png": image},
        "table": {"faces.csv": "path,expression\nimages/1.png,happy\n", "images/1.png": image},
    }


def test_each_release_is_recognised(kit):
    assert set(layouts(kit)) == set(READERS) == set(TITLES)
    for name, files in layouts(kit).items():
        top = kit.write(files, name)
        assert detect([top]) == name
        assert detect([kit.write({f"deeper/{path}": c for path, c in files.items()}, f"{name}2")])


def test_two_releases_in_one_folder_are_refused(kit):
    made = layouts(kit)
    top = kit.write(made["ferplus"] | made["rafdb"])
    with pytest.raises(DataError, match=r"looks like FER\+ .* and like RAF-DB .*--release"):
        detect([top])
    _out, info = kit.ingest(top, release="rafdb", val_fraction=0)
    assert info.release == "rafdb"
    one, other = kit.write(made["folder"], "a"), kit.write(made["rafdb"], "b")
    with pytest.raises(DataError, match=r"looks like a folder of images .* like RAF-DB"):
        detect([one, other])


def test_other_sources_are_refused(kit):
    with pytest.raises(DataError, match="does not look like a known release"):
        detect([kit.write({"a/b.txt": b"", "c/1.png": kit.image(0)})])
    with pytest.raises(DataError, match="absent does not exist"):
        kit.ingest(kit.folder / "absent")
    (kit.folder / "train_set.tar.gz").touch()
    with pytest.raises(DataError, match=r"did you mean 'train_set.tar.gz'\?"):
        kit.ingest(kit.folder / "train_set.tar")
    with pytest.raises(DataError, match="is not a tar archive"):
        kit.ingest(kit.write({"a.txt": b"hello"}) / "a.txt")
    with pytest.raises(DataError, match=r"is a file; .*unpack it"):
        kit.ingest(kit.folder / "source" / "a.txt", release="ferplus")
    with pytest.raises(DataError, match="it needs image or path"):
        kit.ingest(kit.write({"some.csv": "a,b\n1,2\n"}) / "some.csv")


def test_numbered_folders_are_recognised_as_classes(kit):
    top = kit.write(
        {f"{split}/{i}/a.png": kit.image(i) for split in ["train", "test"] for i in range(7)}
    )
    assert detect([top]) == "folder"
    with pytest.raises(DataError, match="--class-order"):
        kit.ingest(top)


def test_links_in_circles_end(kit):
    top = kit.write(layouts(kit)["ferplus"])
    (top / "again").symlink_to(top, target_is_directory=True)
    assert detect([top]) == "ferplus"


def test_the_eight_class_release_is_aligned(drawn_tars, kit):
    plain, _ = kit.ingest(*drawn_tars, val_fraction=0)
    aligned, info = kit.ingest(*drawn_tars, val_fraction=0, align=True, face_size=96)
    assert info.release == "affectnet"
    assert (info.settings["alignment"], info.settings["face_size"]) == ("eyes", 96)
    before, after = open_split(plain, "train"), open_split(aligned, "train")
    assert after.ids == before.ids
    np.testing.assert_array_equal(after.expression, before.expression)
    np.testing.assert_array_equal(after.valence, before.valence)
    for row in range(0, len(after), 17):
        left, right = eye_centres(after.landmarks(row))
        np.testing.assert_allclose(left, (0.35 * 96 - 0.5, 0.36 * 96 - 0.5), atol=1e-3)
        np.testing.assert_allclose(right, (0.65 * 96 - 0.5, 0.36 * 96 - 0.5), atol=1e-3)
        assert decode_image(after.image_bytes(row)).shape == (96, 96, 3)
    assert len(open_split(aligned, "test")) == 48


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--margin", "3"], "--margin is 3.0; it must be -0.4 to 2"),
        (["--face-size", "8"], "--face-size is 8; it must be 16 to 1024 pixels"),
        (["--class-order", "hapy"], "did you mean 'happy'"),
        (["--release", "fer"], "release"),
    ],
)
def test_flags_are_checked_before_anything_is_read(kit, capsys, flags, word):
    out = kit.folder / "dataset"
    assert main(["ingest", str(kit.folder / "absent"), "--out", str(out), *flags]) == 2
    error = capsys.readouterr().err
    assert word in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_the_command_line_takes_orders_in_one_word_or_several(kit):
    top = kit.write({f"{i}/a.png": kit.image(i) for i in range(3)})
    for number, order in enumerate((["sad,happy,angry"], ["sad", "happy", "angry"])):
        out = kit.folder / f"out{number}"
        flags = ["--val-fraction", "0", "--class-order", *order]
        assert main(["ingest", str(top), "--out", str(out), *flags]) == 0
        assert open_split(out, "train").expression.tolist() == [2, 1, 6]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "train.tar.001",
            b"x",
            r"part of a split archive; join the parts .*train\.tar\.\*",
        ),
        ("train.tar.gz.aa", b"x", r"one part of a split archive"),
        ("train.zip.part2", b"x", r"one part of a split archive"),
        ("faces.csv", "path,label\na.png,happy\n".encode("utf-16"), "is text in UTF-16"),
        ("faces.csv", "path,label\na.png,happy\n".encode("utf-16-le"), "is text in UTF-16"),
    ],
)
def test_messages_say_what_it_is_and_the_next_step(kit, capsys, name, content, says):
    source = kit.write({name: content}) / name
    assert main(["ingest", str(source), "--out", str(kit.folder / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(says, error)
    assert "\0" not in error


def test_pickled_annotations_are_named_as_such(kit):
    def saved(value, **settings) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, value, **settings)
        return buffer.getvalue()

    faces = {}
    for i, label in enumerate([np.array("1"), np.array([{"a": 1}], object)]):
        faces |= {
            f"train_set/images/{i}.jpg": kit.image(i, "JPEG"),
            f"train_set/annotations/{i}_exp.npy": saved(label, allow_pickle=True),
            f"train_set/annotations/{i}_val.npy": saved(np.array("0.5")),
            f"train_set/annotations/{i}_aro.npy": saved(np.array("0.5")),
        }
    out, _ = kit.ingest(kit.write(faces), val_fraction=0)
    assert "pickled objects, which can run code" in (out / "dropped.csv").read_text()


@pytest.mark.parametrize("command", [["train", "--data"], ["audit"]])
def test_what_is_not_a_dataset_is_named(kit, capsys, command):
    run = kit.write({"config.yaml": "a: 1", "checkpoints/x": b""}, "run")
    release = kit.write({"train_set/images/1.jpg": kit.image(0)}, "release")
    assert main([*command, str(run)]) == 2
    error = capsys.readouterr().err
    assert "it is a run or a model; give the folder that `affectnet ingest` wrote" in error
    assert main([*command, str(release)]) == 2
    error = capsys.readouterr().err
    assert f"`affectnet ingest {release} --out DATASET` makes one of it" in error
    assert f"--out {release}" not in error
