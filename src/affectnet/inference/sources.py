"""Find the images, videos and cameras that the user names: files, folders, globs, numbers."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final, Literal

from affectnet.data.file_kinds import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Kind, is_named, kind_of_file
from affectnet.errors import DataError

_SUFFIXES: Final = IMAGE_SUFFIXES | VIDEO_SUFFIXES
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class InputSource:
    """One image, video or camera.

    Attributes:
        kind: `image` also for files that are neither; reading them gives the reason.
        path: of the file; the camera's number as text for a camera.
        name: of the output files for this source: its path below the folder that the user named,
            its own name otherwise.
    """

    kind: Literal["image", "video", "camera"]
    path: str
    name: str


def find_sources(inputs: Sequence[str]) -> list[InputSource]:
    """Find every image and video that the user named, each once, in order.

    Folders are searched recursively, links to folders too, for files with the extension or the
    first bytes of an image or a video; hidden files and folders are skipped. A folder that cannot
    be read is returned as an image, and reading it gives the reason. A file that was named itself,
    or by a glob, is taken whatever its name. The first bytes of a file decide what it is. A number
    that is not a file is a camera.

    Raises `DataError` that lists every input that does not exist, and where nothing is given or
    found.
    """
    if not inputs:
        raise DataError(
            "no input is given; give photos, videos, folders or the number of a camera, as in "
            "`affectnet predict photo.jpg`"
        )
    found: dict[str, InputSource] = {}
    missing = []
    for given in inputs:
        path = Path(given)
        try:
            exists = path.exists()
        except (OSError, ValueError):  # a name too long, or with a null byte
            exists = False
        if exists and path.is_dir():
            files = [(file, os.path.relpath(file, given)) for file in _walk(path)]
        elif exists:
            files = [(given, path.name)]
        elif re.fullmatch(r"\d{1,3}", given):
            found.setdefault(given, InputSource("camera", given, f"camera-{given}"))
            continue
        else:
            names = _expand(given) if _GLOB.search(given) else []
            files = [(file, Path(file).name) for file in names]
            if not files:
                missing.append(given)
        for file, name in files:
            found.setdefault(file, InputSource(_kind(file), file, name))
    if missing:
        raise DataError(
            f"there is no file, folder or camera {', '.join(map(repr, missing))}; give images, "
            "videos, folders, globs in quotes, or the number of a camera"
        )
    if not found:
        extensions = " ".join(sorted(_SUFFIXES))
        raise DataError(
            f"there is no image and no video in {', '.join(inputs)}; a folder is searched for "
            f"files that end in {extensions}, or begin as such a file does"
        )
    return list(found.values())


_COPIES: Final = (".jpg", ".webm", ".mp4", "_over_time.png")
"""Endings of the files that are written below these names."""


def unique_names(sources: Sequence[InputSource]) -> list[str]:
    """Return one unique name per source, without extension, for a file below a folder."""
    # Some file systems ignore case.
    folders = {
        str(folder).casefold() for source in sources for folder in PurePath(source.name).parents
    }
    taken: set[str] = set()
    names = []
    for source in sources:
        plain = os.path.splitext(source.name)[0]  # noqa: PTH122 (a text, with folders in it)
        name, count = plain, 1
        while name.casefold() in taken or any(
            f"{name}{end}".casefold() in folders for end in _COPIES
        ):
            count += 1
            name = f"{plain}-{count}"
        taken.add(name.casefold())
        names.append(name)
    return names


def _walk(folder: Path) -> Iterator[str]:
    refused: list[str] = []
    seen: set[tuple[int, int]] = set()
    walk = os.walk(folder, followlinks=True, onerror=lambda e: refused.append(e.filename))
    for base, folders, files in walk:
        at = os.stat(base)  # noqa: PTH116
        if (at.st_dev, at.st_ino) in seen:  # a link to a folder above, or a second one
            folders[:] = []
            continue
        seen.add((at.st_dev, at.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(base, name)  # noqa: PTH118 (keeps a leading ./)
            if not name.startswith(".") and (is_named(name, _SUFFIXES) or kind_of_file(path)):
                yield path
        yield from refused
        refused.clear()
    yield from refused


def _expand(pattern: str) -> list[str]:
    files = glob.glob(pattern, recursive=True)  # noqa: PTH207 (takes absolute patterns too)
    return sorted(file for file in files if not Path(file).is_dir())


def _kind(path: str) -> Kind:
    """Return what a file is by its content, or else by its name."""
    return kind_of_file(path) or ("video" if is_named(path, VIDEO_SUFFIXES) else "image")
