import numpy as np
import pytest

from affectnet.data.images import decode_image
from affectnet.data.readers.affectnet_csv import COLUMNS
from affectnet.errors import DataError

HEADER = ",".join(COLUMNS)


def landmarks(width: float = 200, height: float = 100) -> np.ndarray:
    rng = np.random.default_rng(5)
    return (rng.random((68, 2)) * (width, height)).round(2)


def row(name, label=1, valence=0.5, arousal=-0.25, box=(60, 20, 40, 40), points=None) -> str:
    points = landmarks() if points is None else points
    text = points if isinstance(points, str) else ";".join(f"{v:g}" for v in np.ravel(points))
    return ",".join(map(str, (name, *box, text, label, valence, arousal)))


def source(kit, rows: list[str], *, csv="training.csv", header=True, files=None, **others):
    files = dict(files or {})
    for line in rows:
        name = line.partition(",")[0]
        files.setdefault(f"Manually_Annotated_Images/{name}", kit.image(len(name), "PNG", 200, 100))
    files[f"lists/{csv}"] = "\n".join([*([HEADER] if header else []), *rows, ""])
    return kit.write(files | others)


def test_labels_and_images_of_any_format_are_read(kit):
    forms = {"1/a.jpg": "JPEG", "1/b.png": "PNG", "22/c.bmp": "BMP", "22/d.tif": "TIFF"}
    files = {
        f"Manually_Annotated_Images/{name}": kit.image(i, form, 200, 100)
        for i, (name, form) in enumerate(forms.items())
    }
    rows = [row(name, label=i) for i, name in enumerate(forms)]
    top = source(kit, rows, files=files)
    out, info = kit.ingest(top, val_fraction=0, margin=0)
    assert info.release == "affectnet_csv"
    assert info.settings["margin"] == 0
    assert info.settings["face_size"] == 224
    assert info.settings["alignment"] is None
    faces = kit.rows(out)
    assert {name: face.expression for name, face in faces.items()} == {
        name: i for i, name in enumerate(forms)
    }
    for i, name in enumerate(forms):
        face = faces[name]
        assert (face.valence, face.arousal) == (0.5, -0.25)
        shown = decode_image(face.image).astype(int)
        assert shown.shape == (224, 224, 3)
        expected = decode_image(_png(kit.pixels(i, 200, 100)[20:60, 60:100]), 224).astype(int)
        assert np.abs(shown - expected).mean() < 4
        scale = 224 / 40
        moved = (landmarks() - (60, 20) + 0.5) * scale - 0.5
        np.testing.assert_allclose(face.landmarks, moved, atol=1e-3)


def _png(pixels) -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def test_validation_is_the_test_split(kit):
    rows = [row(f"1/{i}.png", label=i % 8) for i in range(16)]
    files = {"lists/validation.csv": "\n".join([HEADER, row("1/0.png", label=3)])}
    out, info = kit.ingest(source(kit, rows, files=files), val_fraction=0.5, group="none")
    assert sum(info.counts["train"].values()) == sum(info.counts["val"].values()) == 8
    assert kit.rows(out, "test")["1/0.png"].expression == 3
    assert info.settings["margin"] == 0.1


def test_a_copy_without_header_is_read_by_the_published_order(kit):
    out, _ = kit.ingest(source(kit, [row("1/a.png", label=6)], header=False), val_fraction=0)
    assert kit.rows(out)["1/a.png"].expression == 6


def test_columns_are_found_by_name_in_any_order_and_case(kit):
    cells = row("1/a.png", label=6).split(",")
    order = [8, 0, 7, 6, 5, 4, 3, 2, 1]
    text = "\n".join(
        [",".join(COLUMNS[i].upper() for i in order), ",".join(cells[i] for i in order)]
    )
    files = {"lists/training.csv": text, "images/1/a.png": kit.image(1, "PNG", 200, 100)}
    out, _ = kit.ingest(kit.write(files), val_fraction=0)
    face = kit.rows(out)["1/a.png"]
    assert (face.expression, face.valence, face.arousal) == (6, 0.5, -0.25)


NO_FACE = "none, uncertain, unknown or no face"
TRAPS = {
    "none": ({"label": 8}, NO_FACE),
    "uncertain": (
        {"label": 9, "valence": -2, "arousal": -2},
        "none, uncertain, unknown or no face",
    ),
    "no_face": ({"label": 10, "valence": -2, "arousal": -2}, NO_FACE),
    "minus_two": ({"valence": -2}, "valence or arousal is -2"),
    "minus_two_arousal": ({"arousal": "-2.0"}, "valence or arousal is -2"),
    "beyond": ({"valence": 1.01}, "valence or arousal outside [-1, 1]"),
    "infinite": ({"valence": "1e999"}, "valence or arousal outside [-1, 1]"),
    "nan": ({"valence": "nan"}, "missing annotation"),
    "empty": ({"label": ""}, "missing annotation"),
    "eleven": ({"label": 11}, "label outside 0-7"),
    "half": ({"label": 1.5}, "label outside 0-7"),
    "negative": ({"label": -1}, "label outside 0-7"),
    "word": ({"label": "happy!"}, "unreadable annotation"),
    "few_points": ({"points": "1;2;3"}, "unreadable annotation"),
    "flat_box": ({"box": (10, 10, 0, 40)}, "unusable face box"),
    "inside_out": ({"box": (10, 10, -5, 40)}, "unusable face box"),
    "outside": ({"box": (201, 10, 40, 40)}, "unusable face box"),
    "left_of_it": ({"box": (-60, 10, 40, 40)}, "unusable face box"),
    "immense": ({"box": (0, 0, 1e6, 1e6)}, "unusable face box"),
    "no_box": ({"box": ("", 1, 2, 3)}, "unusable face box"),
}


