"""An image-per-class folder: `happiness/1.jpg`, or `train/happiness/1.jpg` and so on."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from affectnet.data.readers.affectnet import Release
from affectnet.data.readers.classes import Classes, find_class, is_number
from affectnet.data.readers.collect import Record
from affectnet.data.readers.part import NO_EXPRESSION
from affectnet.data.readers.parts import Options, Parts
from affectnet.data.readers.search import Entry, entries, is_image
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


def read_folder(paths: Sequence[Path], options: Options) -> Release:
    """Read images whose folder tells their class, and the folder above perhaps their split.

    Folders are named by an expression or a common word for it ("happy"), in any case, perhaps with
    a number in front. Other names, and mere numbers, need `options.class_order`. Where there are
    split folders (train, val or valid, test), they are kept; else all is for training. An id is
    `FOLDER/FILE`.

    Raises:
        DataError: what a folder stands for is not told, two folders of a split have one class, or
            images lie beside the class folders.
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
            f"{', '.join(map(str, paths))} has no folders of images; needed are folders named "
            f"{', '.join(EXPRESSIONS)}, perhaps below train, val and test"
        )
    meanings = {split: _meanings(found[split], folders[split], classes) for split in found}
    with Parts(options) as parts:
        for split, folder in found.items():
            _read_split(folder, meanings[split], parts, split, options)
        return parts.release(
            "folder",
            {split: split for split in found},
            class_order=classes.given or None,
        )


def find_split_folders(top: Path) -> dict[str, Path]:
    """Return split -> folder whose subfolders are the classes.

    The folder given may be one split (told by its name), hold the splits, or be all of the
    training part; folders that hold nothing but one other folder are passed through.

    Raises:
        DataError: two folders are for the same split, or classes lie beside splits.
    """
    for _ in range(_ONLY_CHILDREN):
        inside = [name for name, is_folder in entries(top) if is_folder]
        splits = [name for name in inside if name.casefold() in SPLIT_WORDS]
        if splits:
            others = [name for name in inside if name not in splits and _has_images(top / name)]
            if others:
                raise DataError(
                    f"{top} has the split {splits[0]} beside the folder {others[0]} with images; "
                    "give the folders of the splits one by one"
                )
            found: dict[str, Path] = {}
            for name in splits:
                split = SPLIT_WORDS[name.casefold()]
                if split in found:
                    raise DataError(
                        f"{top} has {found[split].name} and {name}, both the {split} split; "
                        "take one away"
                    )
                found[split] = top / name
            return found
        if len(inside) != 1 or _has_images(top / inside[0]):
            break
        top = top / inside[0]
    return {split_of(top.absolute().name) or "train": top}


def split_of(name: str) -> str | None:
    """Return the split that a name tells, as `val` of `fer_valid` or `train` of `train-00001`."""
    word = _SPLIT.fullmatch(name.casefold())
    return SPLIT_WORDS[word[1]] if word else None


def _has_images(folder: Path) -> bool:
    return any(not is_folder and is_image(name) for name, is_folder in entries(folder))


def _class_folders(folder: Path) -> list[str]:
    inside: list[Entry] = entries(folder)
    loose = [name for name, is_folder in inside if not is_folder and is_image(name)]
    if loose:
        raise DataError(
            f"{folder} has images beside its folders, {loose[0]} for example; each must lie in the "
            "folder of its class"
        )
    return [name for name, is_folder in inside if is_folder and _has_images(folder / name)]


def looks_like_classes(folder: Path) -> bool:
    """Whether the folders in a folder may be classes: expressions among them, or all numbers."""
    names = [name for name, is_folder in entries(folder) if is_folder]
    known = [name for name in names if find_class(name) is not None]
    numbered = [name for name in names if is_number(name)]
    likely = len(known) >= 2 or (len(numbered) >= 2 and len(numbered) == len(names))
    return likely and any(_has_images(folder / name) for name in [*known, *numbered])


def _meanings(top: Path, names: Sequence[str], classes: Classes) -> dict[str, int | None]:
    """Return the class of each folder.

    Raises:
        DataError: nothing tells it, or two folders mean one class.
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
            f"{top} counts its folders from {min(map(int, numbered))}, a plain --class-order from "
            f"0; say which is which: --class-order {numbered[0]}=happiness,..."
        )
    seen: dict[int, str] = {}
    for name, label in found.items():
        if label is None or classes.named(name):
            continue
        if label in seen:
            raise DataError(
                f"{top} has {seen[label]} and {name}, both {EXPRESSIONS[label]}; join them, or say "
                f"--class-order {seen[label]}={EXPRESSIONS[label]},{name}={EXPRESSIONS[label]}"
            )
        seen[label] = name
    return found


def _read_split(
    top: Path, meanings: dict[str, int | None], parts: Parts, split: str, options: Options
) -> None:
    collector = parts[split]
    files = [
        (name, file)
        for name in meanings
        for file, is_folder in entries(top / name)
        if not is_folder and is_image(file)
    ]
    progress = options.progress(str(top))
    for done, (name, file) in enumerate(files):
        if done % 256 == 0:
            progress(done, len(files))
        label = meanings[name]
        if label is None:
            collector.drop(f"{name}/{file}", NO_EXPRESSION, "left out by --class-order")
        else:
            collector.add(Record(f"{name}/{file}", top / name / file, label))
