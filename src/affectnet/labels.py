"""The eight expressions, their order and colours, and the valence-arousal circumplex."""

from typing import Final

EXPRESSIONS: Final = (
    "neutral",
    "happiness",
    "sadness",
    "surprise",
    "fear",
    "disgust",
    "anger",
    "contempt",
)
"""AffectNet's order, used everywhere: index 0 is neutral, index 7 contempt."""

N_EXPRESSIONS: Final = len(EXPRESSIONS)

WORDS: Final[dict[str, str]] = {name: name for name in EXPRESSIONS} | {
    "happy": "happiness",
    "joy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
    "fearful": "fear",
    "afraid": "fear",
    "disgusted": "disgust",
    "angry": "anger",
    "contemptuous": "contempt",
}
"""Words that can mean only one expression, in any case."""

PROBABILITY_COLUMNS: Final = tuple(f"p_{name}" for name in EXPRESSIONS)
"""The columns of `predictions.parquet` that hold the class probabilities."""

COLOURS: Final[dict[str, str]] = {
    "neutral": "#7f7f7f",
    "happiness": "#e69f00",
    "sadness": "#0072b2",
    "surprise": "#56b4e9",
    "fear": "#8a5fa8",
    "disgust": "#009e73",
    "anger": "#d55e00",
    "contempt": "#a0522d",
}
"""One colour per expression in every figure, after Okabe and Ito's colour-blind-safe palette."""

UNKNOWN_COLOUR: Final = "#5b6672"
"""Of a face without a predicted expression."""

LABEL_COLOURS: Final[dict[str, str]] = {
    "neutral": "#737373",
    "happiness": "#9a6a00",
    "sadness": "#0072b2",
    "surprise": "#3a7a9e",
    "fear": "#8a5fa8",
    "disgust": "#00835f",
    "anger": "#bd5300",
    "contempt": "#a0522d",
}
"""`COLOURS`, darkened where white text on them would have a contrast below 4.5:1."""

CIRCUMPLEX: Final[dict[str, tuple[float, float]]] = {
    "neutral": (0.0, 0.0),
    "happiness": (0.81, 0.51),
    "sadness": (-0.63, -0.27),
    "surprise": (0.40, 0.67),
    "fear": (-0.64, 0.60),
    "disgust": (-0.60, 0.35),
    "anger": (-0.51, 0.59),
    "contempt": (-0.23, 0.31),
}
"""Typical (valence, arousal) of each expression in [-1, 1].

The values are the pleasure and arousal means that Russell and Mehrabian (1977), "Evidence for a
three-factor theory of emotions", give for the emotion terms (happy, sad, surprised, afraid,
disgusted, angry, contemptuous); neutral is the origin.
"""


def colour_of(expression: str | None) -> str:
    """Return the colour of an expression as `#rrggbb`; grey for None."""
    return COLOURS[expression] if expression else UNKNOWN_COLOUR


def label_colour_of(expression: str | None) -> str:
    """Return the same, dark enough for white text on it."""
    return LABEL_COLOURS[expression] if expression else UNKNOWN_COLOUR
