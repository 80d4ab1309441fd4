"""metrics.json: its layout, its metrics against the reference, and what is undefined."""

import json
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affectnet.errors import ConfigError, DataError
from affectnet.evaluation import Scores, evaluate, predictions_table
from affectnet.evaluation.scores import published
from affectnet.labels import EXPRESSIONS

SCALARS = (
    "accuracy",
    "balanced_accuracy",
    "top2_accuracy",
    "f1_macro",
    "f1_weighted",
    "cohen_kappa",
    "krippendorff_alpha",
    "auc_roc_macro",
    "auc_pr_macro",
    "log_loss",
    "ece",
)
AFFECT = ("rmse", "mae", "corr", "sagr", "ccc")


def entries(block, path=()):
    """Every {value, low, high} of a score with its path."""
    for key, part in block.items():
        if isinstance(part, dict):
            if "value" in part and "low" in part:
                yield (*path, key), part
            else:
                yield from entries(part, (*path, key))


@pytest.fixture(scope="module")
def faces(make_faces):
    return make_faces(500, seed=21)


@pytest.fixture(scope="module")
def scores(faces):
    return evaluate(faces.truth(), faces.predictions(), resamples=200)


def test_metrics_json_has_all_documented_keys(scores, faces):
    metrics = scores.to_dict()
    assert metrics["n"] == 500
    for name in SCALARS:
        assert {"value", "low", "high"} <= metrics["expression"][name].keys()
    for dimension in ("valence", "arousal"):
        assert set(AFFECT) <= metrics[dimension].keys()
    assert list(metrics["expression"]["per_class"]) == list(EXPRESSIONS)
    assert np.array(metrics["expression"]["confusion"]).shape == (8, 8)
    assert np.sum(metrics["expression"]["confusion"]) == 500
    assert [metrics["expression"]["per_class"][name]["n"] for name in EXPRESSIONS] == np.bincount(
        faces.expression, minlength=8
    ).tolist()
    assert {"baselines", "protocol"} <= metrics.keys()


def test_metrics_equal_the_reference(scores, faces, reference_expression, reference_affect):
    want = reference_expression(faces.expression, faces.preds, faces.probabilities)
    block = scores["expression"]
    for name in SCALARS:
        assert block[name]["value"] == pytest.approx(want[name], abs=1e-9)
    for name in EXPRESSIONS:
        for metric in ("precision", "recall", "f1", "auc_roc", "auc_pr"):
            value = block["per_class"][name][metric]["value"]
            expected = want[f"per_class/{name}/{metric}"]
            if np.isnan(expected):
                assert value is None
            else:
                assert value == pytest.approx(expected, abs=1e-9)
    for dimension in ("valence", "arousal"):
        x, y = getattr(faces, dimension), getattr(faces, f"{dimension}_pred")
        expected = reference_affect(x, y)
        for name in AFFECT:
            assert scores[dimension][name]["value"] == pytest.approx(expected[name], abs=1e-9)


def test_seven_classes_leave_contempt_out(scores, faces, reference_expression):
    kept = faces.expression != 7
    p = faces.probabilities[kept, :7]
    p = p / p.sum(axis=1, keepdims=True)
    want = reference_expression(faces.expression[kept], p.argmax(axis=1), p, EXPRESSIONS[:7])
    assert scores["expression_7"]["n"] == kept.sum()
    for name in SCALARS:
        assert scores["expression_7"][name]["value"] == pytest.approx(want[name], abs=1e-9)


def test_every_interval_holds_its_value_and_has_a_width(scores):
    for path, entry in entries(scores.to_dict()):
        if path[0] == "baselines" or entry["low"] is None:
            continue
        assert entry["low"] <= entry["high"]
        # A plug-in calibration error is biased upwards in every resample: no bound on its value.
        if "ece" not in path and 0 < entry["value"] < 1:
            assert entry["low"] < entry["value"] < entry["high"], path


def test_every_value_or_its_reason(scores, faces):
    parts = [
        scores.to_dict(),
        evaluate(
            {"expression": faces.expression}, {"expression_pred": faces.preds}, resamples=20
        ).to_dict(),
        evaluate(
            {"valence": faces.valence}, {"valence_pred": np.zeros(500)}, resamples=20
        ).to_dict(),
    ]
    for part in parts:
        for path, entry in entries(part):
            assert (entry["value"] is not None) or entry["reason"], path


