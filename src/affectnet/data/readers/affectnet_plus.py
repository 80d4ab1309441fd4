"""AffectNet+ (2024): `train_set|validation_set/{images,annotations}`, one JSON file per face."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from affectnet.data.readers.annotations import (
    NO_FACE,
    Bad,
    as_text,
    both_affects,
    expression,
    find_key,
    number,
    numbers,
    points,
    shares,
)
from affectnet.data.readers.archive import entries, find_folders, image_names, tracked
from affectnet.data.readers.classes import find_class
from affectnet.data.readers.engine import Engine, FaceRecord, ReadOptions
from affectnet.data.readers.release_part import Dropped, RawRelease, Reason
from affectnet.errors import DataError

SETS: Final = {"train_set": "train", "validation_set": "test", "val_set": "test"}
SUBSETS: Final = ("easy", "challenging", "difficult")
EXTRA: Final = pa.schema(
    [
        pa.field("subset", pa.string()),
        pa.field("age", pa.float32()),
        pa.field("gender", pa.string()),
        pa.field("race", pa.string()),
        pa.field("pose", pa.list_(pa.float32())),
    ]
)
"""Further columns: the difficulty subset, and attributes of the person and the head."""

_MAX_JSON = 1 << 20


def read_affectnet_plus(paths: Sequence[Path], options: ReadOptions) -> RawRelease:
    """Read AffectNet+: human labels, soft labels, landmarks, and the columns of `EXTRA`.

    Keys are compared by letters and digits alone, without case. A face needs an image, a label 0-7,
    and a valence and arousal in [-1, 1]; soft label, landmarks and the rest may be missing. The
    validation part is the test split.

    Raises:
        DataError: there is no part of the release.
    """
    found = find_sets(paths)
    if not found:
        raise DataError(
            f"{', '.join(map(str, paths))}: there is no train_set or validation_set with images "
            "and annotations (.json); give the folder human_annotated"
        )
    splits: dict[str, str] = {}
    with Engine(options, columns=EXTRA) as engine:
        for folder in found:
            split = SETS[folder.name]
            if splits.setdefault(split, folder.name) != folder.name:
                raise DataError(f"both {splits[split]} and {folder.name} are there; give one")
            engine.read(_faces(folder, options))
        return engine.release("affectnet_plus", splits)


def find_sets(paths: Sequence[Path]) -> list[Path]:
    """Return the folders of parts whose annotations are JSON files."""
    return [folder for folder in find_folders(paths, SETS) if _has_json(folder)]


def _has_json(folder: Path) -> bool:
    inside = dict(entries(folder))
    if not (inside.get("images") and inside.get("annotations")):
        return False
    return any(name.lower().endswith(".json") for name, _ in entries(folder / "annotations")[:1000])


def images_by_stem(folder: Path) -> dict[str, str]:
    """Return stem -> name of the images in a folder; of two with one stem, the first by name."""
    return {name.rpartition(".")[0]: name for name in reversed(image_names(folder))}


def _faces(folder: Path, options: ReadOptions) -> Iterator[FaceRecord | Dropped]:
    images = images_by_stem(folder / "images")
    names = [name for name, is_folder in entries(folder / "annotations") if not is_folder]
    for name in tracked(names, options.progress(str(folder))):
        stem, _, suffix = name.rpartition(".")
        if suffix.lower() != "json":
            continue
        image = images.pop(stem, None)
        try:
            if image is None:
                raise Bad(Reason.ORPHAN_ANNOTATION, "no image")
            table = _load(folder / "annotations" / name)
            yield _face(folder.name, stem, folder / "images" / image, table)
        except Bad as bad:
            yield Dropped(folder.name, stem, *bad.fault)
    for stem in images:
        yield Dropped(folder.name, stem, Reason.ORPHAN_IMAGE, "no annotation")


def _load(path: Path) -> Mapping[str, Any]:
    try:
        size = path.stat().st_size
        if not path.is_file() or size > _MAX_JSON:
            raise Bad(Reason.UNREADABLE, f"{size:,} bytes instead of a small JSON file")
        loaded = json.loads(path.read_bytes())
    except OSError as error:
        raise Bad(Reason.UNREADABLE, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, endless numbers
        raise Bad(Reason.UNREADABLE, f"not JSON: {' '.join(str(error).split())[:100]}") from error
    if not isinstance(loaded, dict):
        raise Bad(Reason.UNREADABLE, f"JSON of a {type(loaded).__name__}, not of an object")
    return loaded


def _face(part: str, name: str, image: Path, table: Mapping[str, Any]) -> FaceRecord:
    meta = find_key(table, "meta-data")
    if meta is None:
        meta = {}
    if not isinstance(meta, dict):
        raise Bad(Reason.UNREADABLE, f"meta-data is a {type(meta).__name__}")
    known = {}
    for key in ("valence", "arousal", "landmark-68", *EXTRA.names):
        value = find_key(meta, key)
        # Some copies have everything on one level.
        known[key] = find_key(table, key) if value is None else value
    label = _label(find_key(table, "human-label"))
    valence, arousal = both_affects(known["valence"], known["arousal"])
    return FaceRecord(
        part,
        name,
        image,
        label,
        valence,
        arousal,
        landmarks=points(known["landmark-68"]),
        soft=shares(find_key(table, "soft-label"), "soft-label"),
        extra=(
            _subset(known["subset"]),
            _age(known["age"]),
            as_text(known["gender"]),
            as_text(known["race"]),
            _pose(known["pose"]),
        ),
    )


def _label(value: object) -> int:
    if isinstance(value, str) and find_class(value) is not None:
        return find_class(value) or 0
    if isinstance(value, str) and value.strip().casefold() in NO_FACE.values():
        raise Bad(Reason.NO_EXPRESSION, value.strip())
    return expression(value, "human-label")


def _subset(value: object) -> str | None:
    text = as_text(value)
    if text is None:
        return None
    text = text.casefold()
    if text in SUBSETS:
        return text
    if text in ("0", "1", "2"):
        return SUBSETS[int(text)]
    raise Bad(Reason.UNREADABLE, f"subset is {text[:40]!r}, not 0, 1, 2 or {', '.join(SUBSETS)}")


def _age(value: object) -> float | None:
    """Read an age in years; None for anything else, such as a range of years."""
    try:
        age = number(value, "age")
    except Bad:
        return None
    return age if age is not None and 0 <= age < 150 else None


def _pose(value: object) -> list[float] | None:
    """Read the angles of the head, in the order and unit of the release; None for anything else."""
    try:
        return numbers(value, "pose", 16) or None
    except Bad:
        return None
