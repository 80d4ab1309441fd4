import gzip
import io
import lzma
import os
import random
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import zstandard
from PIL import Image

from affectnet.data.readers.affectnet import read_affectnet
from affectnet.data.readers.engine import ReadOptions
from affectnet.errors import DataError

PACKERS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def npy(value) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(value))
    return buffer.getvalue()


def encoded(seed: int, form: str = "JPEG", size: int = 16) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def face(part: str, name: str, **changes) -> dict[str, bytes | None]:
    """Files of a good face, but for `changes` (exp, val, aro, lnd, image); None leaves one out."""
    number = int(name) if name.isdigit() else len(name)
    pieces = {
        "exp": npy(str(number % 8)),
        "val": npy(str(round(np.sin(number), 6))),
        "aro": npy(str(round(np.cos(number), 6))),
        "lnd": npy(np.linspace(0, number, 136)),
        "image": encoded(number),
    } | changes
    suffix = pieces.pop("suffix", "jpg")
    image = pieces.pop("image")
    files = {f"{part}/annotations/{name}_{k}.npy": v for k, v in pieces.items()}
    files[f"{part}/images/{name}.{suffix}"] = image
    return {path: content for path, content in files.items() if content is not None}


def release(n: int = 20, part: str = "train_set") -> dict[str, bytes]:
    return {k: v for i in range(n) for k, v in face(part, str(i)).items()}


