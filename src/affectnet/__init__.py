"""Facial expression, valence and arousal by transfer learning on AffectNet."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from affectnet.version import __version__

if TYPE_CHECKING:
    from affectnet.inference.predictor import Predictor, load
    from affectnet.inference.results import FaceResult, PictureResult, Results

__all__ = ["FaceResult", "PictureResult", "Predictor", "Results", "__version__", "load"]

_LAZY = {
    "load": "affectnet.inference.predictor",
    "Predictor": "affectnet.inference.predictor",
    "FaceResult": "affectnet.inference.results",
    "PictureResult": "affectnet.inference.results",
    "Results": "affectnet.inference.results",
}
_MODULES = ("plots", "report")


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for, so that `import affectnet` stays light."""
    if name in _LAZY:
        value = getattr(import_module(_LAZY[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"affectnet.{name}")
    raise AttributeError(f"module 'affectnet' has no attribute {name!r}")
