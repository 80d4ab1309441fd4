import io
import os
import random
import threading
import time

import numpy as np
import pytest
from PIL import Image

from affectnet.data.crop import crop_face
from affectnet.data.images import decode_image
from affectnet.data.readers import archive, engine
from affectnet.data.readers.engine import Engine, FaceRecord, ReadOptions
from affectnet.data.readers.release_part import Dropped, Reason
from affectnet.errors import DataError


def collect(kit, faces, check="decode"):
    """Read faces, and ids of rows that cannot be used, into one part."""
    options = ReadOptions(kit.folder, check, lambda _: lambda *_: None)
    with Engine(options) as collector:
        collector.read(
            Dropped("part", face, Reason.UNREADABLE, "planted") if isinstance(face, str) else face
            for face in faces
        )
        return collector.release("release", {"train": "part"}).parts["part"]


def face(name: str, image, *labels, **others) -> FaceRecord:
    return FaceRecord("part", name, image, *labels, **others)


def content(part) -> list:
    rows = np.arange(len(part))
    landmarks, absent = part.landmarks(rows)
    return [
        part.ids, part.expression.tolist(), part.images(rows), part.dropped, absent.tolist(),
        landmarks.tolist(), part.valence.tobytes(),
    ]  # fmt: skip


def test_neither_threads_nor_order_change_the_part(kit):
    def numbered(i: int) -> FaceRecord:
        points = np.full((68, 2), i, np.float32) if i % 3 else None
        return face(str(i), kit.image(i), i % 8, i / 100, landmarks=points)

    records = [numbered(i) for i in range(60)] + [face("bad", b"no image", 1), "gone"]
    records += [numbered(3), face("4", kit.image(99), 4, 0.04)]
    expected = content(collect(kit, records))
    assert len(expected[0]) == 59
    assert [line.reason for line in expected[3]] == [
        "duplicate id",
        "duplicate id",
        "undecodable image",
        "unreadable annotation",
    ]
    assert content(collect(kit, records, check="header")) == expected
    random.Random(0).shuffle(records)
    assert content(collect(kit, records)) == expected


@pytest.mark.parametrize("first", [True, False])
def test_an_id_of_a_bad_row_is_taken(kit, first):
    good = face("a", kit.image(0), 1)
    rest = [good, "a"] if first else ["a", good]
    part = collect(kit, [*rest, face("b", kit.image(1), 1)])
    assert part.ids == ["b"]
    assert sorted(line.reason for line in part.dropped) == ["duplicate id", "unreadable annotation"]


def test_files_are_read_from_their_place(kit):
    top = kit.write({"1.png": kit.image(1), "2.png": kit.image(2)})
    part = collect(kit, [face(str(i), top / f"{i}.png", i) for i in (1, 2)])
    assert part.images(np.array([1, 0])) == [kit.image(2), kit.image(1)]
    (top / "2.png").write_bytes(b"other")
    with pytest.raises(DataError, match=r"2\.png changed while it was read"):
        part.images(np.array([1]))
    (top / "2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png cannot be read"):
        part.images(np.array([1]))


def test_paths_that_are_not_image_files_are_dropped_without_blocking(kit, monkeypatch):
    top = kit.write({"good.png": kit.image(1), "huge.png": b"\0" * 2000})
    os.mkfifo(top / "pipe.png")
    monkeypatch.setattr(archive, "MAX_MEMBER", 1999)
    names = ["good.png", "huge.png", "pipe.png", "absent.png", ".", "x" * 300]
    made = []

    def work() -> None:
        made.append(collect(kit, [face(name, top / name, 1) for name in names]))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(30)
    (part,) = made
    assert part.ids == ["good.png"]
    reasons = {line.id: line.reason for line in part.dropped}
    assert reasons.pop("huge.png") == "undecodable image"
    assert set(reasons.values()) == {"annotation without image"}


def test_large_images_are_decoded_and_cropped_one_at_a_time(kit, monkeypatch):
    at_work, most = [], []

    def slow_crop(*_, **__):
        at_work.append(1)
        most.append(len(at_work))
        time.sleep(0.02)
        at_work.pop()
        return np.zeros((24, 24, 3), np.uint8)

    monkeypatch.setattr(engine, "crop_face", slow_crop)
    monkeypatch.setattr(engine, "cores", lambda: 4)
    options = ReadOptions(kit.folder, "decode", lambda _: lambda *_: None)
    image = kit.image(0, width=2100, height=2000)
    with Engine(options, cropped=False) as cropper:
        cropper.read(face(str(i), image, 1, box=(0, 0, 9, 9)) for i in range(6))
        part = cropper.release("release", {"train": "part"}).parts["part"]
    assert len(part) == 6
    assert max(most) == 1


