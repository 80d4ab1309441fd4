"""Facial expression, valence and arousal by transfer learning on AffectNet."""

__version__ = "0.1.0"
