"""AffectNet+ (2024): `train_set|validation_set/{images,annotations}`, one JSON file a face."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from affectnet.data.readers.affectnet import Release
from affectnet.data.readers.annotations import (
    Bad,
    affect,
    as_text,
    find_key,
    number,
    numbers,
    points,
    shares,
)
from affectnet.data.readers.classes import find_class
from affectnet.data.readers.collect import Record
from affectnet.data.readers.part import (
    BAD_LABEL,
    MISSING,
    NO_EXPRESSION,
    ORPHAN_ANNOTATION,
    ORPHAN_IMAGE,
    UNREADABLE,
)
from affectnet.data.readers.parts import Options, Parts
from affectnet.data.readers.search import below, entries, images_by_stem
from affectnet.errors import DataError
from affectnet.labels import N_EXPRESSIONS

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
"""Further columns: the difficulty subset, and what AffectNet+ says of the person and the head."""

_MAX_JSON = 1 << 20
_NO_FACE = {8: "none", 9: "uncertain", 10: "no face"}


def read_affectnet_plus(paths: Sequence[Path], options: Options) -> Release:
    """Read AffectNet+: human labels, soft labels, landmarks, and the columns of `EXTRA`.

    Keys are found whatever their case and whatever joins their words. A face needs an image, a
    label 0-7, and a valence and arousal in [-1, 1]; soft label, landmarks and the rest may be
    missing. The validation part is the test split.

    Raises:
        DataError: there is no part of the release.
    """
    found = find_sets(paths)
    if not found:
        raise DataError(
            f"{', '.join(map(str, paths))}: there is no train_set or validation_set with images "
            "and annotations (.json) below; give the folder human_annotated"
        )
    splits: dict[str, str] = {}
    with Parts(options, columns=EXTRA) as parts:
        for folder in found:
            split = SETS[folder.name]
            if splits.setdefault(split, folder.name) != folder.name:
                raise DataError(f"both {splits[split]} and {folder.name} are there; give one")
            _read_set(folder, parts, options)
        return parts.release("affectnet_plus", splits)


def find_sets(paths: Sequence[Path]) -> list[Path]:
    """Return the folders of parts whose annotations are JSON files."""
    found: dict[Path, Path] = {}
    for path in paths:
        # Not resolved: a link named train_set is a train_set, whatever it points to.
        here = [path.absolute()] if path.absolute().name in SETS else []
        for folder in [*here, *below(path, lambda name: name in SETS, folders=True)]:
            kinds = dict(entries(folder))
            if kinds.get("images") and kinds.get("annotations"):
                names = entries(folder / "annotations")[:1000]
                if any(name.lower().endswith(".json") for name, _ in names):
                    found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _read_set(folder: Path, parts: Parts, options: Options) -> None:
    collector = parts[folder.name]
    images = images_by_stem(folder / "images")
    names = [name for name, is_folder in entries(folder / "annotations") if not is_folder]
    progress = options.progress(str(folder))
    for done, name in enumerate(names):
        if done % 256 == 0:
            progress(done, len(names))
        stem, _, suffix = name.rpartition(".")
        if suffix.lower() != "json":
            continue
        image = images.pop(stem, None)
        try:
            if image is None:
                raise Bad(ORPHAN_ANNOTATION, "no image")
            record = _record(stem, _load(folder / "annotations" / name))
        except Bad as bad:
            collector.drop(stem, *bad.fault)
            continue
        record.image = folder / "images" / image
        collector.add(record)
    for stem in images:
        collector.drop(stem, ORPHAN_IMAGE, "no annotation")


def _load(path: Path) -> Mapping[str, Any]:
    try:
        size = path.stat().st_size
        if not path.is_file() or size > _MAX_JSON:
            raise Bad(UNREADABLE, f"{size:,} bytes where a small JSON file was due")
        loaded = json.loads(path.read_bytes())
    except OSError as error:
        raise Bad(UNREADABLE, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, numbers without an end
        raise Bad(UNREADABLE, f"no JSON: {' '.join(str(error).split())[:100]}") from error
    if not isinstance(loaded, dict):
        raise Bad(UNREADABLE, f"JSON of a {type(loaded).__name__} where names and values were due")
    return loaded


def _record(name: str, table: Mapping[str, Any]) -> Record:
    meta = find_key(table, "meta-data")
    if meta is None:
        meta = {}
    if not isinstance(meta, dict):
        raise Bad(UNREADABLE, f"meta-data is a {type(meta).__name__}")
    # Some copies have everything on one level.
    known = {key: find_key(meta, key) for key in ("valence", "arousal", "landmark-68")}
    known |= {field.name: find_key(meta, field.name) for field in EXTRA}
    for key, value in known.items():
        if value is None:
            known[key] = find_key(table, key)
    label = _label(find_key(table, "human-label"))
    valence, arousal = (affect(known[key], key) for key in ("valence", "arousal"))
    if valence is None or arousal is None:
        raise Bad(MISSING, "no valence or arousal")
    return Record(
        name,
        Path(),
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
    if isinstance(value, str) and value.strip().casefold() in _NO_FACE.values():
        raise Bad(NO_EXPRESSION, value.strip())
    label = number(value, "human-label")
    if label is None:
        raise Bad(MISSING, "no human-label")
    if label in _NO_FACE:
        raise Bad(NO_EXPRESSION, f"class {label:g}, {_NO_FACE[int(label)]}")
    if not 0 <= label < N_EXPRESSIONS or label != int(label):
        raise Bad(BAD_LABEL, f"human-label is {label:g}")
    return int(label)


def _subset(value: object) -> str | None:
    text = as_text(value)
    if text is None:
        return None
    text = text.casefold()
    if text in SUBSETS:
        return text
    if text in ("0", "1", "2"):
        return SUBSETS[int(text)]
    raise Bad(UNREADABLE, f"subset is {text[:40]!r}, not 0, 1, 2 or {', '.join(SUBSETS)}")


def _age(value: object) -> float | None:
    """Take an age in years; what is no number (a range of years) is left out."""
    try:
        age = number(value, "age")
    except Bad:
        return None
    return age if age is not None and 0 <= age < 150 else None


def _pose(value: object) -> list[float] | None:
    """Take the angles of the head, in the release's order and unit; else nothing."""
    try:
        return numbers(value, "pose", 16) or None
    except Bad:
        return None