@pytest.mark.parametrize("name", ["", "a\nb", "a\0b", "\udcff", "\x1b[31m"])
def test_ids_that_are_not_text_are_dropped(kit, name):
    part = collect(kit, [face(name, kit.image(0), 1), face("ok", kit.image(1), 1)])
    assert part.ids == ["ok"]
    assert [line.reason for line in part.dropped] == ["unreadable id"]


@pytest.mark.parametrize("name", ["Żółć", "3.04\u202fPM", "👩‍🚀"])
def test_ids_in_any_script_are_kept(kit, name):
    assert collect(kit, [face(name, kit.image(0), 1)]).ids == [name]


def test_a_part_without_a_usable_face_is_an_error(kit):
    with pytest.raises(DataError, match=r"none of the 2 faces of part is usable: 2 x undec"):
        collect(kit, [face("a", b"x", 1), face("b", b"y", 1)])


FORMS = [("JPEG", 4), ("PNG", 0), ("WEBP", 0), ("TIFF", 0)]


def on_its_side(kit, seed: int, form: str) -> tuple[np.ndarray, bytes]:
    """An upright picture, 30 wide and 20 high, and a file that stores it on its side."""
    picture = kit.pixels(seed, 30, 20)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(picture)))
    options = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(form, {})
    stored.save(file, form, exif=exif, **options)
    return picture, file.getvalue()


@pytest.mark.parametrize("check", ["decode", "header"])
def test_images_are_stored_upright(kit, check):
    records, pictures = [face("upright", kit.image(9, "JPEG"), 1)], []
    for i, (form, _) in enumerate(FORMS):
        picture, data = on_its_side(kit, i, form)
        pictures.append(picture)
        points = np.random.default_rng(i).uniform(2, 8, (68, 2)).astype(np.float32)
        points[48:] += (0, 9)  # the mouth is below the eyes: in the frame of the upright image
        records.append(face(form, data, 1, landmarks=points))
    part = collect(kit, records, check)
    assert part.turned == 4
    stored = dict(zip(part.ids, part.images(np.arange(5)), strict=True))
    assert stored.pop("upright") == records[0].image
    places = dict(zip(part.ids, part.landmarks(np.arange(5))[0], strict=True))
    for record, picture, (form, tolerance) in zip(records[1:], pictures, FORMS, strict=True):
        with Image.open(io.BytesIO(stored[form])) as image:
            assert image.getexif().get(0x0112, 1) == 1
            assert image.format == ("JPEG" if form == "JPEG" else "PNG")
            pixels = np.asarray(image.convert("RGB"))
        assert np.abs(pixels.astype(int) - decode_image(record.image)).mean() < 0.5
        assert np.abs(pixels.astype(int) - picture).mean() <= tolerance
        np.testing.assert_array_equal(places[form].reshape(68, 2), record.landmarks)


def test_a_turned_face_is_cropped_in_the_frame_of_its_box(kit):
    options = ReadOptions(kit.folder, "decode", lambda _: lambda *_: None, 0.0, 24)
    picture, data = on_its_side(kit, 0, "PNG")
    records = [face("upright", data, 1, box=(18, 4, 12, 12))]
    # In the stored frame, 20 wide and 30 high, the same square.
    records.append(face("stored", data, 1, box=(4, 0, 12, 12), landmarks=sideways(18, 4)))
    with Engine(options, cropped=False) as cropper:
        cropper.read(records)
        part = cropper.release("release", {"train": "part"}).parts["part"]
    wanted = crop_face(picture, (18, 4, 12, 12), 24, margin=0)
    for image in part.images(np.arange(2)):
        assert np.abs(decode_image(image).astype(int) - wanted).mean() < 2
    assert part.turned == 2
    points = part.landmarks(np.array([0]))[0].reshape(68, 2)
    np.testing.assert_allclose(points[0], (12, 6), atol=1e-4)
    np.testing.assert_allclose(points[60], (12, 16), atol=1e-4)


def sideways(x: float, y: float) -> np.ndarray:
    """Landmarks in stored pixels: eyes 3, mouth 8 below the top of a square, at its middle."""
    upright = np.full((68, 2), (x + 5.75 + 0, y + 2.75), np.float32)
    upright[48:, 1] += 5
    return np.stack([upright[:, 1], 29 - upright[:, 0]], axis=1)
