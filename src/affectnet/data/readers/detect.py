"""Find out which release the sources are, by their content; never guess."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from affectnet.data.readers.affectnet import PARTS, read_affectnet
from affectnet.data.readers.affectnet_csv import FILES, is_affectnet_csv, read_affectnet_csv
from affectnet.data.readers.affectnet_plus import find_sets, read_affectnet_plus
from affectnet.data.readers.archive import below, entries, find_folders, with_folder
from affectnet.data.readers.engine import ReadOptions
from affectnet.data.readers.ferplus import find_labelled, read_ferplus
from affectnet.data.readers.folder import find_split_folders, looks_like_classes, read_folder
from affectnet.data.readers.rafdb import LIST_NAMES, find_list, read_rafdb
from affectnet.data.readers.release_part import RawRelease
from affectnet.data.readers.table import SUFFIXES, find_tables, is_table, names_labels, read_table
from affectnet.errors import DataError, suggest_path

READERS: Final[dict[str, Callable[[Sequence[Path], ReadOptions], RawRelease]]] = {
    "affectnet": read_affectnet,
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


def read_release(release: str, paths: Sequence[Path], options: ReadOptions) -> RawRelease:
    """Read sources as a release; 'auto' finds out which one.

    Raises:
        DataError: a source is missing, is not the given release, or may be more than one.
    """
    for path in paths:
        if not path.exists():
            raise DataError(
                f"{path} does not exist{suggest_path(path)}; give a tar file, a folder or a table"
            )
    name = detect(paths) if release == "auto" else release
    if name in _ONLY_FOLDERS:
        for path in paths:
            if not path.is_dir():
                raise DataError(
                    f"{path} is a file; {TITLES[name]} is read from a folder: unpack it, or "
                    "name another release with --release"
                )
    return READERS[name](paths, options)


def detect(paths: Sequence[Path]) -> str:
    """Return the release that all sources look like, one of `READERS`.

    Raises:
        DataError: a source looks like none or like several, or two sources look different.
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
                f"{path} looks like {listed}; choose with --release {' or '.join(names)}"
            )
        else:
            found.setdefault(names[0], path)
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise DataError(
            f"{first} looks like {TITLES[one]}, {second} like {TITLES[other]}; make a dataset of "
            "each (a model can be trained on several), or give --release"
        )
    # A folder of images given with a table or a list is not a release by itself.
    if not found or (helpers and next(iter(found)) not in ("affectnet_csv", "rafdb", "table")):
        raise DataError(
            f"{helpers[0]} does not look like a known release: {'; '.join(TITLES.values())}; "
            "give another folder, or name the release with --release"
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
    if find_labelled([path]):
        names.append("ferplus")
    if find_list([path]) is not None:
        names.append("rafdb")
    if any(is_affectnet_csv(file) for file in below(path, lambda n: n.lower() in FILES)):
        names.append("affectnet_csv")
    if not names:
        # Checked last, because parts of the releases above look like these.
        if find_tables([path]):
            names.append("table")
        if any(map(looks_like_classes, _candidates(path))):
            names.append("folder")
            beside = below(path, lambda name: name.lower().endswith(".csv"))
            if "table" not in names and (file := next(filter(names_labels, beside), None)):
                raise DataError(
                    f"{path} has folders of classes and {with_folder(file)} with labels, which may "
                    "differ; --release folder uses the names of the folders; to use the file, give "
                    "it a column path with the images and choose --release table"
                )
    return names


def _file_looks_like(path: Path) -> str:
    if path.name in LIST_NAMES:
        return "rafdb"
    if path.suffix.lower() in SUFFIXES:
        if path.name.lower() in FILES and is_affectnet_csv(path):
            return "affectnet_csv"
        # With other columns, reading raises an error that names those needed.
        return "table" if is_table(path) or not is_affectnet_csv(path) else "affectnet_csv"
    return "affectnet"  # a tar archive; if it is not, reading raises an error


def _has_eight_class_parts(path: Path) -> bool:
    for folder in find_folders([path], PARTS):
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
