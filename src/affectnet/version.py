"""The version of the package, in a file that imports nothing."""

__version__ = "0.1.0"

PREPROCESSING_VERSION = 1
"""Increased when the same stored face gives a model other pixels: stored features are then of no
use. The crop of new datasets is not part of it, since it changes the stored faces themselves."""