def test_the_same_seed_gives_the_same_file(faces, tmp_path):
    for name in ("a", "b"):
        evaluate(faces.truth(), faces.predictions(), resamples=20).write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    other = evaluate(faces.truth(), faces.predictions(), resamples=20, seed=1)
    assert other.to_dict()["expression"] != json.loads((tmp_path / "a").read_text())["expression"]


def test_the_order_of_rows_does_not_matter(faces):
    ids = np.array([f"f{i}" for i in range(500)])
    turn = np.random.default_rng(0).permutation(500)
    straight = evaluate(
        faces.truth() | {"id": ids}, faces.predictions() | {"id": ids}, resamples=20
    )
    turned = evaluate(
        faces.truth() | {"id": ids},
        {name: values[turn] for name, values in (faces.predictions() | {"id": ids}).items()},
        resamples=20,
    )
    assert straight.to_dict() == turned.to_dict()


def test_missing_and_extra_ids_are_noted(faces):
    ids = [f"f{i}" for i in range(500)]
    given = {name: values[:400] for name, values in faces.predictions().items()}
    scores = evaluate(
        faces.truth() | {"id": ids}, given | {"id": [*ids[:399], "stranger"]}, resamples=0
    )
    protocol = scores["protocol"]
    assert (scores["n"], protocol["n_truth"]) == (399, 500)
    assert (protocol["n_missing"], protocol["n_extra"]) == (101, 1)
    assert protocol["missing_ids"][0] == "f399"
    assert protocol["extra_ids"] == ["stranger"]
    assert "so not scored: 101 faces of the truth" in scores.table()


def test_missing_values_are_noted(faces):
    truth, preds = faces.truth(), faces.predictions()
    truth["valence"] = truth["valence"].copy()
    truth["valence"][:2] = np.nan
    preds["valence_pred"] = preds["valence_pred"].copy()
    preds["valence_pred"][1:4] = np.nan
    preds["probabilities"] = preds["probabilities"].copy()
    preds["probabilities"][9] = np.nan
    del preds["arousal_pred"]
    scores = evaluate(truth, preds, resamples=0)
    notes = [note for note in scores["protocol"]["notes"] if "and so not scored" in note]
    assert notes == [
        "without probabilities, and so not scored for expression: 1 face",
        "without valence in the truth, and so not scored for valence: 2 faces",
        "without valence_pred, and so not scored for valence: 2 faces",
    ]
    assert scores["expression"]["n"] == 499
    assert scores["valence"]["n"] == 496
    labels = np.where(np.arange(500) < 3, -1, faces.preds)
    missing = {"expression_pred": [None if c < 0 else int(c) for c in labels]}
    notes = evaluate(truth, pa.table(missing), resamples=0)["protocol"]["notes"]
    assert "without expression_pred, and so not scored for expression: 3 faces" in notes


def test_labels_alone_give_the_metrics_of_labels(faces):
    scores = evaluate(
        {"expression": faces.expression}, {"expression_pred": faces.preds}, resamples=50
    )
    block = scores["expression"]
    assert block["accuracy"]["low"] is not None
    assert block["auc_roc_macro"]["value"] is None
    assert "only labels" in block["auc_roc_macro"]["reason"]
    assert block["reliability"] is None
    assert "seven classes need probabilities" in scores["expression_7"]["accuracy"]["reason"]
    assert "no face has both" in scores["valence"]["ccc"]["reason"]
    assert scores["expression_7"]["confusion"] is None
    assert "accuracy" in scores.table()


def test_labels_without_contempt_score_seven_classes():
    y, preds = np.arange(8), np.array([0, 1, 2, 3, 4, 5, 5, 0])
    scores = evaluate({"expression": y}, {"expression_pred": preds}, resamples=0)
    assert scores["expression_7"]["accuracy"]["value"] == pytest.approx(6 / 7)


def test_seven_probabilities_alone(faces):
    p = faces.probabilities.copy()
    p[:, 7] = np.nan
    p[:, :7] /= p[:, :7].sum(axis=1, keepdims=True)
    blank = np.full(500, np.nan)
    table = predictions_table(
        [str(i) for i in range(500)], faces.expression, blank, blank, p, blank, blank
    )
    scores = evaluate(table, table, resamples=0)
    whole = evaluate(faces.truth(), faces.predictions(), resamples=0)
    for name in SCALARS:
        for block in ("expression", "expression_7"):
            assert scores[block][name]["value"] == pytest.approx(
                whole["expression_7"][name]["value"], abs=1e-6
            )
    assert "the predictions have no contempt" in scores.table()


