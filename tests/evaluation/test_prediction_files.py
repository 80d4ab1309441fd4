"""Reading predictions of any source: accepted forms, and one clear line for each fault."""

import csv
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from affectnet.errors import ConfigError, DataError
from affectnet.evaluation import (
    compare,
    evaluate,
    predictions_table,
    read_predictions,
    read_truth,
)
from affectnet.evaluation.prediction_files import (
    predictions_of,
    truth_of,
    write_predictions,
)
from affectnet.evaluation.predictions import Joined, join, joined_table
from affectnet.labels import EXPRESSIONS, PROBABILITY_COLUMNS

P8 = [0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]


@pytest.fixture
def write(tmp_path):
    def write(header, *rows, name="given.csv"):
        path = tmp_path / name
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        return path

    return write


def test_labels_by_our_names(write):
    preds = read_predictions(write(["id", "expression_pred"], ["a", 3], ["b", ""], ["c", 0]))
    assert preds.ids == ["a", "b", "c"]
    assert preds.expression.tolist() == [3, -1, 0]
    assert preds.probabilities is None
    assert np.isnan(preds.valence).all()


def test_ids_keep_their_zeros(write):
    assert read_predictions(write(["id", "valence_pred"], ["007", 0.5])).ids == ["007"]
    path = write(["image", "valence_pred"], ["007", 0.5])
    assert read_predictions(path, ["id=image"]).ids == ["007"]


def test_labels_by_name(write):
    preds = read_predictions(write(["id", "expression_pred"], ["a", "anger"], ["b", "neutral"]))
    assert preds.expression.tolist() == [6, 0]


def test_the_files_own_words_and_order(write):
    path = write(["id", "label"], ["a", "mad"], ["b", "happy"])
    preds = read_predictions(path, ["expression_pred=label"], ["anger=mad,happiness=happy"])
    assert preds.expression.tolist() == [6, 1]
    path = write(["id", "label"], ["a", 0], ["b", 1])
    preds = read_predictions(path, ["expression_pred=label"], ["anger", "happiness"])
    assert preds.expression.tolist() == [6, 1]


def test_numbers_under_another_name_need_their_order(write):
    path = write(["id", "label"], ["a", 0])
    with pytest.raises(DataError, match="give their classes, in order"):
        read_predictions(path, ["expression_pred=label"])


def test_probabilities_by_name_by_prefix_and_by_number(write):
    named = read_predictions(write(["id", *PROBABILITY_COLUMNS], ["a", *P8]))
    header = ["id", *(f"score_{i}" for i in range(8))]
    numbered = read_predictions(write(header, ["a", *P8]), ["p=score_"], [",".join(EXPRESSIONS)])
    turned = read_predictions(
        write(header, ["a", *P8]), ["p=score_"], [",".join(EXPRESSIONS[::-1])]
    )
    header = ["id", *(f"prob_{name}" for name in EXPRESSIONS)]
    prefixed = read_predictions(write(header, ["a", *P8]), ["p=prob_"])
    assert named.probabilities.tolist() == [P8]
    assert named.expression.tolist() == [0]
    assert (numbered.probabilities == named.probabilities).all()
    assert (prefixed.probabilities == named.probabilities).all()
    assert (turned.probabilities == named.probabilities[:, ::-1]).all()
    assert turned.expression.tolist() == [7]


def test_seven_probabilities(write):
    header = ["id", *PROBABILITY_COLUMNS[:7]]
    preds = read_predictions(write(header, ["a", 0.4, *[0.1] * 6]))
    assert preds.uncovered == ("contempt",)
    assert preds.probabilities[0, 7] == 0.0


def test_a_given_label_has_priority_over_probabilities(write):
    path = write(["id", *PROBABILITY_COLUMNS, "expression_pred"], ["a", *P8, 5])
    assert read_predictions(path).expression.tolist() == [5]


