"""Looking for files and folders below a folder, within bounds."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from affectnet.errors import DataError

_DEPTH = 5
_MOST_FOLDERS = 20_000
_PARTS = ("train_set", "val_set", "validation_set")
_KINDS = ("images", "annotations")
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm")
)


def _no(_: str) -> bool:
    return False


Entry = tuple[str, bool]
"""A name in a folder, and whether it is a folder itself."""


def walk(top: Path, skip: Callable[[str], bool] = _no) -> Iterator[tuple[Path, list[Entry]]]:
    """Yield a folder and all below it, at most five levels down, each with its entries.

    Level by level, by name. What begins with a dot is passed over, as are folders to `skip` and
    what AffectNet keeps in its parts. Links are followed, but no folder is looked into twice.

    Raises:
        DataError: a folder cannot be read, or there are over 20,000.
    """
    level = [top]
    seen: set[tuple[int, int]] = set()
    for _ in range(_DEPTH + 1):
        deeper: list[Path] = []
        for folder in level:
            at = folder.stat()
            if (at.st_dev, at.st_ino) in seen:
                continue
            seen.add((at.st_dev, at.st_ino))
            if len(seen) > _MOST_FOLDERS:
                raise DataError(
                    f"{top} holds over {_MOST_FOLDERS:,} folders; give a folder further down"
                )
            inside = entries(folder)
            yield folder, inside
            # A million annotations have nothing to be found among them, and take seconds to list.
            shut = _KINDS if folder.name in _PARTS else ()
            deeper += [
                folder / name
                for name, is_folder in inside
                if is_folder and name not in shut and not skip(name)
            ]
        level = deeper


def below(top: Path, wanted: Callable[[str], bool], *, folders: bool = False) -> Iterator[Path]:
    """Yield files, or folders, whose name is wanted; see `walk`.

    What lies below a wanted folder is not looked at.
    """
    for folder, inside in walk(top, wanted if folders else _no):
        for name, is_folder in inside:
            if is_folder == folders and wanted(name):
                yield folder / name


def entries(folder: Path) -> list[Entry]:
    """Return the names in a folder, sorted, none that begin with a dot; and which are folders.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted((e.name, e.is_dir()) for e in found if not e.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error


def is_image(name: str) -> bool:
    """Whether a file's name ends as an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (for a million)


def images_by_stem(folder: Path) -> dict[str, str]:
    """Return stem -> name of the images in a folder; of two with one stem, the first by name."""
    found: dict[str, str] = {}
    for name, is_folder in entries(folder):
        if not is_folder and is_image(name):
            found.setdefault(name.rpartition(".")[0], name)
    return found


def shown(path: Path) -> str:
    """Name a file with the folder that it is in."""
    return f"{path.parent.name}/{path.name}"
