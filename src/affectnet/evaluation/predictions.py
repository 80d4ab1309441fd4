"""Truth and predictions as checked arrays, joined on the faces' ids."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from affectnet.errors import DataError, Faults, counted
from affectnet.evaluation.metrics import Bools, Floats, Ints, predicted_class
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS, PROBABILITY_COLUMNS
from affectnet.seven import CONTEMPT, classes_for, seven_probabilities

OutOfRange: TypeAlias = Literal["error", "clip", "keep"]
SUM_TOLERANCE: Final = 0.01
"""Allowed distance from one of the sum of the probabilities of a face (rounding in text files)."""

_SLACK: Final = 1e-6
_ROUNDING: Final = 1e-4
_ENDING: Final = re.compile(r"\.[A-Za-z]\w{1,4}$")
_CONTEMPT_ALONE: Final = (EXPRESSIONS[CONTEMPT],)

TRUTH_COLUMNS: Final = ("expression", "valence", "arousal")
PREDICTION_COLUMNS: Final = (
    *PROBABILITY_COLUMNS,
    "expression_pred",
    "valence_pred",
    "arousal_pred",
)
SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        *(
            (name, pa.int8() if name.startswith("expression") else pa.float32())
            for name in (*TRUTH_COLUMNS, *PREDICTION_COLUMNS)
        ),
    ]
)
"""The columns of `predictions.parquet`; null marks what is missing."""


@dataclass(frozen=True)
class Faces:
    """What truth and predictions have in common: columns over n faces, see there.

    Attributes:
        notes: what was changed in reading them, for the notes of the scores.
    """

    ids: Sequence[str]
    expression: Ints
    valence: Floats
    arousal: Floats
    notes: tuple[str, ...] = field(default=(), kw_only=True)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, index: Ints) -> Self:
        """The faces at `index`, in its order."""

        def pick(values: Any) -> Any:
            if isinstance(values, dict):
                return {name: column[index] for name, column in values.items()}
            return values[index] if isinstance(values, np.ndarray) else values

        columns = {name: pick(values) for name, values in vars(self).items()}
        return replace(self, **columns | {"ids": [self.ids[i] for i in index]})

    def in_order(self, ids: Sequence[str]) -> Self:
        """The faces with these ids, in their order; all of them have to be there."""
        place = {name: i for i, name in enumerate(self.ids)}
        return self.rows(np.array([place[name] for name in ids], dtype=np.int64))


@dataclass(frozen=True)
class Truth(Faces):
    """Annotations of n faces.

    Attributes:
        ids: (n,) unique.
        expression: (n,) class indices in AffectNet's order, -1 where missing.
        valence, arousal: (n,) in [-1, 1], NaN where missing.
        extra: any further columns by name, each (n,), for slices.
        source: its name in messages.

    Raises:
        DataError: a repeated id, or a label or value out of range.
    """

    extra: dict[str, Any] = field(default_factory=dict)
    source: str = "truth"

    def __post_init__(self) -> None:
        faults = _faults_of_faces(self, self.source)
        for name in ("valence", "arousal"):
            with faults.caught():
                check_affect(getattr(self, name), self.ids, name, self.source)
        faults.raise_all(DataError)


@dataclass(frozen=True)
class Predictions(Faces):
    """Predictions of a model for n faces.

    Attributes:
        ids: (n,) unique.
        expression: (n,) class indices, -1 where missing; from the probabilities where no label is
            given.
        valence, arousal: (n,), NaN where missing.
        probabilities: (n, 8), a row of NaN where missing, or None; rows sum to one.
        uncovered: classes that the model does not have; their probability is zero.
        prior: name of the class fractions that the probabilities were corrected for, or None.
        extra: any further columns by name, each (n,), for slices.
        source: its name in messages.

    Raises:
        DataError: a repeated id, or an impossible value.
    """

    probabilities: Floats | None = None
    uncovered: tuple[str, ...] = ()
    prior: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    source: str = "predictions"

    def __post_init__(self) -> None:
        faults = _faults_of_faces(self, self.source)
        scaled = self.probabilities
        if scaled is not None:
            with faults.caught():
                scaled = check_probabilities(scaled, self.ids, self.source)
        faults.raise_all(DataError)
        if scaled is not None:
            object.__setattr__(self, "probabilities", scaled)
            labels = self.expression.copy()
            fill = (labels < 0) & ~np.isnan(scaled[:, 0])
            labels[fill] = predicted_class(scaled[fill])
            object.__setattr__(self, "expression", labels)

    @property
    def of_seven(self) -> bool:
        """Whether there are probabilities for every class but contempt."""
        return self.uncovered == _CONTEMPT_ALONE

    def with_ids_of(self, truth: Truth) -> Self:
        """The same predictions under the ids of the truth, if they differ only as names of files.

        Ids that are not in the truth are compared without their endings, and then also without
        their folders. They stay as they are unless each of all ids then still belongs to one face;
        where some ids are those of the truth, two different folders are never the same.

        Raises:
            DataError: two ids of one face, with and without an ending.
        """
        known, ids, notes = set(truth.ids), list(self.ids), list(self.notes)
        if known.issuperset(ids):
            return self
        _check_endings(ids, truth.ids, self.source)
        for shortened, left_out in ((_without_ending, "endings"), (_bare, "folders and endings")):
            names = {shortened(name): name for name in truth.ids}
            own = [shortened(name) for name in ids]
            if len(names) < len(known) or len(set(own)) < len(own):
                continue
            shared = not known.isdisjoint(ids)
            same = {
                name: names[short]
                for name, short in zip(ids, own, strict=True)
                if name not in known
                and short in names
                and not (shared and _in_other_folders(name, names[short]))
            }
            if same:
                theirs, ours = next(iter(same.items()))
                notes.append(
                    f"the ids of predictions and truth were compared without {left_out}: "
                    f"{theirs!r} is {ours!r}"
                )
                ids = [same.get(name, name) for name in ids]
        return replace(self, ids=ids, notes=tuple(notes)) if ids != self.ids else self

    def to_seven(self) -> Self:
        """Predictions without contempt: seven probabilities, the most probable one as the label.

        Labels without probabilities stay as they are, contempt included.
        """
        if self.probabilities is None:
            return self
        seven = seven_probabilities(self.probabilities)
        known = ~np.isnan(seven[:, 0])
        labels = self.expression.copy()
        labels[known] = predicted_class(seven[known])
        others = (name for name in self.uncovered if name not in _CONTEMPT_ALONE)
        return replace(
            self,
            expression=labels,
            probabilities=np.column_stack([seven, np.where(known, 0.0, np.nan)]),
            uncovered=(*others, *_CONTEMPT_ALONE),
        )


@dataclass(frozen=True)
class Joined:
    """Truth and predictions of the same faces, in the order of the truth, and the unmatched ids."""

    truth: Truth
    preds: Predictions
    missing: tuple[str, ...]
    extra: tuple[str, ...]


def join(truth: Truth, preds: Predictions) -> Joined:
    """Match predictions to truth by id, in any order.

    Raises:
        DataError: no id in common, or no faces at all.
    """
    for given in (truth, preds):
        if len(given) == 0:
            raise DataError(f"{given.source} has no rows; it needs one row per face")
    preds = preds.with_ids_of(truth)
    place = {name: i for i, name in enumerate(preds.ids)}
    found = np.array([place.get(name, -1) for name in truth.ids], dtype=np.int64)
    if not (found >= 0).any():
        raise DataError(
            f"{preds.source} and {truth.source} have no id in common: {preds.source} has "
            f"{_few(preds.ids)}, {truth.source} has {_few(truth.ids)}; give the column of the ids "
            "with --columns id=NAME"
        )
    known = set(truth.ids)
    return Joined(
        truth=truth.rows(np.flatnonzero(found >= 0)),
        preds=preds.rows(found[found >= 0]),
        missing=tuple(truth.ids[i] for i in np.flatnonzero(found < 0).tolist()),
        extra=tuple(name for name in preds.ids if name not in known),
    )


def _without_ending(name: str) -> str:
    """The name without an ending such as .jpg; `face.1` and `3.5` have none."""
    return _ENDING.sub("", name)


def _bare(name: str) -> str:
    return re.split(r"[/\\]", _without_ending(name))[-1]


def _in_other_folders(one: str, other: str) -> bool:
    """Whether neither name is the end of the other: `train/2.jpg` and `test/2.jpg`."""
    short, long = sorted(map(_without_ending, (one, other)), key=len)
    return not long.endswith(short)


def _check_endings(ids: Sequence[str], known: Sequence[str], source: str) -> None:
    """Raise `DataError` where `1` and `1.jpg`, or two endings of `1`, are one face of the truth.

    Args:
        ids: of the predictions.
        known: of the truth.
    """
    exact, faces = set(known), set(map(_without_ending, known))
    first: dict[str, str] = {}
    twice = []
    for name in ids:
        bare = _without_ending(name)
        pair = {first.setdefault(bare, name), name}
        if len(pair) == 1 or bare not in faces or pair <= exact:
            continue
        if bare in exact or bare in pair:  # otherwise `1.jpg` and `1.png` may be two images
            twice.append(name)
    if twice:
        other = first[_without_ending(twice[0])]
        reason = f"{other!r} and {twice[0]!r} differ only in their ending"
        raise DataError(_repeated(twice, source, reason))


def _repeated(twice: Sequence[str], source: str, which: str) -> str:
    return (
        f"{source} has {counted(len(twice), 'repeated id')} ({which}); each face may occur once: "
        "keep one row per face"
    )


def leave_out_contempt(truth: Truth, preds: Predictions) -> tuple[Truth, Predictions]:
    """The same rows of both without the faces of contempt, whose valence and arousal go with them.

    Faces without a true expression stay: they count for valence and arousal alone.

    Raises:
        DataError: every face is one of contempt; or labels without probabilities are contempt for
            other faces, for which there is then no prediction among the seven.
    """
    rows = np.flatnonzero(truth.expression != CONTEMPT)
    if not len(rows):
        raise DataError(f"every face of {truth.source} is of contempt, which seven classes lack")
    truth, preds = truth.rows(rows), preds.rows(rows).to_seven()
    lost = int((preds.expression == CONTEMPT).sum())
    if lost:
        raise DataError(
            f"{preds.source}: seven classes need probabilities, and there is only the label "
            f"contempt for {counted(lost, 'face')}; give p_ columns, or score eight classes"
        )
    return truth, preds


def scored_faces(
    truth: Truth, preds: Sequence[Predictions], without_contempt: bool
) -> tuple[Truth, list[Predictions], tuple[str, ...]]:
    """The faces to score, of the same ids, and the classes that apply.

    Without contempt where asked for, or where any of `preds` is of seven classes.
    """
    seven = without_contempt or any(one.of_seven for one in preds)
    if not seven:
        return truth, list(preds), classes_for(seven)
    pairs = [leave_out_contempt(truth, one) for one in preds]
    return pairs[0][0], [one for _, one in pairs], classes_for(seven)


def predictions_table(
    ids: Sequence[str],
    expression: npt.ArrayLike,
    valence: npt.ArrayLike,
    arousal: npt.ArrayLike,
    probabilities: npt.ArrayLike,
    valence_pred: npt.ArrayLike,
    arousal_pred: npt.ArrayLike,
    expression_pred: npt.ArrayLike | None = None,
) -> pa.Table:
    """The table of `predictions.parquet` from arrays over n faces.

    Args:
        ids: n unique names.
        expression: true classes, -1 where missing.
        valence, arousal: annotations, NaN where missing.
        probabilities: (n, 8), a column of NaN for a class that the model does not have.
        valence_pred, arousal_pred: predictions, NaN where missing.
        expression_pred: predicted classes; by default the most probable ones.
    """
    given = np.asarray(probabilities)
    if expression_pred is None:
        best = np.nan_to_num(given, nan=-1.0).argmax(axis=1)
        expression_pred = np.where(np.isnan(given).all(axis=1), -1, best)
    columns = (expression, valence, arousal, *given.T, expression_pred, valence_pred, arousal_pred)
    arrays = [pa.array(list(ids), pa.string())]
    for kind, values in zip(SCHEMA.types[1:], columns, strict=True):
        array = np.asarray(values, kind.to_pandas_dtype())
        missing = array < 0 if array.dtype == np.int8 else np.isnan(array)
        arrays.append(pa.array(array, mask=missing))
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def joined_table(joined: Joined) -> pa.Table:
    """The table of `predictions.parquet` from predictions joined to their truth."""
    truth, preds = joined.truth, joined.preds
    probabilities = preds.probabilities
    if probabilities is None:
        probabilities = np.full((len(truth), N_EXPRESSIONS), np.nan)
    elif preds.uncovered:
        covered = np.array([name not in preds.uncovered for name in EXPRESSIONS])
        probabilities = np.where(covered, probabilities, np.nan)
    return predictions_table(
        truth.ids,
        truth.expression,
        truth.valence,
        truth.arousal,
        probabilities,
        preds.valence,
        preds.arousal,
        preds.expression,
    )


def _faults_of_faces(faces: Faces, source: str) -> Faults:
    """What is wrong with the ids and labels."""
    faults = Faults()
    with faults.caught():
        check_ids(faces.ids, source)
    with faults.caught():
        check_labels(faces.expression, faces.ids, source)
    return faults


def check_ids(ids: Sequence[str], source: str) -> None:
    """Raise `DataError` for a repeated id."""
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = [name for name in ids if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
        raise DataError(_repeated(twice, source, _few(twice)))


def check_labels(labels: Ints, ids: Sequence[str], source: str) -> None:
    """Raise `DataError` for a label outside the eight classes (-1 is missing)."""
    _raise_if(
        (labels < -1) | (labels >= N_EXPRESSIONS),
        labels,
        ids,
        source,
        "label {value} at id {id}{more} is not one of the classes 0 to "
        f"{N_EXPRESSIONS - 1} ({', '.join(EXPRESSIONS)}); leave such faces out",
    )


def check_affect(
    values: Floats,
    ids: Sequence[str],
    name: str,
    source: str,
    advice: str = "AffectNet marks a face without valence and arousal by -2: leave such cells "
    "empty",
) -> None:
    """Raise `DataError` for a valence or arousal outside [-1, 1] (NaN is missing)."""
    message = f"{name} of {{value:g}} at id {{id}}{{more}} is outside [-1, 1]; {advice}"
    _raise_if(np.abs(values) > 1 + _SLACK, values, ids, source, message)


def within_range(
    values: Floats, ids: Sequence[str], name: str, source: str, rule: OutOfRange
) -> Floats:
    """Predicted valence or arousal, with `rule` applied to values outside [-1, 1].

    Raises:
        DataError: infinite, or outside [-1, 1] and the rule is `error`.
    """
    _raise_if(
        np.isinf(values),
        values,
        ids,
        source,
        f"{name} of {{value}} at id {{id}}{{more}} is not a finite number; leave such cells empty",
    )
    if rule == "clip":
        return np.asarray(np.clip(values, -1.0, 1.0))
    if rule == "error":
        advice = "correct it, or give --out-of-range clip (or keep, to score it as it is)"
        check_affect(values, ids, name, source, advice)
    return values


def are_percentages(probabilities: Floats) -> bool:
    """Whether every row (n, 8) without a missing value sums to 100, within 1, none negative."""
    whole = probabilities[~np.isnan(probabilities).any(axis=1)] / 100
    near = np.abs(whole.sum(axis=1) - 1.0) <= SUM_TOLERANCE + _SLACK
    return bool(len(whole) and near.all() and (whole >= 0).all())


def check_probabilities(probabilities: Floats, ids: Sequence[str], source: str) -> Floats:
    """Return the rows, scaled to sum to one where the sum differs by more than 0.0001.

    Rows that are all NaN stay so.

    Raises:
        DataError: a row that is partly missing, negative, or does not sum to one.
    """
    empty = np.isnan(probabilities)
    partly = np.asarray(empty.any(axis=1) & ~empty.all(axis=1))
    sums = probabilities.sum(axis=1)
    with np.errstate(invalid="ignore"):
        lowest = np.where(empty.any(axis=1), 0.0, probabilities.min(axis=1))
        off = ~(np.abs(sums - 1.0) <= SUM_TOLERANCE + _SLACK)
    negative = np.asarray(lowest < -_SLACK)
    off = np.asarray(off & ~negative & ~empty.any(axis=1))
    softmax = "if these are logits, take their softmax first"
    whole = sums[~empty.any(axis=1) & ~negative]
    vary = len(whole) and whole.max() > 2 * whole.min()
    faults = Faults()
    for wrong, values, message in (
        (
            partly,
            empty,
            "some of the probabilities are missing at id {id}{more}; give all or none",
        ),
        (negative, lowest, "probability {value:g} at id {id}{more} is negative; " + softmax),
        (
            off,
            sums,
            "the probabilities at id {id}{more} sum to {value:g}, not to 1 (within "
            f"{SUM_TOLERANCE:g}); {softmax if vary else 'divide each row by its sum'}",
        ),
    ):
        with faults.caught():
            _raise_if(wrong, values, ids, source, message)
    faults.raise_all(DataError)
    # Scaling away rounding of single precision would break ties between faces and change the AUC.
    far = np.abs(sums - 1.0) > _ROUNDING
    return np.where(far[:, None], probabilities / sums[:, None], np.maximum(probabilities, 0.0))


def _raise_if(wrong: Bools, values: Any, ids: Sequence[str], source: str, message: str) -> None:
    """Raise `DataError` about the first wrong row, if any, with the number of others."""
    rows = np.flatnonzero(wrong)
    if len(rows):
        first = rows[0]
        more = f" (and at {len(rows) - 1:,} more)" if len(rows) > 1 else ""
        text = message.format(value=values[first], id=repr(ids[first]), more=more)
        raise DataError(f"{source}: {text}")


def _few(names: Iterable[str], most: int = 3) -> str:
    listed = list(names)
    return ", ".join(map(repr, listed[:most])) + (", ..." if len(listed) > most else "")