def test_every_fault_is_dropped_with_its_reason(kit):
    rows = [row(f"1/{name}.png", **changes) for name, (changes, _) in TRAPS.items()]
    rows += [
        row("1/good.png", points=""),
        row("../secret.png"),
        row("/etc/passwd"),
        "1/short.png,1",
    ]
    rows += [row("1/gone.png"), row("1/broken.png"), row("1/cut.png")]
    whole = kit.image(3, "PNG", 200, 100)
    files = {
        "Manually_Annotated_Images/1/broken.png": b"no image",
        "Manually_Annotated_Images/1/cut.png": whole[:-100],
        "secret.png": whole,
    }
    top = source(kit, [], files=files)
    for name in (*TRAPS, "good"):
        kit.write({f"Manually_Annotated_Images/1/{name}.png": whole})
    kit.write({"lists/training.csv": "\n".join([HEADER, *rows])})
    out, info = kit.ingest(top, val_fraction=0)
    expected = {f"1/{name}.png": reason for name, (_, reason) in TRAPS.items()} | {
        "../secret.png": "unreadable id",
        "/etc/passwd": "unreadable id",
        "1/short.png": "unreadable annotation",
        "1/gone.png": "annotation without image",
        "1/broken.png": "undecodable image",
        "1/cut.png": "truncated image",
    }
    assert kit.dropped(out) == expected
    assert sum(info.dropped.values()) == len(expected)
    faces = kit.rows(out)
    assert list(faces) == ["1/good.png"]
    assert faces["1/good.png"].landmarks is None


@pytest.mark.parametrize("box", [(-20, -10, 80, 80), (150, 50, 80, 80), (-30, -30, 260, 160)])
def test_boxes_beyond_the_image_repeat_its_border(kit, box):
    out, _ = kit.ingest(source(kit, [row("1/a.png", box=box)]), val_fraction=0, margin=0.25)
    shown = decode_image(kit.rows(out)["1/a.png"].image)
    pixels = kit.pixels(len("1/a.png"), 200, 100)
    x, y, w, h = box
    side = max(w, h) * 1.5
    left, top = x + w / 2 - side / 2, y + h / 2 - side / 2
    grid = (np.arange(224) + 0.5) * side / 224
    across = np.clip((left + grid).astype(int), 0, 199)
    down = np.clip((top + grid).astype(int), 0, 99)
    expected = pixels[down][:, across].astype(int)
    assert np.abs(shown.astype(int) - expected).mean() < 5


def test_of_repeated_rows_only_identical_ones_are_used(kit):
    rows = [row("1/a.png"), row("1/a.png"), row("1/b.png"), row("1/b.png", label=3)]
    rows += [row("1/c.png", label=9), row("1/c.png"), row("1/d.png")]
    out, info = kit.ingest(source(kit, rows), val_fraction=0)
    assert list(kit.rows(out)) == ["1/a.png", "1/d.png"]
    assert info.dropped["duplicate id"] == 3


def test_images_may_be_given_separately(kit):
    files = {"here/7/a.png": kit.image(1, "PNG", 200, 100)}
    folder = kit.write(files, "images")
    table = kit.write({"training.csv": "\n".join([HEADER, row("7/a.png")])}, "csv")
    out, _ = kit.ingest(table / "training.csv", folder, val_fraction=0)
    assert list(kit.rows(out)) == ["7/a.png"]
    with pytest.raises(DataError, match=r"the images of .* are not found, 7/a.png for example"):
        kit.ingest(table)


def test_sources_with_two_meanings_are_refused(kit):
    top = source(kit, [row("1/a.png")])
    kit.write({"copy/1/a.png": kit.image(1)})
    with pytest.raises(DataError, match=r"is in .* and in .*; give"):
        kit.ingest(top)
    other = source(kit, [row("1/a.png")], csv="automatically_annotated.csv")
    with pytest.raises(DataError, match="more than one CSV file for the train split"):
        kit.ingest(other, release="affectnet_csv")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "is empty"),
        ("a,b,c\n1,2,3\n", "has the columns a, b, c"),
        (HEADER + '\n"1/a.png,1,1,1,1,,1,0,0\n1/b.png,1,1,1,1,,1,0,0\n', "a quote opens"),
        (HEADER + "\n", "contains no face"),
        (HEADER + "\n" + row("1/a.png", label=10), "none of the 1 faces of training"),
    ],
)
def test_errors_explain_unusable_files(kit, text, word):
    top = kit.write({"training.csv": text})
    with pytest.raises(DataError, match=word):
        kit.ingest(top / "training.csv", release="affectnet_csv")


def test_aligned_faces_have_their_eyes_in_place(kit):
    points = landmarks()
    points[36:42] = (90, 40)
    points[42:48] = (110, 48)
    bad = landmarks()
    bad[36:48] = (50, 50)
    rows = [row("1/a.png", points=points), row("1/b.png", points=""), row("1/c.png", points=bad)]
    out, info = kit.ingest(source(kit, rows), val_fraction=0, align=True, face_size=96)
    assert info.settings["alignment"] == "eyes"
    assert info.settings["margin"] is None
    assert info.settings["face_size"] == 96
    face = kit.rows(out)["1/a.png"]
    assert decode_image(face.image).shape == (96, 96, 3)
    np.testing.assert_allclose(face.landmarks[36], (0.35 * 96 - 0.5, 0.36 * 96 - 0.5), atol=1e-3)
    np.testing.assert_allclose(face.landmarks[47], (0.65 * 96 - 0.5, 0.36 * 96 - 0.5), atol=1e-3)
    assert kit.dropped(out) == {"1/b.png": "cannot be aligned", "1/c.png": "cannot be aligned"}
