"""Seven classes, without contempt, through every command, against scikit-learn."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from sklearn import metrics as sk

from affectnet.cli import main
from affectnet.commands.evaluate import evaluate
from affectnet.commands.train import train
from affectnet.config import EvaluateConfig, TrainConfig
from affectnet.data.store import DatasetInfo, open_split
from affectnet.labels import EXPRESSIONS, PROBABILITY_COLUMNS
from affectnet.models.affect_model import AffectModel
from affectnet.run import RunFolder
from affectnet.seven import SEVEN

CONTEMPT = 7


@pytest.fixture(scope="module")
def softened(drawn_tars: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A side file of soft labels for the training part: half the label, half contempt or anger."""
    folder = tmp_path_factory.mktemp("soft")
    assert main(["ingest", str(drawn_tars[0]), "--out", str(folder / "eight")]) == 0
    lines = ["id," + ",".join(EXPRESSIONS)]
    for name in ("train", "val"):
        split = open_split(folder / "eight", name)
        for one, label in zip(split.ids, split.expression.tolist(), strict=True):
            shares = np.zeros(8)
            shares[[label, 6, 7]] += [0.5, 0.25, 0.25]
            lines.append(f"{one}," + ",".join(f"{share:g}" for share in shares))
    (folder / "soft.csv").write_text("\n".join(lines) + "\n")
    return folder / "soft.csv"