def test_contempt_for_certain_leaves_seven_equal_probabilities():
    p = np.eye(8)[[7, 0]]
    scores = evaluate({"expression": [2, 0]}, {"probabilities": p}, resamples=0)
    assert scores["expression_7"]["log_loss"]["value"] == pytest.approx(np.log(7) / 2, abs=1e-9)


def test_one_face():
    scores = evaluate(
        {"expression": [3], "valence": [0.2], "arousal": [0.1]},
        {"probabilities": np.eye(8)[[3]], "valence_pred": [0.3], "arousal_pred": [0.1]},
    )
    metrics = scores.to_dict()
    assert metrics["expression"]["accuracy"] == {
        "value": 1.0,
        "low": pytest.approx(0.2065, abs=1e-4),
        "high": 1.0,
        "interval": "wilson",
    }
    assert metrics["valence"]["rmse"]["reason"] == "one face gives no interval"
    assert metrics["valence"]["corr"]["reason"] == "one face has no spread"
    assert metrics["valence"]["rmse"]["value"] == pytest.approx(0.1)
    assert "every face is surprise" in metrics["expression"]["cohen_kappa"]["reason"]
    assert metrics["expression"]["per_class"]["fear"]["recall"]["reason"] == (
        "no face is fear in the truth"
    )
    assert scores.table()


def wilson(successes, trials):
    """Wilson's interval by its formula (Wilson 1927; Agresti and Coull 1998, eq. 2)."""
    p, z = successes / trials, 1.959963984540054
    centre = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z * np.sqrt((p * (1 - p) + z**2 / (4 * trials)) / trials) / (1 + z**2 / trials)
    return pytest.approx((max(0, centre - half), min(1, centre + half)), abs=1e-9)


def bounds(entry):
    assert entry["interval"] == "wilson"
    return entry["low"], entry["high"]


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("interval", ["percentile", "bca"])
def test_no_interval_has_zero_width(stratified, interval):
    """All right, all wrong, and each class on its own."""
    settings = {"resamples": 100, "stratified": stratified, "interval": interval}
    y = np.repeat(np.arange(8), 12)
    v = np.linspace(-1, 1, 96)
    perfect = evaluate(
        {"expression": y, "valence": v}, {"expression_pred": y, "valence_pred": v}, **settings
    )
    found = perfect["expression"]
    assert bounds(found["accuracy"]) == wilson(96, 96)
    assert bounds(found["per_class"]["fear"]["recall"]) == wilson(12, 12)
    assert bounds(found["per_class"]["fear"]["precision"]) == wilson(12, 12)
    assert bounds(perfect["valence"]["sagr"]) == wilson(96, 96)
    for entry in (found["f1_macro"], found["cohen_kappa"], perfect["valence"]["ccc"]):
        assert entry["low"] is None
        assert entry["reason"] == "the same value in every resample, so no interval"
    assert "Wilson's interval, where the bootstrap gives none: accuracy of" in perfect.table()
    # One face of fear right, the rest called neutral.
    preds = np.zeros(96, int)
    preds[48] = 4
    found = evaluate({"expression": y}, {"expression_pred": preds}, **settings)["expression"]
    assert bounds(found["per_class"]["anger"]["recall"]) == wilson(0, 12)
    assert bounds(found["per_class"]["neutral"]["recall"]) == wilson(12, 12)
    assert bounds(found["per_class"]["fear"]["precision"]) == wilson(1, 1)
    assert found["accuracy"]["low"] < found["accuracy"]["high"]
    assert "interval" not in found["accuracy"]


def test_classes_with_few_faces_are_marked(faces):
    y = np.where(faces.expression == 7, 0, faces.expression)
    y[:12] = 7
    scores = evaluate({"expression": y}, {"probabilities": faces.probabilities}, resamples=0)
    (note,) = [note for note in scores["protocol"]["notes"] if "fewer than 30" in note]
    assert note.endswith("contempt (12)")
    table = scores.table()
    assert "Each class (* fewer than 30 faces)" in table
    assert re.search(r"contempt +12 \*", table)
    assert not re.search(r"neutral +[\d,]+ \*", table)


