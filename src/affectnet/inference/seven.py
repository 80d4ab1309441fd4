"""A model of eight classes that answers in seven, without contempt."""

import numpy as np
from numpy.typing import NDArray

from affectnet.inference.scores import ClassifierLike, Scores

CONTEMPT = "contempt"


class WithoutContempt:
    """A classifier that never says contempt: its probability dropped, the others made to add to 1.

    Args:
        classifier: any; one that knows no contempt answers as it always does.
    """

    def __init__(self, classifier: ClassifierLike) -> None:
        self._classifier = classifier
        self._kept = [i for i, name in enumerate(classifier.classes) if name != CONTEMPT]
        self.classes = tuple(classifier.classes[i] for i in self._kept)
        self.size = classifier.size
        self.margin = classifier.margin
        self.alignment = classifier.alignment
        self.interpolation = classifier.interpolation

    def __call__(self, crops: NDArray[np.uint8]) -> Scores:
        """Classify face crops, uint8 RGB (n, size, size, 3)."""
        scores = self._classifier(crops)
        kept = scores.probabilities[:, self._kept]
        total = kept.sum(axis=1, keepdims=True)
        even = np.full_like(kept, 1 / len(self._kept))
        seven = np.where(total > 0, kept / np.where(total > 0, total, 1), even)
        return scores._replace(probabilities=seven)
