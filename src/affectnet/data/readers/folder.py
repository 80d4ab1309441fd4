"""An image-per-class folder: `happiness/1.jpg`, or `train/happiness/1.jpg` and so on."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from affectnet.data.readers.archive import entries, files_below, image_names, tracked
from affectnet.data.readers.classes import Classes, find_class, is_number, number_of
from affectnet.data.readers.engine import Engine, FaceRecord, ReadOptions
from affectnet.data.readers.release_part import Dropped, RawRelease, Reason, ReleasePart
from affectnet.errors import DataError
from affectnet.labels import EXPRESSIONS

SPLIT_WORDS: Final = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
_SPLIT = re.compile(r"(?:.*[\W_])?(train|training|val|valid|validation|test|testing)(?:[\W_].*)?")
_ONLY_CHILDREN = 3


def read_folder(paths: Sequence[Path], options: ReadOptions) -> RawRelease:
    """Read images whose folder is their class, and the folder above, if any, their split.

    Folders are named by an expression or a common word for it ("happy"), in any case, with or
    without a number in front. Other names, and plain numbers, need `options.class_order`. Split
    folders (train, val or valid, test) become the splits; without them all images are for training.
    Images may lie in further folders below that of the class. An id is the path of the image from
    the folder of the split. Files that are not images are listed as dropped.

    Raises:
        DataError: the class of a folder is unknown, two folders of a split have one class, there
            are images next to the class folders, or, unless `options.allow_empty_classes`, no image
            of a class can be used.
    """
    classes = Classes(options.class_order)
    found: dict[str, Path] = {}
    for path in paths:
        for split, folder in find_split_folders(path).items():
            if split in found:
                raise DataError(
                    f"both {found[split]} and {folder} are for the {split} split; give one"
                )
            found[split] = folder
    folders = {split: _class_folders(folder) for split, folder in found.items()}
    if not any(folders.values()):
        raise DataError(
            f"{', '.join(map(str, paths))} has no folders of images; give one with folders named "
            f"{', '.join(EXPRESSIONS)}, or with such folders in train, val and test"
        )
    labels = {split: _labels(found[split], folders[split], classes) for split in found}
    with Engine(options) as engine:
        for split, folder in found.items():
            engine.read(_faces(folder, labels[split], split, options))
        release = engine.release(
            "folder",
            {split: split for split in found},
            _files_above(paths, found.values()),
            class_order=classes.given or None,
        )
        if not options.allow_empty_classes:
            for split, folder in found.items():
                _refuse_empty(release.parts[split], folder, labels[split])
        return release


def find_split_folders(top: Path) -> dict[str, Path]:
    """Return split -> folder whose subfolders are the classes.

    The folder given may be one split (by its name), contain the splits, or be the whole training
    part; folders that contain nothing but one other folder are skipped. `train`, `val` and the like
    are splits; other names that state a split, as `train_set` and `val_class`, are splits where the
    folder contains folders and no image.

    Raises:
        DataError: two folders are for the same split, or classes are next to splits.
    """
    for _ in range(_ONLY_CHILDREN):
        inside = _folders(top)
        splits = [name for name in inside if name.casefold() in SPLIT_WORDS] or [
            name for name in inside if split_of(name) and _holds_folders(top / name)
        ]
        if splits:
            others = [name for name in inside if name not in splits and _has_images(top / name)]
            if others:
                raise DataError(
                    f"{top} has the split {splits[0]} next to the folder {others[0]} with images; "
                    "give the folders of the splits one by one"
                )
            found: dict[str, Path] = {}
            for name in splits:
                split = str(split_of(name))
                if split in found:
                    raise DataError(
                        f"{top} has {found[split].name} and {name}, both the {split} split; "
                        "remove one"
                    )
                found[split] = top / name
            return {split: _innermost(folder) for split, folder in found.items()}
        if len(inside) != 1 or not _holds_folders(top / inside[0]):
            break
        top = top / inside[0]
    return {split_of(top.absolute().name) or "train": top}


def split_of(name: str) -> str | None:
    """Return the split that a name states, as `val` in `fer_valid` or `train` in `train-00001`."""
    word = _SPLIT.fullmatch(name.casefold())
    return SPLIT_WORDS[word[1]] if word else None


def _innermost(split: Path) -> Path:
    """The folder of the classes where a split folder was packed twice, as `train_set/train_set`."""
    for _ in range(_ONLY_CHILDREN):
        inside = _folders(split)
        if len(inside) != 1 or is_class(inside[0]) or not _holds_folders(split / inside[0]):
            break
        split = split / inside[0]
    return split


def _folders(folder: Path) -> list[str]:
    return [name for name, is_folder in entries(folder) if is_folder]


def _holds_folders(folder: Path) -> bool:
    """Whether there are folders and no image directly in a folder."""
    return bool(_folders(folder)) and not image_names(folder)


def _has_images(folder: Path) -> bool:
    return any(is_image for _, is_image in files_below(folder))


def is_class(name: str) -> bool:
    """Whether a name may be that of a class: a word for an expression, or a number."""
    return find_class(name) is not None or is_number(name)


def _class_folders(folder: Path) -> list[str]:
    """The folders of a split with images or the name of a class."""
    loose = image_names(folder)
    if loose:
        raise DataError(
            f"{folder} has images next to its folders, {loose[0]} for example; each must be in the "
            "folder of its class"
        )
    return [name for name in _folders(folder) if is_class(name) or _has_images(folder / name)]


def looks_like_classes(folder: Path) -> bool:
    """Whether the folders in a folder may be classes: expressions among them, or all numbers."""
    names = _folders(folder)
    known = [name for name in names if find_class(name) is not None]
    numbered = [name for name in names if is_number(name)]
    likely = len(known) >= 2 or (len(numbered) >= 2 and len(numbered) == len(names))
    return likely and any(_has_images(folder / name) for name in [*known, *numbered])


def _files_above(paths: Sequence[Path], folders: Iterable[Path]) -> int:
    """How many files are in the folders given, above the folders of the splits."""
    above = {
        parent
        for folder in folders
        for parent in folder.parents
        for path in paths
        if parent == path or path in parent.parents
    }
    return sum(not is_folder for folder in above for _, is_folder in entries(folder))


def _refuse_empty(part: ReleasePart, top: Path, labels: Mapping[str, int | None]) -> None:
    """Raise `DataError` for a class whose folder is there and of which no image can be used."""
    used = {id_.partition("/")[0] for id_ in part.ids}
    empty = [name for name, label in labels.items() if label is not None and name not in used]
    if not empty:
        return
    lines = [line for line in part.dropped if line.id.startswith(f"{empty[0]}/")]
    counts = Counter(line.reason.value for line in lines).most_common()
    details = ", ".join(f"{count:,} x {reason}" for reason, count in counts) or "it has no files"
    if lines and lines[0].detail:
        details += f", for example {lines[0].id}: {lines[0].detail}"
    raise DataError(
        f"no image in {', '.join(str(top / name) for name in empty)} can be used ({details}); "
        "repair or remove the folder, or add --allow-empty-classes"
    )


def _labels(top: Path, names: Sequence[str], classes: Classes) -> dict[str, int | None]:
    """Return the class of each folder.

    Raises:
        DataError: a class is unknown, or two folders are one class.
    """
    unknown: list[str] = []
    found: dict[str, int | None] = {}
    for name in names:
        try:
            found[name] = classes.find(name)
        except KeyError:
            unknown.append(name)
    if unknown:
        raise classes.refuse(str(top), unknown)
    numbers = [number for name in names if (number := number_of(name)) is not None]
    if classes.counted and numbers and min(numbers) > 0:
        raise DataError(
            f"{top} counts its folders from {min(numbers)}, but a plain --class-order counts from "
            f"0; name the labels: --class-order {min(numbers)}=happiness,..."
        )
    seen: dict[int, str] = {}
    for name, label in found.items():
        if label is None or classes.named(name):
            continue
        if label in seen:
            raise DataError(
                f"{top} has {seen[label]} and {name}, both {EXPRESSIONS[label]}; join them, or "
                f"give --class-order {seen[label]}={EXPRESSIONS[label]},{name}={EXPRESSIONS[label]}"
            )
        seen[label] = name
    return found


def _faces(
    top: Path, labels: Mapping[str, int | None], split: str, options: ReadOptions
) -> Iterator[FaceRecord | Dropped]:
    beside = [name for name, is_folder in entries(top) if not is_folder]
    files = [
        (name, path, is_image) for name in labels for path, is_image in files_below(top / name)
    ]
    for name in beside:
        yield Dropped(split, name, Reason.NOT_AN_IMAGE, "next to the folders of the classes")
    for name in _folders(top):
        if name not in labels:
            yield Dropped(split, name, Reason.NOT_AN_IMAGE, "a folder without images")
    for name, file, is_image in tracked(files, options.progress(str(top))):
        label, place = labels[name], f"{name}/{file}"
        if not is_image:
            yield Dropped(split, place, Reason.NOT_AN_IMAGE, "")
        elif label is None:
            yield Dropped(split, place, Reason.NO_EXPRESSION, "left out by --class-order")
        else:
            yield FaceRecord(split, place, top / name / file, label)
