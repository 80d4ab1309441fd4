"""The version of the package: the tag of Git, which the build writes to `version.txt`."""

from pathlib import Path

_FILE = Path(__file__).with_name("version.txt")

__version__ = _FILE.read_text(encoding="utf-8").strip() if _FILE.is_file() else "0+not.installed"

PREPROCESSING_VERSION = 2
"""Increased when the same stored face gives a model other pixels: stored features are then of no
use. The crop of new datasets is not part of it, since it changes the stored faces themselves."""