def test_rounded_probabilities_are_scaled_but_single_precision_is_left_alone():
    rounded = np.array([[0.13, *[0.125] * 7]])
    single = np.array([[0.3, *[0.1] * 7]], dtype=np.float32)
    scaled = predictions_of({"probabilities": rounded}).probabilities
    assert scaled.sum() == pytest.approx(1.0, abs=1e-12)
    assert (predictions_of({"probabilities": single}).probabilities == single).all()


BAD = {
    "one name twice": (
        ["id", "expression_pred", "expression_pred"],
        [["a", 1, 2]],
        "has several columns 'expression_pred'",
    ),
    "no rows": (["id", "expression_pred"], [], "has no rows"),
    "wrong columns": (["name", "guess"], [["a", 1]], "has no column id"),
    "no predictions": (
        ["id", "guess"],
        [["a", 1]],
        "none of the columns p_neutral to .*it has id, guess",
    ),
    "repeated ids": (
        ["id", "expression_pred"],
        [["a", 1], ["a", 2]],
        r"1 repeated id \('a'\); each face may occur once: keep one row per face",
    ),
    "no ids": (
        ["expression_pred"],
        [[1]],
        "add a column of ids, the same in truth and predictions, or name it with --columns id=NAME",
    ),
    "empty id": (["id", "expression_pred"], [["", 1], ["b", 2]], "empty 'id'"),
    "label too high": (["id", "expression_pred"], [["a", 8]], "label 8 .*not one of the classes"),
    "label too low": (["id", "expression_pred"], [["a", -1]], "label -1"),
    "half a label": (["id", "expression_pred"], [["a", 1.5]], r"label 1\.5"),
    "no expression": (
        ["id", "expression_pred"],
        [["a", "happines"]],
        "'happines' .*did you mean 'happiness'",
    ),
    "valence of -2": (["id", "valence_pred"], [["a", -2]], r"valence_pred of -2 .*\[-1, 1\]"),
    "infinite": (["id", "arousal_pred"], [["a", "inf"]], "not a finite number"),
    "text": (["id", "arousal_pred"], [["a", "high"]], "must hold numbers"),
    "sum": (
        ["id", *PROBABILITY_COLUMNS],
        [["a", *[0.2] * 8]],
        r"sum to 1\.6, not to 1 \(within 0\.01\); divide each row by its sum$",
    ),
    "positive logits": (
        ["id", *PROBABILITY_COLUMNS],
        [["a", *[0.2] * 8], ["b", *[2] * 8]],
        r"sum to 1\.6, .*take their softmax",
    ),
    "logits": (["id", *PROBABILITY_COLUMNS], [["a", 3, -2, *[0] * 6]], "negative.*softmax"),
    "part of a row": (
        ["id", *PROBABILITY_COLUMNS],
        [["a", *[0.2] * 5, "", "", ""], ["b", *P8]],
        "some of the probabilities are missing at id 'a'; give all or none",
    ),
    "stray class": (
        ["id", *PROBABILITY_COLUMNS[:7], "p_contemt"],
        [["a", *P8]],
        "'p_contemt' names no expression; did you mean 'p_contempt'",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_file_gives_one_clear_line(write, fault):
    header, rows, message = BAD[fault]
    with pytest.raises(DataError) as caught:
        read_predictions(write(header, *rows))
    text = str(caught.value)
    assert re.search(message, text), text
    assert "given.csv" in text
    assert "\n" not in text


def test_bad_truth_gives_one_clear_line(write):
    with pytest.raises(DataError, match=r"valence of -2 at id 'b' is outside \[-1, 1\]"):
        read_truth(write(["id", "valence"], ["a", 0.5], ["b", -2]))
    with pytest.raises(DataError, match=r"label 10 .*leave such faces out"):
        read_truth(write(["id", "expression"], ["a", 10]))
    with pytest.raises(DataError, match="has no column id"):
        read_truth(write(["name", "expression"], ["a", 1]))
    with pytest.raises(DataError, match="none of the columns expression, valence, arousal"):
        read_truth(write(["id", "mood"], ["a", 1]))


def test_other_faults(tmp_path, write):
    with pytest.raises(DataError, match="there is no file"):
        read_predictions(tmp_path / "none.csv")
    (tmp_path / "a.xlsx").write_bytes(b"x")
    with pytest.raises(DataError, match=r"ends in \.csv"):
        read_predictions(tmp_path / "a.xlsx")
    (tmp_path / "a.parquet").write_bytes(b"x")
    with pytest.raises(DataError, match="cannot be read as PARQUET"):
        read_predictions(tmp_path / "a.parquet")
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be read as CSV"):
        read_predictions(tmp_path / "empty.csv")
    path = write(["id", "expression_pred"], ["a", 1])
    with pytest.raises(ConfigError, match="did you mean 'expression_pred'"):
        read_predictions(path, ["expresion_pred=x"])
    with pytest.raises(ConfigError, match="OURS=THEIRS"):
        read_predictions(path, ["expression_pred"])
    with pytest.raises(ConfigError, match="'merry' is not an expression"):
        read_predictions(path, (), ["merry"])
    with pytest.raises(ConfigError, match="twice"):
        read_predictions(path, (), ["anger,anger"])
    with pytest.raises(DataError, match="differ in length"):
        predictions_of({"valence_pred": [0.1], "arousal_pred": [0.1, 0.2]})
    with pytest.raises(DataError, match=r"must be \(n, 8\)"):
        predictions_of({"probabilities": np.full((2, 7), 1 / 7)})
    with pytest.raises(DataError, match="cannot read list"):
        predictions_of([1, 2])


def test_braces_in_the_name_of_a_file_are_no_placeholders(write):
    path = write(["id", "valence_pred"], ["x", 2.5], name="a{value}{b}.csv")
    with pytest.raises(DataError, match=re.escape("a{value}{b}.csv: valence_pred of 2.5 at id")):
        read_predictions(path)


def test_predictions_out_of_range_follow_the_option(write):
    path = write(["id", "valence_pred"], ["a", 1.25], ["b", 0.5])
    with pytest.raises(DataError, match="--out-of-range clip"):
        read_predictions(path)
    assert read_predictions(path, out_of_range="clip").valence.tolist() == [1.0, 0.5]
    assert read_predictions(path, out_of_range="keep").valence.tolist() == [1.25, 0.5]


def test_rows_join_by_id_and_unmatched_ids_are_listed():
    truth = truth_of({"id": ["a", "b", "c"], "expression": [0, 1, 2]})
    preds = predictions_of({"id": ["c", "x", "a"], "expression_pred": [2, 5, 1]})
    joined = join(truth, preds)
    assert joined.truth.ids == ["a", "c"]
    assert joined.preds.expression.tolist() == [1, 2]
    assert joined.missing == ("b",)
    assert joined.extra == ("x",)
    with pytest.raises(DataError, match="no id in common"):
        join(truth, predictions_of({"id": ["y"], "expression_pred": [2]}))


def test_frames_tables_and_files_read_alike(tmp_path, make_faces):
    faces = make_faces(40, seed=1)
    ids = [f"{i:03}" for i in range(40)]
    columns = {"id": ids, "valence_pred": faces.valence_pred}
    columns |= {name: faces.probabilities[:, c] for c, name in enumerate(PROBABILITY_COLUMNS)}
    table = pa.table(columns)
    pq.write_table(table, tmp_path / "a.parquet")
    pa.csv.write_csv(table, tmp_path / "a.csv")
    readings = [
        predictions_of(table),
        predictions_of(table.to_pandas()),
        predictions_of(columns),
        read_predictions(tmp_path / "a.parquet"),
        read_predictions(tmp_path / "a.csv"),
    ]
    for reading in readings:
        assert reading.ids == ids
        assert (reading.probabilities == faces.probabilities).all()
        assert (reading.valence == faces.valence_pred).all()


def test_written_predictions_score_like_the_given_ones(tmp_path, make_faces):
    faces = make_faces(60, seed=2)
    valence = faces.valence.astype(np.float32)
    valence[3] = np.nan
    expression = faces.expression.copy()
    expression[5] = -1
    p = faces.probabilities.astype(np.float32)
    table = predictions_table(
        [str(i) for i in range(60)], expression, valence, faces.arousal, p, valence, valence
    )
    write_predictions(table, tmp_path / "new" / "predictions.parquet")
    read = pq.read_table(tmp_path / "new" / "predictions.parquet")
    assert read.schema.names == table.schema.names
    assert read.column("expression").null_count == 1
    truth, preds = truth_of(read), predictions_of(read)
    assert truth.expression.tolist() == expression.tolist()
    assert (preds.expression == p.argmax(axis=1)).all()
    assert preds.probabilities[~np.isnan(preds.probabilities)].size == 480
    again = joined_table(join(truth, preds))
    assert again.equals(table)
    scores = evaluate(truth, preds, resamples=0)
    assert scores["expression"]["n"] == 59
    assert scores["valence"]["n"] == 59


def test_a_model_of_fewer_classes_survives_the_file():
    p = np.array([[0.5, 0.5, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan]] * 2)
    blank = np.full(2, np.nan)
    table = predictions_table(["a", "b"], [0, 1], blank, blank, p, blank, blank)
    preds = predictions_of(table)
    assert preds.uncovered == EXPRESSIONS[2:]
    assert preds.expression.tolist() == [0, 0]
    assert joined_table(join(truth_of(table), preds)).equals(table)


def test_text_in_utf_16_is_named(tmp_path) -> None:
    file = tmp_path / "p.csv"
    file.write_bytes("id,expression_pred\na,0\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"is text in UTF-16.*save it as CSV in UTF-8"):
        read_predictions(file)


def test_ids_with_and_without_endings_and_folders_are_matched() -> None:
    truth = truth_of({"id": ["1", "face.2"], "expression": [0, 1]})
    for ids, left_out in (
        (["1.jpg", "face.2.PNG"], "without endings: '1.jpg' is '1'"),
        (["val/1", "val/face.2"], "without folders and endings"),
        (["C:\\images\\1.jpg", "C:\\images\\face.2.jpg"], "without folders and endings"),
    ):
        preds = predictions_of({"id": ids, "expression_pred": [0, 1]})
        scores = evaluate(truth, preds, resamples=0)
        assert scores["expression"]["accuracy"]["value"] == 1
        assert any(left_out in note for note in scores["protocol"]["notes"])
        back = predictions_of({"id": truth.ids, "expression_pred": [0, 1]})
        turned = truth_of({"id": ids, "expression": [0, 1]})
        assert evaluate(turned, back, resamples=0)["expression"]["n"] == 2
        assert compare(truth, preds, back, resamples=20).metrics["n"] == 2


@pytest.mark.parametrize(
    "ids",
    [
        ["x", "y"],
        ["a/1.jpg", "b/1.jpg"],  # two files for one face
    ],
)
def test_ids_that_may_be_of_two_faces_are_not_matched(ids) -> None:
    truth = truth_of({"id": ["1", "2"], "expression": [0, 1]})
    preds = predictions_of({"id": ids, "expression_pred": [0, 1]})
    with pytest.raises(DataError, match=r"no id in common.* --columns id=NAME"):
        join(truth, preds)


def matched(truth: list[str], ids: list[str]) -> Joined:
    return join(
        truth_of({"id": truth, "expression": [0] * len(truth)}),
        predictions_of({"id": ids, "expression_pred": [0] * len(ids)}),
    )


@pytest.mark.parametrize(
    ("truth", "ids", "left_out"),
    [
        (["1", "2", "3"], ["1", "2.jpg", "x.jpg"], "endings"),
        (["1.jpg", "2.jpg", "3.jpg"], ["1.jpg", "2", "x"], "endings"),
        (["1", "2", "3"], ["1", "a/2.jpg", "x"], "folders and endings"),
        (["a/1.jpg", "a/2.jpg", "a/3.jpg"], ["a/1.jpg", "2", "x"], "folders and endings"),
    ],
)
def test_some_ids_with_endings_or_folders_are_matched(truth, ids, left_out) -> None:
    joined = matched(truth, ids)
    assert joined.truth.ids == truth[:2]
    assert joined.missing == (truth[2],)
    assert joined.extra == (ids[2],)
    assert joined.preds.notes == (
        f"the ids of predictions and truth were compared without {left_out}: "
        f"{ids[1]!r} is {truth[1]!r}",
    )


def test_ids_with_endings_and_ids_with_folders() -> None:
    assert len(matched(["1", "2", "3"], ["1", "2.jpg", "a/3.png"]).preds.notes) == 2


def test_faces_of_other_folders_are_not_matched() -> None:
    joined = matched(["test/1.jpg", "test/2.jpg"], ["test/1.jpg", "train/2.jpg"])
    assert (joined.missing, joined.extra) == (("test/2.jpg",), ("train/2.jpg",))
    assert not joined.preds.notes
    joined = matched(["test/1", "test/2"], ["test/1.jpg", "train/1.jpg", "train/2.jpg"])
    assert joined.truth.ids == ["test/1"]


@pytest.mark.parametrize(
    ("truth", "ids", "pair"),
    [
        (["1", "2"], ["1", "2", "1.jpg"], "'1' and '1.jpg'"),
        (["1.jpg", "2.jpg"], ["1.jpg", "1", "2"], "'1.jpg' and '1'"),
        (["1", "2"], ["1.jpg", "1.png"], "'1.jpg' and '1.png'"),
    ],
)
def test_an_id_with_and_without_its_ending_is_repeated(truth, ids, pair) -> None:
    with pytest.raises(DataError, match=rf"1 repeated id \({pair} differ only in their ending\)"):
        matched(truth, ids)


def test_endings_of_different_faces_are_not_repeated() -> None:
    assert matched(["1.jpg"], ["1.jpg", "1.png"]).extra == ("1.png",)
    assert matched(["1"], ["1", "x", "x.jpg"]).extra == ("x", "x.jpg")
    assert not matched(["1", "1.jpg"], ["1", "1.jpg"]).extra


@pytest.mark.parametrize("decimal", [".", ","])
@pytest.mark.parametrize(("separator", "name"), [(";", "';'"), ("\t", "tabs")])
def test_other_separators_and_decimal_commas(tmp_path, separator, name, decimal) -> None:
    rows = [
        ["id", "expression_pred", "valence_pred", "remark, of whom"],
        ["1,5", "anger", "-0.25", "a, b"],
        ["007", "fear", "1", "1"],
    ]
    rows[1][2] = rows[1][2].replace(".", decimal)
    for suffix in (".csv", ".tsv"):
        path = tmp_path / f"theirs{suffix}"
        path.write_text("".join(separator.join(row) + "\n" for row in rows), encoding="utf-8-sig")
        preds = read_predictions(path)
        assert preds.ids == ["1,5", "007"]
        assert preds.expression.tolist() == [6, 4]
        assert preds.valence.tolist() == [-0.25, 1]
        separated, pointed = f"its columns are separated by {name}", "its decimal commas are read"
        note = "".join(preds.notes)
        assert (separated in note) == (suffix == ".csv" or separator == ";")
        assert (pointed in note) == (decimal == ",")
    truth = read_truth(path, ["valence=valence_pred"])
    assert truth.notes == preds.notes
    notes = evaluate(truth, preds, resamples=0)["protocol"]["notes"]
    assert notes.count(note) == bool(note)


def test_a_comma_in_a_quoted_name_does_not_separate(tmp_path) -> None:
    path = tmp_path / "theirs.csv"
    path.write_text('id;valence_pred;"a,b,c,d"\nx;0.5;1\n')
    assert read_predictions(path).valence.tolist() == [0.5]


def test_percentages_are_divided_by_100(write) -> None:
    header = ["id", *PROBABILITY_COLUMNS]
    blank = ["c", *[""] * 8]
    percent = [100 * p for p in P8]
    preds = read_predictions(write(header, ["a", *percent], ["b", 99.5, *[0] * 7], blank))
    assert preds.probabilities[:2] == pytest.approx(np.array([P8, [1, *[0] * 7]]))
    assert np.isnan(preds.probabilities[2]).all()
    assert preds.notes == ("given.csv: its probabilities are in percent and are divided by 100",)
    with pytest.raises(DataError, match="sum to 100, not to 1"):
        read_predictions(write(header, ["a", *percent], ["b", *P8]))


def test_the_proposed_translation_of_a_word_works(write) -> None:
    path = write(["id", "expression_pred"], ["a", "bored"], ["b", "neutral"], ["c", "meh"])
    with pytest.raises(DataError) as caught:
        read_predictions(path)
    text = str(caught.value)
    assert "--classes CLASS=bored,CLASS=meh (such as neutral=bored)" in text
    preds = read_predictions(path, (), ["neutral=bored,sadness=meh"])
    assert preds.expression.tolist() == [0, 0, 2]


def test_words_of_classes_in_any_case(write):
    path = write(["id", "expression_pred"], ["a", "Happy"], ["b", " SAD"], ["c", "Anger"])
    assert read_predictions(path).expression.tolist() == [1, 2, 6]
    header = ["id", *(f"p_{name.title()}" for name in EXPRESSIONS)]
    assert read_predictions(write(header, ["a", *P8])).probabilities.tolist() == [P8]
    path = write(["id", "label"], ["a", 0], ["b", 1])
    preds = read_predictions(path, ["expression_pred=label"], ["Angry,HAPPY"])
    assert preds.expression.tolist() == [6, 1]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_sums_up_to_the_tolerance(kind):
    p = np.tile(np.array(P8, kind), (2, 1))
    p[:, 0] += np.array([0.01, -0.01], kind)
    scaled = predictions_of({"probabilities": p}).probabilities
    assert scaled.sum(axis=1) == pytest.approx([1, 1])
    p[0, 0] += kind(0.001)
    with pytest.raises(DataError, match=r"sum to 1\.011, not to 1 \(within 0\.01\)"):
        predictions_of({"probabilities": p})


def test_all_faults_of_a_file_at_once(write):
    header = ["id", "expression_pred", "valence_pred", "arousal_pred", *PROBABILITY_COLUMNS]
    rows = (
        ["a", 9, 1.5, "high", *P8],
        ["a", 1, 0, "", *[0.2] * 8],
        ["b", 1, 0, "", 1.5, -0.5, *[0] * 6],
        ["c", 1, 0, "", "", *P8[1:]],
    )
    with pytest.raises(DataError) as caught:
        read_predictions(write(header, *rows))
    for part in (
        "label 9",
        "valence_pred of 1.5",
        "'arousal_pred' must hold numbers",
        "repeated id ('a')",
        "sum to 1.6",
        "-0.5 at id 'b' is negative",
        "some of the probabilities are missing at id 'c'",
    ):
        assert part in str(caught.value)
    with pytest.raises(DataError, match=r"valence of -2 .*arousal of 3 "):
        read_truth(write(["id", "valence", "arousal"], ["a", -2, 3]))
    with pytest.raises(ConfigError, match=r"'x=y'.*'merry'"):
        read_predictions(write(header, *rows), ["x=y"], ["merry"])
