import json
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from affectnet.config import TrainConfig
from affectnet.errors import RunError
from affectnet.labels import EXPRESSIONS
from affectnet.models.affect_model import AffectModel
from affectnet.report.card import CARD_SETTINGS, model_card, write_card

Change = Callable[[Path, Callable[[dict[str, Any]], None]], None]


@pytest.fixture
def run(make_run: Callable[..., Path]) -> Path:
    path = make_run("cvnet")
    torch.manual_seed(0)
    AffectModel("cvnet", image_size=48).save_pretrained(path / "model")
    return path


def metrics_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "evaluation/test/metrics.json").read_text())


def leaves(known: Any) -> list[float]:
    """Every number in nested dicts and lists."""
    if isinstance(known, dict):
        return [one for value in known.values() for one in leaves(value)]
    if isinstance(known, list):
        return [one for value in known for one in leaves(value)]
    return [float(known)] if isinstance(known, int | float) and not isinstance(known, bool) else []


WHERE = {
    "Accuracy": ("expression", "accuracy"),
    "F1 (macro)": ("expression", "f1_macro"),
    "Cohen's κ": ("expression", "cohen_kappa"),
    "Krippendorff's α": ("expression", "krippendorff_alpha"),
    "AUC": ("expression", "auc_roc_macro"),
    "AUC-PR": ("expression", "auc_pr_macro"),
    "Calibration error (ECE)": ("expression", "ece"),
} | {
    f"{one.capitalize()} {metric.upper()}": (one, metric)
    for one in ("valence", "arousal")
    for metric in ("rmse", "corr", "sagr", "ccc")
}


def test_the_front_matter_has_the_measured_metrics_unrounded(run: Path) -> None:
    metrics = metrics_of(run)
    card = ModelCard(model_card(run))
    found = {one.metric_name: one for one in card.data.eval_results}
    assert set(found) == set(WHERE)
    for name, (block, metric) in WHERE.items():
        assert found[name].metric_value == metrics[block][metric]["value"], name
        assert found[name].dataset_split == "test"
        assert found[name].dataset_type == "affectnet"
    assert card.data.model_name == "cvnet"
    assert card.data.library_name == "affectnet"
    assert card.data.license is None  # no licence is claimed unless given
    assert card.data.base_model is None
    assert ModelCard(model_card(run, license="cc-by-nc-4.0")).data.license == "cc-by-nc-4.0"


def test_every_number_of_the_results_is_in_metrics_json(run: Path) -> None:
    results = model_card(run).split("## Results")[1].split("## Training data")[0]
    results = results.split("Intervals:")[0]
    allowed = {f"{value:.3f}" for value in leaves(metrics_of(run))}
    found = re.findall(r"-?\d+\.\d+", results)
    assert len(found) > 90
    assert set(found) <= allowed


