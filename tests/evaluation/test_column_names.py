"""Proposed names of columns and classes: what is proposed reads the file as it was meant."""

import re
import shlex

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from hypothesis import given
from hypothesis import strategies as st

from affectnet.errors import DataError
from affectnet.evaluation import read_predictions, read_truth
from affectnet.evaluation.column_names import proposed_names
from affectnet.labels import EXPRESSIONS

N = 12
RNG = np.random.default_rng(0)
LABELS = RNG.permutation(np.arange(N) % 8)
P = RNG.dirichlet(np.ones(8), N).round(6)
VALENCE, AROUSAL = RNG.uniform(-1, 1, (2, N)).round(3)
FILES = [f"{i:03}.jpg" for i in range(N)]
WORDS = ["Neutral", "Happy", "Sad", "Surprise", "Fear", "Disgust", "Angry", "Contempt"]
SHORT = ["ne", "hap", "sad", "sur", "fea", "di", "an", "con"]
NUMBERS = [f"out{i}" for i in range(8)]


def probabilities(names):
    return dict(zip(names, P.T, strict=True))


WORDED = [WORDS[c] for c in LABELS]
FORMS = {
    "probabilities by a prefix": (
        {"image": FILES, "label": WORDED, **probabilities([f"prob_{word}" for word in WORDS])},
        "--columns p=prob_,id=image,expression_pred=label",
    ),
    "probabilities by their words": (
        {"filename": FILES, **probabilities(WORDS), "pred_valence": VALENCE, "aro": AROUSAL},
        "--columns p_neutral=Neutral,p_happiness=Happy,p_sadness=Sad,p_surprise=Surprise,"
        "p_fear=Fear,p_disgust=Disgust,p_anger=Angry,p_contempt=Contempt,id=filename,"
        "valence_pred=pred_valence,arousal_pred=aro",
    ),
    "truth and prediction": (
        {"ImageId": FILES, "emotion": WORDED, "emotionPredicted": WORDED},
        "--columns id=ImageId,expression_pred=emotionPredicted,expression=emotion",
    ),
    "first letters": (
        {"file": FILES, "prediction": [SHORT[c] for c in LABELS]},
        "--columns id=file,expression_pred=prediction --classes neutral=ne,happiness=hap,"
        "surprise=sur,fear=fea,disgust=di,anger=an,contempt=con",
    ),
    "numbers": (
        {"image path": FILES, "y_pred": LABELS, **probabilities(NUMBERS)},
        "--columns 'p=out,id=image path,expression_pred=y_pred' --classes "
        "neutral,happiness,sadness,surprise,fear,disgust,anger,contempt "
        "(if its numbers are in this order)",
    ),
    "results of `affectnet predict`": (
        {
            "source": FILES,
            "face": np.zeros(N, int),
            "expression": WORDED,
            "valence": VALENCE,
            **probabilities([f"p_{name}" for name in EXPRESSIONS]),
            "x": VALENCE,
        },
        "--columns id=source,expression_pred=expression,valence_pred=valence",
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_proposed_reads_the_file(tmp_path, form):
    data, flags = FORMS[form]
    path = tmp_path / "theirs.csv"
    pa.csv.write_csv(pa.table(data), path)
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    assert str(caught.value).endswith(f"; probably {flags}")
    words = shlex.split(re.sub(r" \(if .*", "", flags))
    columns = words[words.index("--columns") + 1]
    classes = words[words.index("--classes") + 1] if "--classes" in words else ""
    preds = read_predictions(path, [columns], [classes])
    assert preds.ids == FILES
    if "expression_pred" in flags:
        assert (preds.expression == LABELS).all()
    if "p_" in flags or "p=" in flags:
        assert np.allclose(preds.probabilities, P, atol=1e-5)
    for name, values in (("valence", VALENCE), ("arousal", AROUSAL)):
        if f"{name}_pred" in flags:
            assert (getattr(preds, name) == values).all()


def test_truth_and_what_is_left_to_correct(tmp_path):
    path = tmp_path / "truth.csv"
    pa.csv.write_csv(pa.table({"name": FILES, "label": WORDED, "valence": VALENCE}), path)
    with pytest.raises(DataError, match=r"probably --columns id=name,expression=label$"):
        read_truth(path)
    pa.csv.write_csv(pa.table({"name": FILES, "valence": VALENCE - 2}), path)
    with pytest.raises(DataError, match=r"id=name, and then correct this: .*outside \[-1, 1\]"):
        read_truth(path)
    # A column that the user named is kept.
    pa.csv.write_csv(pa.table({"image": FILES, "file": FILES, "label": WORDED}), path)
    with pytest.raises(DataError, match=r"--columns id=file,expression=label$"):
        read_truth(path, ["id=file"])


@pytest.mark.parametrize(
    "data",
    [
        {"a": ["x"], "b": ["y"]},
        {"label_1": WORDED, "label_2": WORDED},  # which of the two?
        {"image": ["same"] * N},
        {"id": FILES, "p_neutral": P[:, 0]},  # nothing is missing
    ],
)
def test_nothing_is_proposed_where_nothing_can_be_told(data):
    assert proposed_names(pa.table(data), {}, {}, "predictions") is None


@given(
    st.dictionaries(
        st.text(max_size=12),
        st.lists(st.none() | st.floats() | st.text(max_size=4), min_size=3, max_size=3),
        max_size=5,
    ),
    st.sampled_from(["truth", "predictions", "both"]),
)
def test_any_table_is_taken(data, content):
    columns = {
        name: pa.array([None if value is None else str(value) for value in values], pa.string())
        for name, values in data.items()
    }
    proposed = proposed_names(pa.table(columns), {}, {}, content)
    if proposed is not None:
        assert set(proposed.aliases.values()) <= set(columns)
        assert len(set(proposed.aliases.values())) == len(proposed.aliases)
