"""`affectnet evaluate`: runs, saved models and files, written scores, refusals."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from affectnet import cli
from affectnet.commands.evaluate import evaluate
from affectnet.config import EvaluateConfig
from affectnet.data.store import open_split
from affectnet.errors import ConfigError, DataError, RunError
from affectnet.evaluation import evaluate as score
from affectnet.labels import EXPRESSIONS, PROBABILITY_COLUMNS
from affectnet.models.affect_model import AffectModel
from affectnet.run import RunFolder

FAST = {"resamples": 20, "accelerator": "cpu", "workers": 0, "figures": False}


@pytest.fixture
def make_run(tmp_path):
    """Run folders with an untrained model, as training leaves one behind."""

    def make(name, seed=0):
        torch.manual_seed(seed)
        run = RunFolder(tmp_path / "runs" / name)
        AffectModel("resnet10t", image_size=32).save_pretrained(run.model)
        return run

    return make


@pytest.fixture(scope="module")
def guesses(drawn):
    """Predictions for the test split, as columns."""
    split = open_split(drawn, "test")
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(8), len(split)) + 0.5 * np.eye(8)[split.expression]
    p /= p.sum(axis=1, keepdims=True)
    columns = {"id": split.ids}
    columns |= {name: p[:, c] for c, name in enumerate(PROBABILITY_COLUMNS)}
    return columns | {
        "valence_pred": np.clip(split.valence + rng.normal(0, 0.2, len(split)), -1, 1),
        "arousal_pred": np.clip(split.arousal + rng.normal(0, 0.2, len(split)), -1, 1),
    }


def test_a_run_gets_predictions_and_scores(make_run, drawn, capsys):
    run = make_run("first")
    (scores,) = evaluate(EvaluateConfig(runs=(run.path,), data=drawn, **FAST))
    home = run.evaluation("test")
    assert json.loads((home / "metrics.json").read_text()) == scores.to_dict()
    split = open_split(drawn, "test")
    table = pq.read_table(home / "predictions.parquet")
    assert table.column("id").to_pylist() == split.ids
    assert scores["n"] == len(split)
    assert scores["expression"]["n"] == len(split)
    printed = capsys.readouterr().out
    for word in ("first", "accuracy", "majority", "constant", "CCC"):
        assert word in printed
    tables = printed[: printed.index("scores: ")]
    assert max(map(len, tables.splitlines())) <= 100
    assert "…" not in tables


def test_figures_are_drawn_by_default(make_run, drawn):
    run = make_run("first")
    evaluate(
        EvaluateConfig(runs=(run.path,), data=drawn, **FAST | {"figures": True, "explain": False})
    )
    assert any((run.evaluation("test") / "figures").iterdir())


def test_the_run_folder_gets_all_figures(make_run, drawn, capsys):
    run = make_run("first")
    fast = FAST | {"figures": True}
    evaluate(EvaluateConfig(runs=(run.path,), data=drawn, **fast))
    drawn_names = {path.stem for path in (run.evaluation("test") / "figures").iterdir()}
    assert drawn_names >= {"confusion", "attention-mean", "feature-map", "most-confidently-wrong"}
    card = run.model / "README.md"
    assert f"model card: {card}" in capsys.readouterr().out
    known = json.loads((run.evaluation("test") / "metrics.json").read_text())
    assert f"{known['expression']['accuracy']['value']:.3f}" in card.read_text(encoding="utf-8")
    evaluate(EvaluateConfig(runs=(run.path,), data=drawn, overwrite=True, explain=False, **fast))
    fewer = {path.stem for path in (run.evaluation("test") / "figures").iterdir()}
    assert drawn_names - fewer >= {"attention-mean", "attention-wrong", "feature-map"}
    assert fewer


def test_the_card_follows_the_scores_until_the_user_edits_it(make_run, drawn):
    run = make_run("first")
    card = run.model / "README.md"
    evaluate(EvaluateConfig(runs=(run.path,), data=drawn, card=False, **FAST))
    assert not card.exists()
    again = {"runs": (run.path,), "data": drawn, "overwrite": True} | FAST
    evaluate(EvaluateConfig(**again))
    first = card.read_text(encoding="utf-8")
    evaluate(EvaluateConfig(calibrate=True, **again))
    second = card.read_text(encoding="utf-8")
    assert "temperature" in second
    assert second != first
    theirs = second.replace("## Limits", "## Limits\n\nOur own words.")
    card.write_text(theirs, encoding="utf-8")
    evaluate(EvaluateConfig(calibrate=True, **again))
    assert card.read_text(encoding="utf-8") == theirs
    assert sorted(path.name for path in run.model.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_a_prior_changes_the_predictions_and_not_the_model(make_run, drawn, capsys):
    run = make_run("first")
    model = AffectModel.from_pretrained(run.model)
    model.class_fractions = model.prior = (0.3, 0.4, 0.1, 0.1, 0.04, 0.03, 0.02, 0.01)
    model.save_pretrained(run.model)
    given = {"runs": (run.path,), "data": drawn, "prior": "uniform"} | FAST
    evaluate(EvaluateConfig(calibrate=True, **given))
    assert "fitted on val with the class fractions of test" in capsys.readouterr().out
    saved = AffectModel.from_pretrained(run.model)
    assert saved.temperature is not None
    assert saved.prior == model.prior
    assert torch.equal(saved.heads.expression.bias, model.heads.expression.bias)
    # The same predictions scored again, without the model, still say that they are corrected.
    (scores,) = evaluate(EvaluateConfig(runs=(run.path,), overwrite=True, **FAST))
    assert "uniform" in " ".join(scores["protocol"]["notes"])
    with pytest.raises(RunError, match="from before --prior; add --overwrite"):
        evaluate(EvaluateConfig(**given | {"runs": (run.path, make_run("second").path)}))
    file = run.evaluation("test") / "predictions.parquet"
    for wrong in ({"runs": (file,), "data": drawn}, {"runs": (run.path,)}):
        with pytest.raises(ConfigError, match="not files of predictions"):
            evaluate(EvaluateConfig(prior="uniform", **wrong | FAST))


def test_a_second_evaluation_needs_overwrite(make_run, drawn):
    run = make_run("first")
    evaluate(EvaluateConfig(runs=(run.path,), data=drawn, **FAST))
    file = run.evaluation("test") / "predictions.parquet"
    before = file.read_bytes()
    with pytest.raises(RunError, match="add --overwrite"):
        evaluate(EvaluateConfig(runs=(run.path,), data=drawn, **FAST))
    # Without --data the same predictions are scored anew.
    (scores,) = evaluate(EvaluateConfig(runs=(run.path,), zero_rule="drop", overwrite=True, **FAST))
    assert file.read_bytes() == before
    known = json.loads((run.evaluation("test") / "metrics.json").read_text())
    assert known["protocol"]["zero_rule"] == "drop"
    assert known == scores.to_dict()


def test_two_runs_are_compared_on_the_same_faces(make_run, drawn, tmp_path, capsys):
    first, second = make_run("first"), make_run("second", seed=1)
    scores = evaluate(
        EvaluateConfig(
            runs=(first.path, second.path), data=drawn, out=tmp_path / "out", ensemble=True, **FAST
        )
    )
    assert len(scores) == 3
    printed = capsys.readouterr().out
    assert "second against first" in printed
    assert "McNemar p" in printed
    for name in ("first", "second", "ensemble"):
        assert (RunFolder(tmp_path / "out" / name).evaluation("test") / "metrics.json").is_file()
    found = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [one["names"] for one in found] == [["first", "second"], ["first", "ensemble"]]
    tables = [
        pq.read_table(RunFolder(tmp_path / "out" / name).evaluation("test") / "predictions.parquet")
        for name in ("first", "second", "ensemble")
    ]
    p = [np.column_stack([t.column(c).to_numpy() for c in PROBABILITY_COLUMNS]) for t in tables]
    assert p[2] == pytest.approx((p[0] + p[1]) / 2, abs=1e-6)


def test_runs_that_are_evaluated_are_compared_without_the_dataset(make_run, drawn, capsys):
    runs = (make_run("first").path, make_run("second", seed=1).path)
    evaluate(EvaluateConfig(runs=runs, data=drawn, **FAST))
    files = [RunFolder(run).evaluation("test") / "metrics.json" for run in runs]
    before = [file.stat().st_mtime_ns for file in files]
    evaluate(EvaluateConfig(runs=runs, **FAST))
    assert "second against first" in capsys.readouterr().out
    assert [file.stat().st_mtime_ns for file in files] == before


def test_a_saved_model_stores_scores_only_with_out(make_run, drawn, tmp_path, capsys):
    model = make_run("first").model
    files = sorted(model.iterdir())
    (printed,) = evaluate(EvaluateConfig(runs=(model,), data=drawn, **FAST))
    assert "printed only; --out DIR" in capsys.readouterr().out
    (one_file,) = evaluate(
        EvaluateConfig(runs=(model,), data=drawn, out=tmp_path / "one.json", **FAST)
    )
    assert (tmp_path / "one.json").is_file()
    assert sorted(model.iterdir()) == files
    out = tmp_path / "elsewhere"
    (stored,) = evaluate(EvaluateConfig(runs=(model,), data=drawn, out=out, **FAST))
    assert (RunFolder(out).evaluation("test") / "metrics.json").is_file()
    assert printed["expression"] == one_file["expression"] == stored["expression"]


def test_a_saved_model_alone_is_not_enough(make_run, drawn):
    model = make_run("first").model
    with pytest.raises(RunError, match="--data DIR"):
        evaluate(EvaluateConfig(runs=(model,), **FAST))
    with pytest.raises(ConfigError, match="several processes share a folder"):
        evaluate(EvaluateConfig(runs=(model,), data=drawn, devices=2, **FAST))


def test_calibration_is_stored_in_the_model(make_run, drawn):
    run = make_run("first")
    evaluate(EvaluateConfig(runs=(run.path,), data=drawn, calibrate=True, **FAST))
    temperature = AffectModel.from_pretrained(run.model).temperature
    assert temperature is not None
    assert temperature != 1.0
    with pytest.raises(ConfigError, match="--data"):
        evaluate(EvaluateConfig(runs=(run.path,), calibrate=True, **FAST))


def test_slices_of_columns_and_of_images(make_run, drawn, capsys):
    run = make_run("first")
    (scores,) = evaluate(
        EvaluateConfig(runs=(run.path,), data=drawn, slices=("brightness",), **FAST)
    )
    assert len(scores["slices"]["brightness"]["slices"]) == 4
    assert "Worst slice by brightness" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_against_a_dataset(drawn, guesses, tmp_path, suffix):
    path = tmp_path / f"theirs{suffix}"
    table = pa.table(guesses)
    write = pa.csv.write_csv if suffix == ".csv" else pq.write_table
    write(table.take(np.random.default_rng(0).permutation(len(table))), path)
    out = tmp_path / "out"
    (scores,) = evaluate(EvaluateConfig(predictions=path, truth=drawn, out=out, **FAST))
    split = open_split(drawn, "test")
    truth = {"expression": split.expression, "valence": split.valence, "arousal": split.arousal}
    assert (
        scores["expression"]["accuracy"]
        == score(truth | {"id": split.ids}, guesses, resamples=20)["expression"]["accuracy"]
    )
    # The folder is laid out as a run's, so that `affectnet report` takes it.
    home = RunFolder(out).evaluation("test")
    assert json.loads((home / "metrics.json").read_text()) == scores.to_dict()
    again = evaluate(EvaluateConfig(runs=(out,), overwrite=True, **FAST))[0]
    assert again["expression"]["accuracy"]["value"] == scores["expression"]["accuracy"]["value"]


def test_truth_in_a_file_and_in_the_same_file(guesses, tmp_path, drawn):
    split = open_split(drawn, "test")
    truth = {"id": split.ids, "expression": [EXPRESSIONS[c] for c in split.expression]}
    pq.write_table(pa.table(truth), tmp_path / "truth.parquet")
    pq.write_table(pa.table(guesses), tmp_path / "theirs.parquet")
    pq.write_table(pa.table(guesses | truth), tmp_path / "both.parquet")
    apart = evaluate(
        EvaluateConfig(
            predictions=tmp_path / "theirs.parquet", truth=tmp_path / "truth.parquet", **FAST
        )
    )[0]
    together = evaluate(EvaluateConfig(predictions=tmp_path / "both.parquet", **FAST))[0]
    assert apart["expression"] == together["expression"]
    assert apart["valence"]["n"] == 0
    with pytest.raises(DataError, match="give --truth"):
        evaluate(EvaluateConfig(predictions=tmp_path / "theirs.parquet", **FAST))
    pq.write_table(pa.table(truth), tmp_path / "ours.parquet")
    columns = ("expression_pred=expression",)
    with pytest.raises(DataError, match="given as the prediction and is no truth"):
        evaluate(EvaluateConfig(predictions=tmp_path / "ours.parquet", columns=columns, **FAST))


def test_two_files_are_compared(guesses, tmp_path, drawn, capsys):
    for name, column in (("a", "valence_pred"), ("b", "arousal_pred")):
        part = {"id": guesses["id"], "valence_pred": guesses[column]}
        pq.write_table(pa.table(part), tmp_path / f"{name}.parquet")
    files = (tmp_path / "a.parquet", tmp_path / "b.parquet")
    evaluate(EvaluateConfig(runs=files, truth=drawn, **FAST))
    assert "a is better by more than chance" in " ".join(capsys.readouterr().out.split())


def test_aliases_and_classes_reach_the_reader(drawn, tmp_path):
    split = open_split(drawn, "test")
    path = tmp_path / "theirs.csv"
    with path.open("w", newline="") as file:
        rows = [(name, 7 - int(c)) for name, c in zip(split.ids, split.expression, strict=True)]
        csv.writer(file).writerows([("image", "label"), *rows])
    (scores,) = evaluate(
        EvaluateConfig(
            predictions=path,
            truth=drawn,
            columns=("id=image", "expression_pred=label"),
            classes=EXPRESSIONS[::-1],
            **FAST,
        )
    )
    assert scores["expression"]["accuracy"]["value"] == 1.0


def test_the_order_of_the_predictions_is_not_that_of_the_truth(tmp_path):
    """--classes orders the numbers of the predictions; words it translates in both files."""
    (tmp_path / "theirs.csv").write_text("id,expression_pred\na,0\nb,1\n")
    (tmp_path / "numbers.csv").write_text("id,expression\na,6\nb,1\n")
    (tmp_path / "words.csv").write_text("id,expression\na,anger\nb,happy\n")
    for truth in ("numbers.csv", "words.csv"):
        (scores,) = evaluate(
            EvaluateConfig(
                predictions=tmp_path / "theirs.csv",
                truth=tmp_path / truth,
                classes=("anger,happiness=happy",),
                **FAST,
            )
        )
        assert scores["expression"]["accuracy"]["value"] == 1.0


def test_scores_alone_in_a_json_file(drawn, guesses, tmp_path):
    pq.write_table(pa.table(guesses), tmp_path / "theirs.parquet")
    config = EvaluateConfig(
        predictions=tmp_path / "theirs.parquet", truth=drawn, out=tmp_path / "s.json", **FAST
    )
    (scores,) = evaluate(config)
    assert json.loads((tmp_path / "s.json").read_text()) == scores.to_dict()
    with pytest.raises(RunError, match="add --overwrite"):
        evaluate(config)


def test_conflicting_settings_are_refused(make_run, drawn, tmp_path):
    run = make_run("first").path
    wrong = [
        (EvaluateConfig(), ConfigError, "give one or several runs"),
        (EvaluateConfig(runs=(run,), predictions=run), ConfigError, "give one or several runs"),
        (EvaluateConfig(runs=(run, run)), ConfigError, "given twice"),
        (
            EvaluateConfig(runs=(run, tmp_path / "other" / "first"), out=tmp_path / "o"),
            ConfigError,
            "the same name",
        ),
        (EvaluateConfig(runs=(run,), ensemble=True), ConfigError, "two or more"),
        (EvaluateConfig(runs=(run,)), RunError, "give --data DIR"),
        (
            EvaluateConfig(runs=(tmp_path / "none",), data=drawn),
            RunError,
            "neither a run folder nor a file",
        ),
        (EvaluateConfig(runs=(tmp_path,), data=drawn), RunError, "no finished epoch"),
        (EvaluateConfig(runs=(run,), data=tmp_path), DataError, "is not a dataset"),
        (
            EvaluateConfig(runs=(run, tmp_path), out=tmp_path / "a.json"),
            ConfigError,
            "is one file",
        ),
    ]
    for config, kind, message in wrong:
        with pytest.raises(kind, match=message):
            evaluate(config)


def test_faults_of_both_files_are_reported_at_once(tmp_path):
    (tmp_path / "theirs.csv").write_text("file,emotion\na.jpg,Happy\nb.jpg,hate\n")
    (tmp_path / "truth.csv").write_text("name,label\na,Happy\nb,sad\n")
    config = EvaluateConfig(
        predictions=tmp_path / "theirs.csv", truth=tmp_path / "truth.csv", **FAST
    )
    with pytest.raises(DataError) as caught:
        evaluate(config)
    for part in ("id=file,expression_pred=emotion", "label 'hate'", "id=name,expression=label"):
        assert part in str(caught.value)


def test_a_name_near_the_missing_one_is_suggested(tmp_path, drawn):
    (tmp_path / "theirs.csv").write_text("id,valence_pred\na,0\n")
    (tmp_path / "affectnet8").mkdir()
    config = EvaluateConfig(predictions=tmp_path / "theirs.csv", truth=tmp_path / "affectnet9")
    wanted = r"no dataset folder or file .*affectnet9; did you mean 'affectnet8'\?"
    with pytest.raises(DataError, match=wanted):
        evaluate(config)
    config = EvaluateConfig(predictions=tmp_path / "thiers.csv", truth=drawn)
    with pytest.raises(DataError, match=r"no file .*thiers.csv; did you mean 'theirs.csv'\?"):
        evaluate(config)
    config = EvaluateConfig(predictions=tmp_path / "a" / "theirs.csv", truth=drawn)
    with pytest.raises(DataError, match=r"no file .*theirs.csv$"):
        evaluate(config)


def test_a_bad_file_is_one_line_and_status_2(tmp_path, drawn, capsys):
    path = tmp_path / "bad.csv"
    path.write_text("id,valence_pred\na,-2\n")
    assert cli.main(["evaluate", "--predictions", str(path), "--truth", str(drawn)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "valence_pred of -2" in error
