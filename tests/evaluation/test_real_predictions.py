"""Scores of a simple model on real faces equal the reference packages, as read from its file."""

import io
import tarfile

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from affectnet.data.images import decode_image
from affectnet.evaluation import evaluate, predictions_table, write_predictions
from affectnet.labels import EXPRESSIONS, PROBABILITY_COLUMNS


@pytest.fixture(scope="module")
def file(ferplus, tmp_path_factory):
    """predictions.parquet of linear models on pixels: half of the faces train, half are scored."""
    found = {}
    with tarfile.open(ferplus / "test_set.tar.gz") as tar:
        for member in tar:
            if member.isfile():
                found[member.name] = tar.extractfile(member).read()
    ids = sorted(n.split("/")[-1][:-4] for n in found if n.endswith(".jpg"))
    image = {n.split("/")[-1][:-4]: data for n, data in found.items() if n.endswith(".jpg")}
    pixels = np.stack([decode_image(image[i], 16)[:, :, 0].ravel() for i in ids]) / 255 - 0.5

    def labels(kind):
        files = {n.split("/")[-1]: data for n, data in found.items()}
        return np.array([float(np.load(io.BytesIO(files[f"{i}_{kind}.npy"])).item()) for i in ids])

    y, valence, arousal = labels("exp").astype(int), labels("val"), labels("aro")
    train, test = np.arange(0, len(ids), 2), np.arange(1, len(ids), 2)
    classifier = LogisticRegression(C=0.05, max_iter=200).fit(pixels[train], y[train])
    p = np.zeros((len(test), 8))
    p[:, classifier.classes_] = classifier.predict_proba(pixels[test])
    both = np.column_stack([valence, arousal])
    affect = np.clip(Ridge(300).fit(pixels[train], both[train]).predict(pixels[test]), -1, 1)
    path = tmp_path_factory.mktemp("real") / "predictions.parquet"
    table = predictions_table(
        [ids[i] for i in test], y[test], valence[test], arousal[test], p, *affect.T
    )
    write_predictions(table, path)
    return path


def test_metrics_equal_the_reference(file, reference_expression, reference_affect):
    table = pq.read_table(file)
    column = {name: table.column(name).to_numpy() for name in table.column_names}
    y, preds = column["expression"].astype(int), column["expression_pred"].astype(int)
    p = np.column_stack([column[name] for name in PROBABILITY_COLUMNS]).astype(float)
    scores = evaluate(table, table, resamples=200)
    want = reference_expression(y, preds, p)
    found = {k: v for k, v in scores["expression"].items() if isinstance(v, dict) and "value" in v}
    assert len(found) == 11
    for name, entry in found.items():
        assert entry["value"] == pytest.approx(want[name], abs=1e-9)
        assert entry["low"] <= entry["value"] <= entry["high"] or name == "ece"
    for name in EXPRESSIONS:
        for metric in ("precision", "recall", "f1", "auc_roc", "auc_pr"):
            value = scores["expression"]["per_class"][name][metric]["value"]
            expected = want[f"per_class/{name}/{metric}"]
            assert value is None if np.isnan(expected) else abs(value - expected) < 1e-9
    for name in ("valence", "arousal"):
        x, x_pred = (column[key].astype(float) for key in (name, f"{name}_pred"))
        for metric, value in reference_affect(x, x_pred).items():
            assert scores[name][metric]["value"] == pytest.approx(value, abs=1e-9)
    # Even pixels classify real faces better than the most frequent class does.
    majority = scores["baselines"]["majority class"]["expression"]["accuracy"]["value"]
    assert scores["expression"]["accuracy"]["low"] > majority
    assert scores["valence"]["ccc"]["low"] > 0