@pytest.fixture(scope="module")
def seven(drawn_tars: tuple[Path, Path], softened: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("seven") / "dataset"
    given = [*map(str, drawn_tars), "--soft", f"train={softened}", "--without-contempt"]
    assert main(["ingest", *given, "--out", str(out)]) == 0
    return out


def tiny(data: Path, runs: Path, **settings: object) -> TrainConfig:
    base = {"backbone": "resnet10t", "epochs": 1, "image_size": 32, "pretrained": False}
    base |= {"batch_size": 32, "workers": 0, "accelerator": "cpu"}
    return TrainConfig(data=(data,), runs=runs, **(base | settings))


@pytest.fixture(scope="module")
def run7(seven: Path, tmp_path_factory) -> RunFolder:
    runs = tmp_path_factory.mktemp("runs7")
    return train(tiny(seven, runs, name="seven", soft_labels=True, class_weights="balanced"))


@pytest.fixture(scope="module")
def run8(drawn: Path, tmp_path_factory) -> RunFolder:
    return train(tiny(drawn, tmp_path_factory.mktemp("runs8"), name="eight"))


def test_ingest_drops_contempt_and_nothing_else(seven: Path, drawn: Path) -> None:
    info = DatasetInfo.read(seven)
    assert info.without_contempt
    assert info.dropped == {"contempt, left out as asked": 24 + 6}
    assert all(list(counts) == list(SEVEN) for counts in info.counts.values())
    listed = (seven / "dropped.csv").read_text().splitlines()
    assert len(listed) == 1 + 30
    for name in ("train", "val", "test"):
        less, whole = open_split(seven, name), open_split(drawn, name)
        others = whole.expression != CONTEMPT
        assert less.ids == [one for one, other in zip(whole.ids, others, strict=True) if other]
        assert (less.expression == whole.expression[others]).all()
        assert (less.valence == whole.valence[others]).all()
    soft = open_split(seven, "train").soft
    assert np.allclose(soft.sum(axis=1), 1)
    assert not soft[:, CONTEMPT].any()
    label = open_split(seven, "train").expression
    sad = soft[label == EXPRESSIONS.index("sadness")]
    assert np.allclose(sad, np.array([0, 0, 2, 0, 0, 0, 1, 0]) / 3)


def test_a_soft_label_of_contempt_alone_is_dropped(drawn_tars, drawn, tmp_path) -> None:
    first = open_split(drawn, "test").ids[0]
    (tmp_path / "soft.csv").write_text(f"id,{','.join(EXPRESSIONS)}\n{first},0,0,0,0,0,0,0,1\n")
    given = ["ingest", str(drawn_tars[1]), "--soft", f"{tmp_path}/soft.csv", "--without-contempt"]
    assert main([*given, "--out", str(tmp_path / "d")]) == 0
    split = open_split(tmp_path / "d", "test")
    assert np.isnan(split.soft).all()
    assert first in split.ids


def test_a_model_of_seven_classes_states_them(run7: RunFolder) -> None:
    assert json.loads((run7.model / "config.json").read_text())["classes"] == list(SEVEN)
    assert yaml.safe_load(run7.config.read_text())["without_contempt"] is True
    assert AffectModel.from_pretrained(run7.model).heads.expression.out_features == 7


def test_the_flag_trains_on_eight_class_data(drawn: Path, tmp_path: Path, capsys) -> None:
    run = train(tiny(drawn, tmp_path, name="cut", without_contempt=True, sampler="balanced"))
    assert "leaves out 19 of 152 train faces and 5 of 40 val" in capsys.readouterr().out
    assert AffectModel.from_pretrained(run.model).classes == SEVEN
    frozen = tiny(drawn, tmp_path, name="head", without_contempt=True, freeze="backbone")
    assert AffectModel.from_pretrained(train(frozen).model).classes == SEVEN


def independent(folder: Path) -> dict[str, float]:
    """The metrics of predictions.parquet without contempt, by scikit-learn."""
    table = pq.read_table(folder / "predictions.parquet").to_pandas()
    table = table[table.expression != CONTEMPT]
    p = table[list(PROBABILITY_COLUMNS[:CONTEMPT])].to_numpy(np.float64)
    p = p / p.sum(axis=1, keepdims=True)
    y, labels = table.expression.to_numpy(), p.argmax(axis=1)
    return {
        "n": len(y),
        "accuracy": sk.accuracy_score(y, labels),
        "f1_macro": sk.f1_score(y, labels, average="macro", labels=range(7)),
        "cohen_kappa": sk.cohen_kappa_score(y, labels),
        "auc_roc_macro": sk.roc_auc_score(y, p, multi_class="ovr", average="macro"),
        "rmse": sk.root_mean_squared_error(table.valence, table.valence_pred),
    }


def check(metrics: dict, expected: dict[str, float]) -> None:
    assert metrics["n"] == metrics["expression"]["n"] == metrics["valence"]["n"] == expected["n"]
    assert metrics["expression"]["classes"] == metrics["protocol"]["classes"] == list(SEVEN)
    for name in ("accuracy", "f1_macro", "cohen_kappa", "auc_roc_macro"):
        found = metrics["expression"][name]["value"]
        assert found == pytest.approx(expected[name], abs=1e-6), name
    assert metrics["valence"]["rmse"]["value"] == pytest.approx(expected["rmse"], abs=1e-6)


def settings(*runs: RunFolder, **more: object) -> EvaluateConfig:
    base = {"resamples": 20, "figures": False, "card": False, "workers": 0, "accelerator": "cpu"}
    return EvaluateConfig(runs=tuple(run.path for run in runs), **(base | more))


def test_a_model_of_seven_on_eight_class_data_leaves_contempt_out(
    run7: RunFolder, drawn: Path, tmp_path: Path, capsys
) -> None:
    evaluate(settings(run7, data=drawn, out=tmp_path))
    folder = RunFolder(tmp_path).evaluation("test")
    metrics = json.loads((folder / "metrics.json").read_text())
    expected = independent(folder)
    assert expected["n"] == 42
    check(metrics, expected)
    note = "the predictions have no contempt): 6 faces of contempt are in no metric"
    assert note in " ".join(metrics["protocol"]["notes"])
    assert "seven classes (without contempt)" in capsys.readouterr().out
    table = pq.read_table(folder / "predictions.parquet")
    assert table.column("p_contempt").null_count == table.num_rows == 48


@pytest.mark.parametrize("by", ["flag", "dataset"])
def test_a_model_of_eight_is_scored_in_seven(
    run8: RunFolder, drawn: Path, seven: Path, tmp_path: Path, by: str
) -> None:
    flag = by == "flag"
    evaluate(settings(run8, data=drawn if flag else seven, without_contempt=flag, out=tmp_path))
    folder = RunFolder(tmp_path).evaluation("test")
    metrics = json.loads((folder / "metrics.json").read_text())
    check(metrics, independent(folder))
    assert metrics["protocol"]["n_contempt"] == (6 if flag else 0)


def test_predictions_in_a_file_and_comparison(
    run7: RunFolder, run8: RunFolder, drawn: Path, tmp_path: Path
) -> None:
    evaluate(settings(run7, run8, data=drawn, out=tmp_path / "two", ensemble=True))
    mean = RunFolder(tmp_path / "two" / "ensemble").evaluation("test")
    check(json.loads((mean / "metrics.json").read_text()), independent(mean))
    compared, _ = json.loads((tmp_path / "two" / "comparison.json").read_text())
    assert compared["n"] == 42
    assert compared["classes"] == list(SEVEN)
    file = RunFolder(tmp_path / "two" / "eight").evaluation("test") / "predictions.parquet"
    given = ["--predictions", str(file), "--truth", str(drawn), "--out", str(tmp_path / "s.json")]
    assert main(["evaluate", *given, "--without-contempt", "--resamples", "0"]) == 0
    check(json.loads((tmp_path / "s.json").read_text()), independent(file.parent))


def test_audit_of_seven_classes(seven: Path, drawn: Path, tmp_path: Path, capsys) -> None:
    assert main(["audit", str(seven), "--out", str(tmp_path / "a.json")]) == 0
    flag = [str(drawn), "--without-contempt", "--out", str(tmp_path / "b.json")]
    assert main(["audit", *flag]) == 0
    one, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in "ab")
    assert one["classes"] == list(SEVEN)
    assert one["counts"] == other["counts"]
    assert all(list(counts) == list(SEVEN) for counts in one["counts"].values())
    assert one["duplicates"] == other["duplicates"]
    assert any(
        "6 faces of contempt" in f["text"] or "30 faces of" in f["text"] for f in other["findings"]
    )
    assert "contempt  " not in capsys.readouterr().out