def rows_of(text: str) -> dict[str, list[str]]:
    lines = [line.strip("|\n ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_tables_have_value_interval_and_baseline_of_each_metric(run: Path) -> None:
    metrics, rows = metrics_of(run), rows_of(model_card(run))
    for name, (block, metric) in WHERE.items():
        known = metrics[block][metric]
        assert rows[name][0] == f"{known['value']:.3f}", name
        assert rows[name][1] == f"{known['low']:.3f} to {known['high']:.3f}", name
    majority = metrics["baselines"]["majority class"]["expression"]["accuracy"]["value"]
    assert rows["Accuracy"][2] == f"{majority:.3f}"
    constant = metrics["baselines"]["constant mean"]["valence"]["rmse"]["value"]
    assert rows["Valence RMSE"][2] == f"{constant:.3f}"


def test_data_training_and_what_was_not_measured(run: Path) -> None:
    text = model_card(run)
    assert "ab" * 32 in text
    assert "2 (duplicate id)" in text
    assert "| contempt | 14 |" in text
    said = " ".join(text.split())
    assert "trained on 800 faces of the train split (max_per_class 100), and its best" in said
    assert "| max_per_class | 100 |\n| leaks | keep |" in text
    assert "| backbone | cvnet |" in text
    assert "skin colour was not measured" in text
    assert str(run.parent) not in text  # paths of this machine are not published
    for heading in ("Intended use", "Limits", "Ethics", "Training data", "Use"):
        assert f"\n## {heading}\n" in text


def test_the_lines_of_use_predict(
    run: Path, photo_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = model_card(run).partition("```python\n")[2].partition("```")[0]
    lines = lines.replace("path/of/this/folder", str(run / "model"))
    exec(lines.replace("photo.jpg", str(photo_file)), {})
    expression, *numbers = capsys.readouterr().out.split()
    assert expression in EXPRESSIONS
    assert len([float(number) for number in numbers]) == 3


def test_undefined_metrics_are_left_out_with_the_reason(make_run: Callable[..., Path]) -> None:
    path = make_run("blind", valence=float("nan"))
    AffectModel("cvnet", image_size=48).save_pretrained(path / "model")
    text = model_card(path)
    names = {one.metric_name for one in ModelCard(text).data.eval_results}
    assert not any(name.startswith("Valence") for name in names)
    assert "Arousal CCC" in names
    reason = metrics_of(path)["valence"]["ccc"]["reason"]
    assert reason
    assert f"- Valence CCC: {reason}" in text
    assert "nan" not in text.lower().split()


def test_slices_are_shown_and_the_worst_named(run: Path) -> None:
    import pyarrow.parquet as pq

    from affectnet.evaluation import evaluate

    table = pq.read_table(run / "evaluation/test/predictions.parquet")
    age = ["young" if i % 3 else "old|er" for i in range(len(table))]
    scores = evaluate(table, table, resamples=40, slices={"age": age})
    scores.write(run / "evaluation/test/metrics.json")
    text = model_card(run)
    rows, found = rows_of(text.replace("\\|", "¦")), scores["slices"]["age"]
    for block in found["slices"]:
        row = rows[block["slice"].replace("|", "¦")]
        assert row[0] == str(block["n"])
        value = block["expression"]["accuracy"]["value"]
        assert row[1].startswith(f"{value:.3f} (")
    assert f"By age, the worst slice is {found['worst']['slice']}".replace("|", "\\|") in text
    assert "measured only by these columns: age" in text


def test_several_splits_test_first(run: Path) -> None:
    (run / "evaluation/test").rename(run / "evaluation/train")
    text = model_card(run)
    assert "memorised" not in text.split("### train split")[0].split("## Results")[1]
    assert "### train split" in text
    assert "how well it memorised them" in text
    import shutil

    shutil.copytree(run / "evaluation/train", run / "evaluation/test")
    text = model_card(run)
    assert text.index("### test split") < text.index("### train split")
    splits = {one.dataset_split for one in ModelCard(text).data.eval_results}
    assert splits == {"test", "train"}


def test_pretrained_weights_are_named(run: Path) -> None:
    path = run / "model/config.json"
    config = json.loads(path.read_text()) | {
        "backbone": "convnext_atto",
        "architecture": "convnext_atto.d2_in1k",
        "temperature": 1.25,
    }
    path.write_text(json.dumps(config))
    settings = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(
        yaml.safe_dump(settings | {"pretrained": True, "freeze": "backbone"})
    )
    text = model_card(run)
    assert ModelCard(text).data.base_model == "timm/convnext_atto.d2_in1k"
    assert "started from pretrained weights (backbone frozen" in text
    assert "temperature 1.250" in text


def test_files_and_teachers_are_named_without_their_folders(run: Path) -> None:
    settings = yaml.safe_load((run / "config.yaml").read_text())
    files = {"weights": "/home/me/faces.pt", "teacher": ["/home/me/runs/wide/model", "cvnet"]}
    (run / "config.yaml").write_text(yaml.safe_dump(settings | files | {"mixup": 0.2}))
    text = model_card(run)
    assert "/home/me" not in text
    rows = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    cells = {row[1].strip(): row[2].strip() for row in rows}
    assert {name: cells[name] for name in ("weights", "teacher", "mixup")} == {
        "weights": "faces.pt",
        "teacher": "wide, cvnet",
        "mixup": "0.2",
    }


def test_each_setting_of_the_card_is_one_of_train() -> None:
    assert set(CARD_SETTINGS) <= {field.name for field in fields(TrainConfig)}


def test_without_config_and_dataset_it_says_so(
    run: Path, change_metrics: Change, tmp_path: Path
) -> None:
    (run / "config.yaml").unlink()
    change_metrics(run, lambda known: known["protocol"].pop("truth"))
    text = model_card(run)
    assert "the run has no config.yaml" in text
    assert "neither the run nor its metrics name a dataset" in text
    assert ModelCard(text).data.eval_results[0].dataset_name == "unknown dataset"
    gone = model_card(run, datasets=[tmp_path / "gone"])
    assert "the dataset gone is not available" in gone
    assert str(tmp_path) not in gone


@pytest.mark.parametrize("name", ["a|b", "x: [y", "<b>bold", "---", "# no"])
def test_hostile_names_stay_text(run: Path, name: str) -> None:
    text = model_card(run, name=name)
    card = ModelCard(text)
    assert card.data.model_name == name
    assert "<b>" not in card.text
    assert len(card.data.eval_results) == len(WHERE)


def test_the_card_is_written_next_to_the_weights(run: Path) -> None:
    path = write_card(run)
    assert path == run / "model/README.md"
    assert path.read_text() == model_card(run)
    with pytest.raises(RunError, match="already exists"):
        write_card(run)
    write_card(run, overwrite=True)
    AffectModel.from_pretrained(run / "model")  # the model loads with its card next to it
    elsewhere = write_card(run, run / "card.md", license="mit")
    assert "license: mit" in elsewhere.read_text()


def test_without_model_or_scores_it_raises(run: Path, make_run: Callable[..., Path]) -> None:
    with pytest.raises(RunError, match="no trained model"):
        model_card(make_run("bare"))
    (run / "evaluation").rename(run / "elsewhere")
    with pytest.raises(RunError, match="not evaluated"):
        model_card(run)
    (run / "elsewhere").rename(run / "evaluation")
    (run / "model/config.json").write_text("{}")
    with pytest.raises(RunError, match="not the config of an affectnet model"):
        write_card(run)
    assert not (run / "model/README.md").exists()
