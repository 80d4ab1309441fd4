"""An image-per-class folder: `happiness/1.jpg`, or `train/happiness/1.jpg` and so on."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from affectnet.data.readers.archive import entries, image_names, tracked
from affectnet.data.readers.classes import Classes, find_class, is_number
from affectnet.data.readers.engine import Engine, FaceRecord, ReadOptions
from affectnet.data.readers.release_part import Dropped, RawRelease, Reason
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
    An id is `FOLDER/FILE`.

    Raises:
        DataError: the class of a folder is unknown, two folders of a split have one class, or there
            are images next to the class folders.
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
        return engine.release(
            "folder", {split: split for split in found}, class_order=classes.given or None
        )


def find_split_folders(top: Path) -> dict[str, Path]:
    """Return split -> folder whose subfolders are the classes.

    The folder given may be one split (by its name), contain the splits, or be the whole training
    part; folders that contain nothing but one other folder are skipped.

    Raises:
        DataError: two folders are for the same split, or classes are next to splits.
    """
    for _ in range(_ONLY_CHILDREN):
        inside = [name for name, is_folder in entries(top) if is_folder]
        splits = [name for name in inside if name.casefold() in SPLIT_WORDS]
        if splits:
            others = [name for name in inside if name not in splits and _has_images(top / name)]
            if others:
                raise DataError(
                    f"{top} has the split {splits[0]} next to the folder {others[0]} with images; "
                    "give the folders of the splits one by one"
                )
            found: dict[str, Path] = {}
            for name in splits:
                split = SPLIT_WORDS[name.casefold()]
                if split in found:
                    raise DataError(
                        f"{top} has {found[split].name} and {name}, both the {split} split; "
                        "remove one"
                    )
                found[split] = top / name
            return found
        if len(inside) != 1 or _has_images(top / inside[0]):
            break
        top = top / inside[0]
    return {split_of(top.absolute().name) or "train": top}


def split_of(name: str) -> str | None:
    """Return the split that a name states, as `val` in `fer_valid` or `train` in `train-00001`."""
    word = _SPLIT.fullmatch(name.casefold())
    return SPLIT_WORDS[word[1]] if word else None


def _has_images(folder: Path) -> bool:
    return bool(image_names(folder))


def _class_folders(folder: Path) -> list[str]:
    loose = image_names(folder)
    if loose:
        raise DataError(
            f"{folder} has images next to its folders, {loose[0]} for example; each must be in the "
            "folder of its class"
        )
    return [name for name, is_folder in entries(folder) if is_folder and _has_images(folder / name)]


def looks_like_classes(folder: Path) -> bool:
    """Whether the folders in a folder may be classes: expressions among them, or all numbers."""
    names = [name for name, is_folder in entries(folder) if is_folder]
    known = [name for name in names if find_class(name) is not None]
    numbered = [name for name in names if is_number(name)]
    likely = len(known) >= 2 or (len(numbered) >= 2 and len(numbered) == len(names))
    return likely and any(_has_images(folder / name) for name in [*known, *numbered])


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
    numbered = [name for name in names if is_number(name)]
    if classes.counted and numbered and not any(int(name) == 0 for name in numbered):
        raise DataError(
            f"{top} counts its folders from {min(map(int, numbered))}, but a plain --class-order "
            f"counts from 0; name the labels: --class-order {numbered[0]}=happiness,..."
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
    top: Path, labels: dict[str, int | None], split: str, options: ReadOptions
) -> Iterator[FaceRecord | Dropped]:
    files = [(name, file) for name in labels for file in image_names(top / name)]
    for name, file in tracked(files, options.progress(str(top))):
        label = labels[name]
        if label is None:
            yield Dropped(
                split, f"{name}/{file}", Reason.NO_EXPRESSION, "left out by --class-order"
            )
        else:
            yield FaceRecord(split, f"{name}/{file}", top / name / file, label)
