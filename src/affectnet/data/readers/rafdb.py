"""RAF-DB, basic expressions: `list_patition_label.txt` and aligned images."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from affectnet.data.file_kinds import is_image_file
from affectnet.data.images import decode_image
from affectnet.data.readers.annotations import Bad, path_below
from affectnet.data.readers.archive import below, entries, read_member, tracked, walk
from affectnet.data.readers.classes import ORDERS, RAFDB
from affectnet.data.readers.engine import Engine, FaceRecord, ReadOptions
from affectnet.data.readers.release_part import Dropped, RawRelease, Reason
from affectnet.errors import DataError
from affectnet.labels import EXPRESSIONS

LIST_NAMES: Final = ("list_patition_label.txt", "list_partition_label.txt")
"""The first is the spelling of the release."""

SIDE: Final = 100
"""Side of the aligned images, in pixels."""

_PREFIXES = {"train_": "train", "test_": "test"}
_MAX_LIST = 32 << 20


def read_rafdb(paths: Sequence[Path], options: ReadOptions) -> RawRelease:
    """Read RAF-DB's seven expressions, in its own label order; there is no valence or arousal.

    Reads the aligned images, `train_00001_aligned.jpg`; images of the plain name are used if they
    are 100x100, as the aligned images are.

    Raises:
        DataError: the list or the aligned images are missing, or are there twice.
    """
    file = find_list(paths)
    if file is None:
        raise DataError(
            f"{', '.join(map(str, paths))}: there is no {LIST_NAMES[0]}; give the folder that "
            "contains it and the images"
        )
    lines = _read_lines(file)
    folder, aligned = _find_images(paths, file, lines)
    with Engine(options) as engine:
        engine.read(_faces(folder, aligned, lines, options))
        return engine.release("rafdb", {part: part for part in engine.tables})


def _faces(
    folder: Path, aligned: bool, lines: Sequence[str], options: ReadOptions
) -> Iterator[FaceRecord | Dropped]:
    for line in tracked(lines, options.progress(str(folder))):
        words = line.split()
        if not words:
            continue
        name = words[0]
        prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
        part = _PREFIXES[prefix or "train_"]
        stem, _, suffix = name.rpartition(".")
        try:
            if prefix is None or len(words) != 2:
                stem = name
                shown = line.strip()[:60]
                raise Bad(Reason.UNREADABLE, f"'{shown}' is not of the form 'train_00001.jpg 5'")
            label = _label(words[1])
            if not stem:
                raise Bad(Reason.UNREADABLE_ID, "not the name of an image file")
            file = f"{stem}_aligned.{suffix}" if aligned else name
            image = folder / path_below(file, options.allow_outside)
            yield FaceRecord(part, stem, image, label)
        except Bad as bad:
            yield Dropped(part, stem or name, *bad.fault)


def find_list(paths: Sequence[Path]) -> Path | None:
    """Return the list of labels at or below some paths, None if there is none.

    Raises:
        DataError: there are two.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if path.is_dir():
            for file in below(path, lambda name: name in LIST_NAMES):
                found.setdefault(file.resolve(), file)
        elif path.name in LIST_NAMES:
            found.setdefault(path.resolve(), path)
    if len(found) > 1:
        first, second = list(found)[:2]
        raise DataError(f"there are two lists of labels, {first} and {second}; give one folder")
    return next(iter(found.values()), None)


def _read_lines(file: Path) -> list[str]:
    try:
        if file.stat().st_size > _MAX_LIST:
            raise DataError(f"{file} is too large for the list of RAF-DB; give the original file")
        return file.read_text("utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error


def _find_images(paths: Sequence[Path], file: Path, lines: Sequence[str]) -> tuple[Path, bool]:
    """Return the folder of the images, and whether their names end in `_aligned`."""
    listed = {words[0] for line in lines if (words := line.split())}
    stems = {name.rpartition(".")[0] for name in listed}
    near = file.absolute().parent
    tops = [path for path in paths if path.is_dir()] or [near, near.parent]
    aligned: dict[Path, Path] = {}
    plain: dict[Path, Path] = {}
    for top in tops:
        for folder, inside in walk(top):
            names = [name for name, is_folder in inside if not is_folder]
            if any(
                n.rpartition(".")[0].removesuffix("_aligned") in stems
                and n not in listed
                and is_image_file(folder / n)
                for n in names
            ):
                aligned.setdefault(folder.resolve(), folder)
            elif any(name in listed for name in names):
                plain.setdefault(folder.resolve(), folder)
    usable = list(aligned.values()) or [where for where in plain.values() if _fits(where, listed)]
    if len(usable) > 1:
        raise DataError(
            f"the aligned images are in {usable[0]} and in {usable[1]}; give one of the two and "
            f"{file.name}"
        )
    if not usable:
        others = [str(folder) for folder in plain.values()]
        state = f"there are only those of {others[0]}" if others else "there are none"
        raise DataError(
            f"RAF-DB's aligned images (train_00001_aligned.jpg, {SIDE}x{SIDE}) are needed, but "
            f"{state}; give the folder that contains Image/aligned"
        )
    return usable[0], bool(aligned)


def _fits(folder: Path, listed: set[str]) -> bool:
    """Whether the images of a folder have the size of aligned images; the first one decides."""
    names = [name for name, is_folder in entries(folder) if not is_folder and name in listed]
    for name in names[:20]:
        try:
            data, _ = read_member(folder / name)
            return decode_image(data or b"").shape[:2] == (SIDE, SIDE)
        except (OSError, DataError):
            continue
    return False


def _label(word: str) -> int:
    name = ORDERS["rafdb"].get(word)
    if name is None:
        raise Bad(Reason.BAD_LABEL, f"the label is {word[:40]!r}; RAF-DB's are 1 to {len(RAFDB)}")
    return EXPRESSIONS.index(name)
