"""Which release the sources are: told by what is in them, never guessed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from affectnet.data.readers.affectnet import PARTS, Release, read_affectnet
from affectnet.data.readers.affectnet_csv import FILES, is_affectnet_csv, read_affectnet_csv
from affectnet.data.readers.affectnet_plus import find_sets, read_affectnet_plus
from affectnet.data.readers.ferplus import find_folders, read_ferplus
from affectnet.data.readers.folder import find_split_folders, looks_like_classes, read_folder
from affectnet.data.readers.parts import Options, align_release
from affectnet.data.readers.rafdb import LIST_NAMES, find_list, read_rafdb
from affectnet.data.readers.search import below, entries
from affectnet.data.readers.table import SUFFIXES, find_tables, is_table, read_table
from affectnet.errors import DataError

READERS: Final[dict[str, Callable[[Sequence[Path], Options], Release]]] = {
    "affectnet": lambda paths, options: read_eight_class(paths, options),
    "affectnet_csv": read_affectnet_csv,
    "affectnet_plus": read_affectnet_plus,
    "ferplus": read_ferplus,
    "rafdb": read_rafdb,
    "folder": read_folder,
    "table": read_table,
}
TITLES: Final = {
    "affectnet": "AffectNet's eight-class release (train_set or val_set with .npy files)",
    "affectnet_csv": f"AffectNet's manual release ({', '.join(FILES)})",
    "affectnet_plus": "AffectNet+ (train_set or validation_set with .json files)",
    "ferplus": "FER+ (FER2013Train and so on with label.csv)",
    "rafdb": f"RAF-DB ({LIST_NAMES[0]})",
    "folder": "a folder of images for each class",
    "table": "a CSV or Parquet table with image or path, and expression, valence or arousal",
}
_ONLY_FOLDERS = ("affectnet_plus", "ferplus", "folder")


def read_release(release: str, paths: Sequence[Path], options: Options) -> Release:
    """Read sources as a release, or as the one that they look like ('auto').

    Raises:
        DataError: a source is missing, is not what it was said to be, or may be two things.
    """
    for path in paths:
        try:
            there = path.exists()
        except ValueError:  # a NUL in the name
            there = False
        if not there:
            raise DataError(f"{path} does not exist; give a tar file, a folder or a table")
    name = detect(paths) if release == "auto" else release
    if name in _ONLY_FOLDERS:
        for path in paths:
            if not path.is_dir():
                raise DataError(
                    f"{path} is a file; {TITLES[name]} is read from a folder: unpack it, or say "
                    "what it is with --release"
                )
    return READERS[name](paths, options)


def read_eight_class(paths: Sequence[Path], options: Options) -> Release:
    """Read AffectNet's eight-class release, and align it where that is asked for."""
    release = read_affectnet(paths, options.scratch, options.check, options.progress)
    release.settings.update(options.settings(cropped=True))
    return align_release(release, options) if options.align else release


def detect(paths: Sequence[Path]) -> str:
    """Return the release that all sources look like, one of `READERS`.

    Raises:
        DataError: a source looks like none or like several, or two look different.
    """
    found: dict[str, Path] = {}
    helpers = []
    for path in paths:
        names = _looks_like(path)
        if not names:
            helpers.append(path)
        elif len(names) > 1:
            listed = " and like ".join(TITLES[name] for name in names)
            raise DataError(
                f"{path} looks like {listed}; say which with --release {' or '.join(names)}"
            )
        else:
            found.setdefault(names[0], path)
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise DataError(
            f"{first} looks like {TITLES[one]}, {second} like {TITLES[other]}; make a dataset of "
            "each (training takes several), or say --release"
        )
    # A folder of pictures beside a table or a list is no release by itself.
    if not found or (helpers and next(iter(found)) not in ("affectnet_csv", "rafdb", "table")):
        raise DataError(
            f"{helpers[0]} looks like no release that is known: {'; '.join(TITLES.values())}; "
            "give another folder, or say what it is with --release"
        )
    return next(iter(found))


def _looks_like(path: Path) -> list[str]:
    if not path.is_dir():
        return [_file_looks_like(path)]
    names = []
    if _has_eight_class_parts(path):
        names.append("affectnet")
    if find_sets([path]):
        names.append("affectnet_plus")
    if find_folders([path]):
        names.append("ferplus")
    if find_list([path]) is not None:
        names.append("rafdb")
    if any(is_affectnet_csv(file) for file in below(path, lambda n: n.lower() in FILES)):
        names.append("affectnet_csv")
    if not names:
        # Looked for last: parts of the releases above would pass for them.
        if find_tables([path]):
            names.append("table")
        if any(map(looks_like_classes, _candidates(path))):
            names.append("folder")
    return names


def _file_looks_like(path: Path) -> str:
    if path.name in LIST_NAMES:
        return "rafdb"
    if path.suffix.lower() in SUFFIXES:
        if path.name.lower() in FILES and is_affectnet_csv(path):
            return "affectnet_csv"
        # Where the columns are others, reading says which are needed.
        return "table" if is_table(path) or not is_affectnet_csv(path) else "affectnet_csv"
    return "affectnet"  # a tar, or whatever reading it then says that it is


def _has_eight_class_parts(path: Path) -> bool:
    here = [path.absolute()] if path.absolute().name in PARTS else []
    for folder in [*here, *below(path, lambda name: name in PARTS, folders=True)]:
        inside = dict(entries(folder))
        if inside.get("annotations"):
            names = entries(folder / "annotations")[:1000]
            if any(name.endswith(".npy") for name, _ in names):
                return True
        elif inside.get("images"):
            return True
    return False


def _candidates(path: Path) -> list[Path]:
    try:
        return list(find_split_folders(path).values())
    except DataError:
        return []
