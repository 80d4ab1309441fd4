"""Planted duplicates are found within and across splits; distinct faces are not reported."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from drawn import write_faces
from PIL import Image, ImageEnhance

from affectnet.data.audit.duplicates import DuplicateGroup, find_duplicates
from affectnet.data.audit.scan import DatasetRows, scan_images
from affectnet.data.drawn.release import draw_faces
from affectnet.data.store import Face, Split

N = 160


@pytest.fixture(scope="module")
def drawn_faces() -> list[bytes]:
    return [face.image for face in draw_faces(N // 8, seed=5, size=96)]


@pytest.fixture(scope="module")
def real_faces(ferplus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Some of the real faces, without those that the audit reports as duplicates."""
    with tarfile.open(ferplus / "test_set.tar.gz") as tar:
        images = [tar.extractfile(m).read() for m in tar if m.name.endswith(".jpg")]
    groups, _ = audit({"train": images[:600]}, tmp_path_factory.mktemp("real"))
    twice = {row for group in groups for row in group.rows}
    return [image for row, image in enumerate(images[:600]) if row not in twice][:N]


@pytest.fixture(params=["drawn_faces", "real_faces"])
def faces(request: pytest.FixtureRequest) -> list[bytes]:
    return list(request.getfixturevalue(request.param))


def audit(
    splits: dict[str, list[bytes]], folder: Path, labels: dict[str, list[int]] | None = None
) -> tuple[list[DuplicateGroup], DatasetRows]:
    """Write splits of these images, with ids that are the same in each, and find duplicates."""
    opened = {}
    for name, images in splits.items():
        write_faces(
            folder / f"{name}.arrow",
            (
                Face(f"{i}", image, labels[name][i] if labels else None)
                for i, image in enumerate(images)
            ),
        )
        opened[name] = Split(folder / f"{name}.arrow")
    rows = DatasetRows.of(opened)
    return find_duplicates(scan_images(opened), rows), rows


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


CHANGES = {
    "quality 60": lambda image: jpeg(image, 60),
    "half size": lambda image: jpeg(image.resize((image.width * 2 // 3,) * 2)),
    "double size": lambda image: jpeg(image.resize((image.width * 2,) * 2)),
    "brighter": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(1.1)),
    "darker": lambda image: jpeg(ImageEnhance.Brightness(image).enhance(0.9)),
    "grey": lambda image: jpeg(image.convert("L")),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("across", [False, True], ids=["within", "across"])
def test_a_changed_copy_is_near(change, across: bool, faces: list[bytes], tmp_path: Path) -> None:
    copies = [change(Image.open(io.BytesIO(face))) for face in faces[:20]]
    # A file that did not change, such as a grey face made grey again, is not a near duplicate.
    splits = {"train": faces, "test": copies} if across else {"train": faces + copies}
    groups, rows = audit(splits, tmp_path)
    pairs = {group.rows for group in groups}
    assert pairs == {(i, len(faces) + i) for i in range(20)}
    assert all(group.leak is across for group in groups)
    assert all(group.splits == tuple(splits) for group in groups)
    assert rows.split_of(len(faces)) == ("test" if across else "train")


def test_distinct_faces_are_not_flagged(faces: list[bytes], tmp_path: Path) -> None:
    assert audit({"train": faces[::2], "test": faces[1::2]}, tmp_path)[0] == []


def test_equal_files_and_equal_pixels_are_distinguished(faces: list[bytes], tmp_path: Path) -> None:
    opened = Image.open(io.BytesIO(faces[1])).convert("RGB")
    extra = [faces[0], png(opened), png(opened)]
    buffer = io.BytesIO()
    opened.save(buffer, "PNG", compress_level=1)
    groups, _ = audit({"train": faces, "test": [*extra, buffer.getvalue()]}, tmp_path)
    n = len(faces)
    kinds = {group.rows: group.kind for group in groups}
    assert kinds[(0, n)] == "same file"
    (other,) = [rows for rows in kinds if 1 in rows]
    assert set(other) == {1, n + 1, n + 2, n + 3}
    assert kinds[other] in ("same pixels", "near")  # Pillow may decode a JPEG one step apart
    only_png, _ = audit({"val": [png(opened), buffer.getvalue()]}, tmp_path)
    assert [group.kind for group in only_png] == ["same pixels"]


def test_copies_of_copies_are_one_group_and_their_labels_are_compared(
    drawn_faces: list[bytes], tmp_path: Path
) -> None:
    image = Image.open(io.BytesIO(drawn_faces[0]))
    copies = [jpeg(image, 70), jpeg(image.resize((64, 64)), 80)]
    labels = {"train": [0] * N, "test": [0, 3]}
    groups, _ = audit({"train": drawn_faces, "test": copies}, tmp_path, labels)
    (group,) = groups
    assert group.rows == (0, N, N + 1)
    assert group.disputed
    assert group.expressions == (0, 3)
    agreed, _ = audit({"train": drawn_faces, "test": copies}, tmp_path, labels | {"test": [0, 0]})
    assert not agreed[0].disputed


def test_plain_and_broken_images_are_left_out(drawn_faces: list[bytes], tmp_path: Path) -> None:
    black = jpeg(Image.new("RGB", (64, 64)))
    splits = {"train": [drawn_faces[0], black, black, drawn_faces[1][:200], b"no image"]}
    groups, _ = audit(splits, tmp_path)
    assert groups == []
    scan = scan_images({"train": Split(tmp_path / "train.arrow")})
    assert scan.plain.tolist() == [False, True, True, False, False]
    assert sorted(scan.broken) == [3, 4]
    assert scan.readable.tolist() == [True, True, True, False, False]


def test_the_scan_reads_format_size_and_colour(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 255, (40, 30, 3), dtype=np.uint8))
    grey = colour.convert("L")
    images = [jpeg(colour), jpeg(grey), jpeg(grey.convert("RGB")), png(colour), png(grey)]
    audit({"train": images}, tmp_path)
    scan = scan_images({"train": Split(tmp_path / "train.arrow")})
    assert scan.kind.tolist() == ["JPEG", "JPEG", "JPEG", "PNG", "PNG"]
    assert scan.grey.tolist() == [False, True, True, False, True]
    assert scan.stored_grey.tolist() == [False, True, False, False, True]
    assert set(scan.width.tolist()) == {30}
    assert set(scan.height.tolist()) == {40}
    assert scan.size.tolist() == [len(image) for image in images]