@pytest.mark.parametrize("flag", [[], ["--without-contempt"]])
def test_audit_finds_wrong_labels_by_a_model_of_seven(
    run7: RunFolder, drawn: Path, tmp_path: Path, flag: list[str]
) -> None:
    evaluate(settings(run7, data=drawn, split="val", out=tmp_path / "e"))
    file = RunFolder(tmp_path / "e").evaluation("val") / "predictions.parquet"
    out = tmp_path / "a.json"
    given = ["audit", str(drawn), "--predictions", str(file), "--out", str(out), *flag]
    assert main(given) == 0
    found = json.loads(out.read_text())["likely_wrong_labels"]
    assert found["split"] == "val"
    assert found["faces"] == 35
    split = open_split(drawn, "val")
    label = dict(zip(split.ids, split.expression.tolist(), strict=True))
    for row in found["rows"]:
        assert row["expression"] == EXPRESSIONS[label[row["id"]]] != "contempt"
        assert row["suggested"] in SEVEN


def test_predict_in_seven_classes(run8: RunFolder, drawn: Path, tmp_path: Path) -> None:
    (tmp_path / "face.jpg").write_bytes(bytes(open_split(drawn, "test").image_bytes(0)))
    model = str(run8.path)
    common = ["predict", str(tmp_path / "face.jpg"), "--model", model, "--faces", "none"]
    assert main([*common, "--out", str(tmp_path / "8.json")]) == 0
    assert main([*common, "--out", str(tmp_path / "7.json"), "--without-contempt"]) == 0
    eight, seven = (json.loads((tmp_path / f"{n}.json").read_text())[0]["faces"][0] for n in (8, 7))
    p8, p7 = eight["probabilities"], seven["probabilities"]
    assert list(p7) == list(SEVEN)
    left = 1 - p8["contempt"]
    assert [p7[n] for n in SEVEN] == pytest.approx([p8[n] / left for n in SEVEN], abs=1e-6)
    assert (seven["valence"], seven["arousal"]) == (eight["valence"], eight["arousal"])


def test_report_shows_seven_rows(run7: RunFolder, seven: Path, tmp_path: Path) -> None:
    evaluate(settings(run7, data=seven, figures=True, explain=False, card=True, overwrite=True))
    page = tmp_path / "report.html"
    given = ["report", str(run7.path), "--out", str(page), "--no-explain"]
    assert main(given) == 0
    assert "seven classes" in page.read_text()
    card = (run7.model / "README.md").read_text()
    assert "| contempt |" not in card
    assert "| anger |" in card