def tar(path: Path, files, packer=PACKERS[""], prefix: str = "") -> Path:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items() if isinstance(files, dict) else files:
            info = tarfile.TarInfo(prefix + name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    path.write_bytes(packer(buffer.getvalue()))
    return path


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def read(tmp_path: Path, *paths: Path, check: str = "decode"):
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    return read_affectnet(paths, ReadOptions(scratch, check, lambda _: lambda *_: None))


def contents(found) -> dict[str, list]:
    """Everything in a release, for comparison."""
    result = {}
    for name, part in found.parts.items():
        rows = np.arange(len(part))
        result[name] = [
            part.ids,
            part.expression.tolist(),
            part.valence.tolist(),
            part.arousal.tolist(),
            [bytes(image) for image in part.images(rows)],
            part.landmarks(rows)[0].tolist(),
            part.landmarks(rows)[1].tolist(),
            part.dropped,
        ]
    return result


def test_everything_of_a_face_is_read(tmp_path):
    with read(tmp_path, tar(tmp_path / "x", release())) as found:
        part = found.parts["train_set"]
        rows = np.arange(20)
        assert part.ids == [str(i) for i in rows]
        assert part.expression.tolist() == [i % 8 for i in range(20)]
        np.testing.assert_array_equal(part.valence, np.round(np.sin(rows), 6).astype("f4"))
        np.testing.assert_array_equal(part.arousal, np.round(np.cos(rows), 6).astype("f4"))
        assert [bytes(image) for image in part.images(rows)] == [encoded(i) for i in rows]
        landmarks, absent = part.landmarks(rows)
        assert not absent.any()
        np.testing.assert_array_equal(landmarks[7], np.linspace(0, 7, 136).astype("f4"))
        assert part.dropped == []


@pytest.mark.parametrize("check", ["decode", "header"])
@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("order", ["as it is", "images first", "annotations first", "random"])
def test_neither_order_nor_packing_changes_the_release(tmp_path, kind, order, check):
    files = release() | release(5, "val_set") | face("train_set", "77", image=b"\xff\xd8broken")
    with read(tmp_path, folder(tmp_path / "unpacked", files), check=check) as found:
        expected = contents(found)
    listed = list(files.items())
    if order == "random":
        random.Random(3).shuffle(listed)
    elif order != "as it is":
        listed.sort(key=lambda file: ("images" in file[0]) != (order == "images first"))
    archive = tar(tmp_path / f"release.tar{kind}", listed, PACKERS[kind])
    with read(tmp_path, archive, check=check) as found:
        assert contents(found) == expected
    assert len(expected["train_set"][0]) == 20
    assert len(expected["val_set"][0]) == 5
    assert list((tmp_path / "scratch").iterdir()) == []


def test_gnu_tar_of_a_mac_folder(tmp_path):
    files = release() | {
        "train_set/images/._1.jpg": b"resource fork",
        "train_set/.DS_Store": b"x",
        "README.txt": b"hello",
    }
    source = folder(tmp_path / "unpacked", files)
    for name, options in {"a": [], "b": ["--format=posix"], "c": ["--format=v7"]}.items():
        archive = tmp_path / name
        subprocess.run(["tar", *options, "-cf", archive, "-C", source, "."], check=True)
        with read(tmp_path, archive) as found:
            assert len(found.parts["train_set"]) == 20
            assert found.other_files == 1


def test_parts_are_recognised_by_their_folders(tmp_path):
    wrong_names = [
        tar(tmp_path / "train_and_val_set.tar", release(3, "val_set")),
        tar(tmp_path / "test_set.tar", release(4, "train_set"), prefix="./AffectNet/8 classes/"),
    ]
    with read(tmp_path, *wrong_names) as found:
        assert {name: len(part) for name, part in found.parts.items()} == {
            "train_set": 4,
            "val_set": 3,
        }


@pytest.mark.parametrize("at", ["", "train_set", ".."])
def test_a_folder_may_be_given_at_any_level(tmp_path, at, monkeypatch):
    source = folder(tmp_path / "deep" / "er", release())
    path = source / at
    if at == "..":
        monkeypatch.chdir(source)
        path = Path(at)
    with read(tmp_path, path) as found:
        assert len(found.parts["train_set"]) == 20


def test_folders_may_be_reached_by_links(tmp_path):
    source = folder(tmp_path / "disk", release())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train_set").symlink_to(source / "train_set")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    with read(tmp_path, tmp_path / "data") as found:
        assert len(found.parts["train_set"]) == 20


def test_a_part_may_come_in_pieces(tmp_path):
    files = release()
    images = {name: content for name, content in files.items() if "images" in name}
    others = {name: content for name, content in files.items() if "images" not in name}
    sources = [
        tar(tmp_path / "a.tar.gz", images, PACKERS[".gz"]),
        folder(tmp_path / "b", others),
        tar(tmp_path / "c.tar", face("train_set", "99")),
    ]
    with read(tmp_path, *sources) as found:
        part = found.parts["train_set"]
        assert part.ids == [*(str(i) for i in range(20)), "99"]
        assert [bytes(i) for i in part.images(np.array([20, 3]))] == [encoded(99), encoded(3)]


def test_labels_of_every_kind(tmp_path):
    files = {}
    for i, (exp, val) in enumerate(
        [
            (npy("3"), npy("-0.5")),
            (npy(3), npy(-0.5)),
            (npy([3]), npy([-0.5])),
            (npy(3.0), npy(np.float32(-0.5))),
            (npy(np.uint8(3)), npy(["-0.5"])),
            (npy(b"3"), npy(b"-0.5")),
        ]
    ):
        files |= face("train_set", str(i), exp=exp, val=val, lnd=None)
    with read(tmp_path, tar(tmp_path / "x", files)) as found:
        part = found.parts["train_set"]
        assert part.expression.tolist() == [3] * 6
        assert part.valence.tolist() == [-0.5] * 6
        assert part.landmarks(np.arange(6))[1].all()


def planted() -> dict[str, tuple[dict[str, bytes], str, str]]:
    """Faults of every kind: id -> files, reason, a word of the detail."""
    whole = encoded(5, size=64)
    big = encoded(1, "PNG", size=64)
    faults = {
        "no_exp": ({"exp": None}, "missing annotation", "no exp"),
        "no_val_aro": ({"val": None, "aro": None}, "missing annotation", "no val, aro"),
        "only_image": (
            {"exp": None, "val": None, "aro": None, "lnd": None},
            "image without annotation",
            "no exp, val, aro",
        ),
        "no_image": ({"image": None}, "annotation without image", "exp, val, aro, lnd"),
        "empty_exp": ({"exp": b""}, "unreadable annotation", "exp: an empty file"),
        "word": ({"val": npy("happy")}, "unreadable annotation", "val: 'happy' is not a number"),
        "pickle": (
            {"aro": npy_of_objects()},
            "unreadable annotation",
            "aro: pickled objects, which can run code",
        ),
        "two_numbers": ({"exp": npy([1, 2])}, "unreadable annotation", "exp: an array of shape"),
        "cut_npy": ({"exp": npy("1")[:-2]}, "unreadable annotation", "exp: "),
        "bad_lnd": ({"lnd": npy(np.zeros(99))}, "unreadable annotation", "lnd: 99 numbers"),
        "nan_lnd": ({"lnd": npy(np.full(136, np.nan))}, "unreadable annotation", "lnd: "),
        "cut_jpeg": ({"image": whole[:-300]}, "truncated image", ""),
        "head_only": ({"image": whole[:30]}, "truncated image", ""),
        "cut_png": ({"image": big[:900], "suffix": "png"}, "truncated image", ""),
        "text_image": ({"image": b"no image at all"}, "undecodable image", "not a JPEG, PNG"),
        "empty_image": ({"image": b""}, "undecodable image", "an empty file"),
        "label_8": ({"exp": npy("8")}, "label outside 0-7", "exp is 8"),
        "label_-1": ({"exp": npy(-1)}, "label outside 0-7", "exp is -1"),
        "label_1.5": ({"exp": npy(1.5)}, "label outside 0-7", "exp is 1.5"),
        "label_nan": ({"exp": npy(np.nan)}, "label outside 0-7", "exp is nan"),
        "minus_two": (
            {"val": npy("-2"), "aro": npy("-2")},
            "valence or arousal is -2",
            "aro is -2",
        ),
        "above_one": ({"val": npy("1.01")}, "valence or arousal outside [-1, 1]", "val is 1.01"),
        "just_above": (
            {"val": npy("1.0000001")},
            "valence or arousal outside [-1, 1]",
            "val is 1.0000001",
        ),
        "infinite": ({"aro": npy(-np.inf)}, "valence or arousal outside [-1, 1]", "aro is -inf"),
        "nan_val": ({"val": npy("nan")}, "valence or arousal outside [-1, 1]", "val is nan"),
    }
    return {
        name: (face("train_set", name, **changes), reason, word)
        for name, (changes, reason, word) in faults.items()
    }


def npy_of_objects() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("check", ["decode", "header"])
def test_faults_of_every_kind_are_dropped_and_named(tmp_path, check):
    faults = planted()
    files = release(6)
    for extra, _, _ in faults.values():
        files |= extra
    with read(tmp_path, tar(tmp_path / "x", files), check=check) as found:
        part = found.parts["train_set"]
        assert part.ids == [str(i) for i in range(6)]
        dropped = {line.id: line for line in part.dropped}
        assert set(dropped) == set(faults)
        for name, (_, reason, word) in faults.items():
            assert dropped[name].part == "train_set"
            assert dropped[name].reason == reason, name
            assert word in dropped[name].detail, name


def test_only_decoding_finds_damage_in_the_middle(tmp_path):
    damaged = bytearray(encoded(3, size=64))
    damaged[700:1500] = b"\xff\xd8" * 400
    files = release(3) | face("train_set", "50", image=bytes(damaged))
    path = tar(tmp_path / "x", files)
    with read(tmp_path, path, check="header") as found:
        assert len(found.parts["train_set"]) == 4
    with read(tmp_path, path) as found:
        dropped = found.parts["train_set"].dropped
        assert [(d.id, d.reason) for d in dropped] == [("50", "undecodable image")]


def test_names_that_are_not_text_are_dropped(tmp_path):
    files = release(2)
    extra = {k.replace("33", "\udcff3"): v for k, v in face("train_set", "33").items()}
    with read(tmp_path, tar(tmp_path / "x", files | extra)) as found:
        assert [(d.id, d.reason) for d in found.parts["train_set"].dropped] == [
            ("\\xff3", "unreadable id")
        ]


@pytest.mark.parametrize("kind", ["", ".gz"])
def test_the_same_face_twice_is_kept_once(tmp_path, kind):
    listed = [*release(4).items(), *face("train_set", "2").items()]
    with read(tmp_path, tar(tmp_path / "x", listed, PACKERS[kind])) as found:
        part = found.parts["train_set"]
        assert part.ids == ["0", "1", "2", "3"]
        assert [(d.id, d.reason) for d in part.dropped] == [("2", "duplicate id")]
        assert "one of them is used" in part.dropped[0].detail
    twice = tar(tmp_path / "y", release(4), PACKERS[kind])
    with read(tmp_path, twice, twice) as found:
        assert len(found.parts["train_set"]) == 4
        assert len(found.parts["train_set"].dropped) == 4


@pytest.mark.parametrize(
    ("piece", "other"),
    [
        ("image", encoded(99)),
        ("exp", npy("5")),
        ("val", npy("0.125")),
        ("aro", npy("broken")),
        ("lnd", npy(np.ones(136))),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_id_with_two_contents_is_dropped(tmp_path, piece, other, first):
    second = list(face("train_set", "2", **{piece: other}).items())
    listed = [*second, *release(4).items()] if first else [*release(4).items(), *second]
    with read(tmp_path, tar(tmp_path / "x", listed)) as found:
        part = found.parts["train_set"]
        assert part.ids == ["0", "1", "3"]
        assert [(d.id, d.reason) for d in part.dropped] == [("2", "duplicate id")]
        assert piece in part.dropped[0].detail


def test_an_image_in_two_formats_is_a_duplicate(tmp_path):
    files = release(3) | face("train_set", "1", image=encoded(1, "PNG"), suffix="png")
    with read(tmp_path, tar(tmp_path / "x", files)) as found:
        assert [(d.id, d.reason) for d in found.parts["train_set"].dropped] == [
            ("1", "duplicate id")
        ]


def test_ids_of_the_two_parts_may_collide(tmp_path):
    files = release(5) | face("val_set", "3", image=encoded(80))
    with read(tmp_path, tar(tmp_path / "x", files)) as found:
        assert found.parts["train_set"].dropped == []
        assert bytes(found.parts["val_set"].images(np.array([0]))[0]) == encoded(80)


def refused(tmp_path, *paths) -> str:
    with pytest.raises(DataError) as caught:
        read(tmp_path, *paths)
    assert list((tmp_path / "scratch").iterdir()) == []
    return str(caught.value)


def test_errors_name_the_content_of_a_source_without_a_part(tmp_path):
    message = refused(tmp_path, tar(tmp_path / "x", {"images/1.jpg": b"", "labels/1.npy": b""}))
    assert "'images'" in message
    assert "'labels'" in message
    assert "train_set or val_set" in message
    assert "contains no part of AffectNet" in refused(tmp_path, tar(tmp_path / "y", {}))
    (tmp_path / "empty").mkdir()
    assert "contains no part of AffectNet" in refused(tmp_path, tmp_path / "empty")
    good = tar(tmp_path / "good", release(3))
    assert str(tmp_path / "empty") in refused(tmp_path, good, tmp_path / "empty")
    assert "does not exist" in refused(tmp_path, good, tmp_path / "absent.tar")


def test_a_part_without_a_usable_face_is_an_error(tmp_path):
    files = release(3) | face("val_set", "1", exp=npy("9")) | face("val_set", "2", val=None)
    message = refused(tmp_path, tar(tmp_path / "x", files))
    assert "none of the 2 faces of val_set is usable" in message
    assert "1 x label outside 0-7" in message
    assert "1 x missing annotation" in message


@pytest.mark.parametrize("kind", PACKERS)
def test_cut_archives_are_refused(tmp_path, kind):
    whole = tar(tmp_path / "whole", release(20), PACKERS[kind]).read_bytes()
    for cut in (600, len(whole) // 3, 2 * len(whole) // 3):
        (tmp_path / "cut").write_bytes(whole[:cut])
        assert "cut short" in refused(tmp_path, tmp_path / "cut")


def test_links_in_archives_are_refused(tmp_path):
    with tarfile.open(tmp_path / "x", "w") as archive:
        info = tarfile.TarInfo("train_set/images/1.jpg")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(info)
    message = refused(tmp_path, tmp_path / "x")
    assert "link 'train_set/images/1.jpg'" in message
    assert "--dereference" in message


def test_links_elsewhere_do_not_matter(tmp_path):
    path = tar(tmp_path / "x", release(3))
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("latest")
        info.type, info.linkname = tarfile.SYMTYPE, "train_set.old"
        archive.addfile(info)
    with read(tmp_path, path) as found:
        assert len(found.parts["train_set"]) == 3


def test_pipes_in_folders_are_refused(tmp_path):
    source = folder(tmp_path / "f", release(3))
    os.mkfifo(source / "train_set" / "images" / "9.jpg")
    assert "not a regular file; remove or repair it" in refused(tmp_path, source)