def test_a_rare_class_has_only_intervals_of_fractions(faces):
    y = np.where(faces.expression == 7, 0, faces.expression)
    y[0] = 7
    scores = evaluate({"expression": y}, {"probabilities": faces.probabilities}, resamples=100)
    recall = scores["expression"]["per_class"]["contempt"]["recall"]
    assert bounds(recall) == wilson(recall["value"], 1)
    area = scores["expression"]["per_class"]["contempt"]["auc_roc"]
    assert area["low"] is None
    assert "undefined in" in area["reason"]


def test_an_absent_class_is_noted(faces):
    y = np.minimum(faces.expression, 6)
    scores = evaluate({"expression": y}, {"probabilities": faces.probabilities}, resamples=0)
    assert "no contempt" in scores["expression"]["note"]
    assert scores["expression"]["per_class"]["contempt"]["auc_roc"]["value"] is None
    assert scores["expression"]["auc_roc_macro"]["value"] is not None


def test_intervals_of_either_kind_and_strata(faces):
    kinds = {
        (interval, stratified): evaluate(
            faces.truth(),
            faces.predictions(),
            resamples=200,
            interval=interval,
            stratified=stratified,
        )
        for interval in ("percentile", "bca")
        for stratified in (False, True)
    }
    plain = kinds["percentile", False]["expression"]["accuracy"]
    for scores in kinds.values():
        entry = scores["expression"]["accuracy"]
        assert entry["value"] == plain["value"]
        assert entry["high"] - entry["low"] == pytest.approx(plain["high"] - plain["low"], rel=0.3)
    lows = {scores["expression"]["f1_macro"]["low"] for scores in kinds.values()}
    assert len(lows) == 4


def test_no_resamples_no_intervals(faces):
    scores = evaluate(faces.truth(), faces.predictions(), resamples=0)
    assert all(entry["low"] is None for _, entry in entries(scores.to_dict()))
    assert scores["expression"]["accuracy"]["value"] is not None


def test_baselines(scores, faces):
    base = scores["baselines"]
    commonest = np.bincount(faces.expression).max() / 500
    majority = base["majority class"]
    assert majority["says"] == EXPRESSIONS[np.bincount(faces.expression).argmax()]
    assert majority["expression"]["accuracy"]["value"] == pytest.approx(commonest)
    assert majority["expression"]["cohen_kappa"]["value"] == pytest.approx(0, abs=1e-12)
    assert majority["expression"]["auc_roc_macro"]["value"] == pytest.approx(0.5)
    assert majority["expression"]["ece"]["value"] == pytest.approx(0, abs=1e-12)
    assert base["constant mean"]["valence"]["rmse"]["value"] == pytest.approx(faces.valence.std())
    assert base["constant mean"]["arousal"]["ccc"]["value"] == 0
    # Any faces: nothing published is comparable.
    assert set(base) == {"majority class", "constant mean"}
    assert "people" not in scores.table()


def test_published_metrics_only_for_the_test_part_that_they_are_on(faces):
    known = evaluate(faces.truth(), faces.predictions(), resamples=0, test_part_of="AffectNet")
    base = known["baselines"]
    assert base["two AffectNet annotators"]["expression"]["accuracy"]["value"] == 0.607
    assert {row["data"] for row in base["published"]} == {"AffectNet"}
    table = known.table()
    assert "with eleven categories" in table
    assert re.search(r"DDAMFN\+\+ +\.647 +\.671 .*Zhang 2023 † *\n", table)
    assert re.search(r"FMAE ViT-L +\.650 .*Ning 2024 † ‡ *\n", table)
    other = evaluate(faces.truth(), faces.predictions(), resamples=0, test_part_of="FER+")
    assert {row["data"] for row in other["baselines"]["published"]} == {"FER+"}
    assert "two AffectNet annotators" not in other["baselines"]
    assert "people" not in other.table()


def test_published_metrics_have_sources():
    rows = published()
    assert len(rows) >= 10
    for row in rows:
        assert 0 < row["value"] < 1
        assert re.search(r"20\d\d|repository|not recorded", row["source"])
        assert row["checked"] in ("source read", "second hand")
        assert row["epoch"] in ("test set", "unknown")
        assert row["data"] in ("AffectNet", "FER+", "RAF-DB")
        assert row["reproduced"] is False


def test_consistency(scores):
    assert scores["consistency"]["predicted"]["n"] == 500
    assert 0 < scores["consistency"]["annotated"]["value"] < 1


def test_a_label_that_is_not_the_most_probable_is_noted(faces):
    preds = faces.predictions() | {"expression_pred": np.zeros(500, int)}
    notes = evaluate(faces.truth(), preds, resamples=0)["protocol"]["notes"]
    assert any("label is not the most probable class for" in note for note in notes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": "normal"}, "percentile, bca"),
        ({"zero_rule": "none"}, "sign, positive, drop"),
        ({"resamples": -1}, "0 means no intervals"),
        ({"resamples": 1}, "0 means no intervals"),
        ({"slices": ["age"]}, "no column 'age'"),
    ],
)
def test_wrong_settings(faces, settings, message):
    with pytest.raises(ConfigError, match=message):
        evaluate(faces.truth(), faces.predictions(), **settings)


def test_truth_and_predictions_of_different_targets():
    scores = evaluate({"expression": [1, 2]}, {"valence_pred": [0.1, 0.2]}, resamples=10)
    assert scores["expression"]["n"] == scores["valence"]["n"] == 0
    assert isinstance(scores, Scores)
    with pytest.raises(DataError, match="has no rows"):
        evaluate({"expression": []}, {"expression_pred": []})


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_wild_input_gives_a_valid_file(data):
    """Any mixture of missing parts: no crash, no NaN, a value or a reason for every metric."""
    n = data.draw(st.integers(1, 12))
    draw = np.random.default_rng(data.draw(st.integers(0, 10**6)))

    def holes(values, missing):
        return np.where(draw.random(n) < data.draw(st.sampled_from([0, 0.5, 1])), missing, values)

    truth = {
        "expression": holes(draw.integers(0, 8, n).astype(float), np.nan),
        "valence": holes(np.round(draw.uniform(-1, 1, n), 1), np.nan),
        "arousal": holes(np.round(draw.uniform(-1, 1, n), 1), np.nan),
    }
    p = draw.dirichlet(np.ones(8), n)
    p[draw.random(n) < 0.3] = np.nan
    preds = {
        "probabilities": data.draw(st.sampled_from([p, None])),
        "expression_pred": holes(draw.integers(0, 8, n).astype(float), np.nan),
        "valence_pred": holes(np.round(draw.uniform(-1, 1, n), 1), np.nan),
        "arousal_pred": holes(np.full(n, 0.5), np.nan),
    }
    scores = evaluate(
        truth,
        preds,
        resamples=5,
        interval=data.draw(st.sampled_from(["percentile", "bca"])),
        stratified=data.draw(st.booleans()),
        slices={"group": draw.integers(0, 2, n)},
    )
    for path, entry in entries(json.loads(json.dumps(scores.metrics, allow_nan=False))):
        if entry["value"] is None:
            assert entry["reason"], path
    assert scores.table()


def permuted(order: Sequence[str], accuracy: float, n: int = 400) -> list[str]:
    """Notes on predictions that are right by `accuracy`, numbered in another order."""
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 8, n)
    said = np.where(rng.random(n) < accuracy, truth, rng.integers(0, 8, n))
    theirs = np.array([list(order).index(name) for name in EXPRESSIONS])[said]
    scores = evaluate({"expression": truth}, {"expression_pred": theirs}, resamples=0)
    assert scores["expression"]["accuracy"]["value"] == np.mean(theirs == truth)
    return [note for note in scores["protocol"]["notes"] if "another order" in note]


FERPLUS = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt"]


@pytest.mark.parametrize(
    ("order", "accuracy", "hinted"),
    [
        (sorted(EXPRESSIONS), 1.0, True),
        (sorted(EXPRESSIONS), 0.55, True),
        (EXPRESSIONS, 1.0, False),
        (EXPRESSIONS, 0.6, False),
        (EXPRESSIONS, 0.0, False),
        (FERPLUS, 1.0, True),
        (FERPLUS, 0.6, False),  # it explains too few of the errors to be certain
        ([*EXPRESSIONS[1:], EXPRESSIONS[0]], 0.97, True),
    ],
)
def test_another_class_order_is_hinted_at_and_not_applied(order, accuracy, hinted) -> None:
    notes = permuted(order, accuracy)
    assert bool(notes) == hinted
    if hinted:
        assert f"read as {', '.join(order)}" in notes[0]


def test_few_faces_and_constant_predictions_give_no_hint() -> None:
    assert not permuted(sorted(EXPRESSIONS), 1.0, n=12)
    truth = {"expression": np.arange(80) % 8}
    scores = evaluate(truth, {"expression_pred": np.full(80, 3)}, resamples=0)
    assert not [note for note in scores["protocol"]["notes"] if "order" in note]
