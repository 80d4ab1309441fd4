"""`affectnet train`: run folder, errors, missing targets, and resuming after `kill -9`."""

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from drawn import write_faces
from torch.nn.modules.module import register_module_forward_pre_hook

from affectnet.cli import parse
from affectnet.commands.train import train
from affectnet.commands.train_settings import (
    augmentation,
    check,
    check_same_run,
    loss_settings,
    targets_of,
    trained_fractions,
    with_defaults_of_data,
)
from affectnet.config import TrainConfig
from affectnet.data.store import DatasetInfo, open_split
from affectnet.errors import ConfigError, RunError, WeightsError
from affectnet.labels import EXPRESSIONS
from affectnet.models.affect_model import AffectModel
from affectnet.models.cvnet import Branches
from affectnet.run import RunFolder
from affectnet.training.checkpoints import export_best


def small(data: Path, runs: Path, **settings: object) -> TrainConfig:
    """Two epochs of a tiny timm backbone on the CPU."""
    base = TrainConfig(
        data=(data,),
        backbone="resnet10t",
        epochs=2,
        image_size=32,
        pretrained=False,
        runs=runs,
        batch_size=32,
        workers=0,
        accelerator="cpu",
    )
    return dataclasses.replace(base, **settings)


def rows_of(run: RunFolder) -> list[dict[str, str]]:
    """The rows of metrics.csv, without the times."""
    with run.metrics.open(newline="") as file:
        return [{n: v for n, v in row.items() if n != "seconds"} for row in csv.DictReader(file)]


def weights_of(run: RunFolder) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(run.last, weights_only=True)
    return checkpoint.get("current_model_state", checkpoint["state_dict"])


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def trained(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return train(small(drawn, tmp_path_factory.mktemp("runs"), name="first", ema=0.99))


def test_a_run_folder_contains_all_files(trained: RunFolder) -> None:
    assert trained.last.is_file()
    assert trained.best.is_file()
    assert list(trained.tensorboard.glob("events.*"))
    assert [row["epoch"] for row in rows_of(trained)] == ["0", "1"]
    assert all(float(row["val_accuracy"]) >= 0 for row in rows_of(trained))
    saved = json.loads((trained.model / "config.json").read_text())
    assert "neutral" in json.dumps(saved)
    model = AffectModel.from_pretrained(trained.model)
    best = torch.load(trained.best, weights_only=True)["state_dict"]
    assert same(
        dict(model.state_dict()),
        {name.removeprefix("model."): value for name, value in best.items()},
    )


@pytest.mark.parametrize("branches", ["all", "turns"])
def test_branches_take_turns_if_set(branches: str, drawn: Path, tmp_path: Path) -> None:
    turns = set()

    def watch(module: torch.nn.Module, _: object) -> None:
        if isinstance(module, Branches) and module.training:
            turns.add(module.turns)

    hook = register_module_forward_pre_hook(watch)
    try:
        settings = {"epochs": 1, "image_size": 48, "max_per_class": 4, "branches": branches}
        run = train(small(drawn, tmp_path, backbone="cvnet", **settings))
    finally:
        hook.remove()
    assert turns == {branches == "turns"}
    faces = json.loads(run.faces.read_text())
    assert faces["train"] == dict.fromkeys(EXPRESSIONS, 4)
    assert sum(faces["val"].values()) == len(open_split(drawn, "val"))


def test_config_yaml_repeats_the_run_bit_by_bit(trained: RunFolder, tmp_path: Path) -> None:
    saved = yaml.safe_load(trained.config.read_text())
    saved |= {"runs": tmp_path, "data": tuple(map(Path, saved["data"]))}
    again = train(TrainConfig(**saved))
    assert same(weights_of(trained), weights_of(again))
    assert rows_of(again) == rows_of(trained)


def test_the_model_keeps_the_class_fractions_of_its_faces(trained: RunFolder, drawn: Path) -> None:
    labels = open_split(drawn, "train").expression
    expected = np.bincount(labels, minlength=8) / len(labels)
    config = json.loads((trained.model / "config.json").read_text())
    assert config["class_fractions"] == config["prior"] == pytest.approx(expected)


def fractions_of(config, labels, soft):
    targets = targets_of(config, labels, soft)
    return trained_fractions(config, labels, targets, loss_settings(config, targets))


@pytest.mark.parametrize(
    ("settings", "power"),
    [
        ({}, 1.0),
        ({"loss": "logit_adjusted"}, 0.0),
        ({"loss": "logit_adjusted", "logit_tau": 0.25}, 0.75),
        ({"loss": "focal"}, 1.0),
        ({"class_weights": "balanced"}, 0.0),
        ({"sampler": "balanced"}, 0.0),
        ({"sampler": "sqrt"}, 0.5),
        ({"sampler": "sqrt", "loss": "logit_adjusted", "logit_tau": 0.5}, 0.0),
    ],
)
def test_the_fractions_that_a_model_assumes(settings: dict[str, object], power: float) -> None:
    """The fractions of the faces to a power: 1 where nothing is balanced, 0 where all is."""
    counts = np.array([40, 80, 20, 10, 5, 4, 20, 3])
    labels = np.append(np.repeat(np.arange(8), counts), -1)
    fractions, prior = fractions_of(
        TrainConfig(data=(), **settings), labels, np.full((len(labels), 8), np.nan)
    )
    assert fractions == pytest.approx(counts / counts.sum())
    assert prior == pytest.approx(counts**power / (counts**power).sum())


def test_the_fractions_of_votes_and_of_seven_classes() -> None:
    labels = np.array([0, 0, 1, -1, -1])
    soft = np.full((5, 8), np.nan)
    soft[[1, 3]] = 0
    soft[1, [0, 7]] = 0.5
    soft[3, [1, 7]] = 0.75, 0.25
    config = TrainConfig(data=(), soft_labels=True)
    fractions, prior = fractions_of(config, labels, soft)
    assert fractions == prior == pytest.approx(np.array([1.5, 1.75, 0, 0, 0, 0, 0, 0.75]) / 4)
    seven = dataclasses.replace(config, without_contempt=True)
    fractions, _ = fractions_of(seven, labels, soft)
    assert fractions == pytest.approx([0.5, 0.5, 0, 0, 0, 0, 0])
    assert fractions_of(TrainConfig(data=()), np.full(5, -1), soft) is None
    # The loss corrects the frequencies of its own targets, so that all classes are equal after it.
    for settings in ({"loss": "logit_adjusted"}, {"class_weights": "balanced"}):
        balanced = dataclasses.replace(config, **settings)
        fractions, prior = fractions_of(balanced, labels, np.where(soft > 0, 100 * soft, soft))
        assert [prior[c] for c in (0, 1, 7)] == pytest.approx([1 / 3] * 3)


def test_resuming_keeps_an_edited_card(trained: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(trained.path, run.path)
    (run.model / "README.md").write_text("written by hand")
    run.best.touch()  # a better epoch
    before = (run.model / "config.json").stat().st_mtime_ns
    export_best(run)
    assert (run.model / "config.json").stat().st_mtime_ns > before
    assert (run.model / "README.md").read_text() == "written by hand"


def test_an_existing_run_is_not_overwritten(trained: RunFolder, drawn: Path) -> None:
    before = trained.last.stat().st_mtime_ns
    with pytest.raises(RunError, match=r"--resume.*--overwrite.*--name"):
        train(small(drawn, trained.path.parent, name="first"))
    with pytest.raises(ConfigError, match=r"lr \(was 0.001, now 0.1\)"):
        train(small(drawn, trained.path.parent, name="first", resume=True, lr=0.1, ema=0.99))
    # An error found late must not delete the run that --overwrite would replace.
    with pytest.raises(ConfigError, match=r"did you mean|resnet"):
        train(
            small(drawn, trained.path.parent, name="first", overwrite=True, backbone="resnet10tt")
        )
    assert trained.last.stat().st_mtime_ns == before


def test_overwrite_replaces(drawn: Path, tmp_path: Path) -> None:
    config = small(drawn, tmp_path, epochs=1)
    run = train(config)
    (run.path / "leftover").touch()
    train(dataclasses.replace(config, overwrite=True))
    assert not (run.path / "leftover").exists()
    assert len(rows_of(run)) == 1


def test_all_faults_are_listed_at_once(tmp_path: Path) -> None:
    config = TrainConfig(
        data=(), epochs=0, lr=-1, ema=2, label_smoothing=1, hflip=3, weights=tmp_path / "none"
    )
    with pytest.raises(ConfigError) as caught:
        check(config)
    for flag in ("--data", "--epochs", "--lr", "--ema", "--label-smoothing", "hflip", "--weights"):
        assert flag in str(caught.value)


def test_single_settings_change_the_named_set() -> None:
    config = TrainConfig(data=(Path("D"),), augment="notebook", rotation=10, vflip=0.5)
    chosen = augmentation(config)
    assert chosen.rotation == 10
    assert chosen.vflip == 0.5
    assert chosen.hflip == augmentation(TrainConfig(data=(), augment="notebook")).hflip


def test_the_error_for_unreachable_weights_names_the_solutions(drawn: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"--weights FILE.*--no-pretrained"):
        train(small(drawn, tmp_path, pretrained=True))
    assert not list(tmp_path.iterdir())


def without(source: Path, out: Path, column: str) -> Path:
    """The dataset with one target missing from every row."""
    out.mkdir()
    (out / "dataset.json").write_text((source / "dataset.json").read_text())
    for name in ("train", "val", "test"):
        split = open_split(source, name)
        write_faces(
            out / f"{name}.arrow",
            (dataclasses.replace(split.face(row), **{column: None}) for row in range(len(split))),
        )
    return out


def test_without_valence_the_rest_is_trained(drawn: Path, tmp_path: Path) -> None:
    data = without(drawn, tmp_path / "data", "valence")
    row = rows_of(train(small(data, tmp_path / "runs", epochs=1)))[0]
    assert row["val_valence_ccc"] == ""
    assert row["val_arousal_ccc"] != ""
    assert float(row["train_loss"]) > 0


def test_without_expression_the_rest_is_trained(drawn: Path, tmp_path: Path) -> None:
    data = without(drawn, tmp_path / "data", "expression")
    with pytest.raises(ConfigError, match="--monitor val_valence_ccc"):
        train(small(data, tmp_path / "runs", epochs=1))
    with pytest.raises(ConfigError, match="val_all_tasks needs expression, which has no labels"):
        train(small(data, tmp_path / "runs", epochs=1, monitor="val_all_tasks"))
    run = train(small(data, tmp_path / "runs", epochs=1, monitor="val_valence_ccc"))
    assert rows_of(run)[0]["val_accuracy"] == ""


def dataset_json(folder: Path, train: list[int], test: list[int]) -> Path:
    """The `dataset.json` of a dataset with these numbers of faces in each class."""
    folder.mkdir()
    counts = {
        split: dict(zip(EXPRESSIONS, numbers, strict=True)) | {"unlabelled": 7}
        for split, numbers in (("train", train), ("test", test))
    }
    DatasetInfo([], "affectnet", counts, {}, "", "").write(folder)
    return folder


AFFECTNET = [74_874, 134_415, 25_459, 14_090, 6_378, 3_803, 24_882, 3_750]
EQUAL = [500] * 7 + [499]


def test_the_default_monitor_fits_the_test_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    affectnet = dataset_json(tmp_path / "affectnet", AFFECTNET, EQUAL)
    natural = dataset_json(tmp_path / "natural", AFFECTNET, AFFECTNET)
    equal = dataset_json(tmp_path / "equal", EQUAL, EQUAL)
    # Only contempt is rare here, and seven classes leave it out.
    contempt = dataset_json(tmp_path / "contempt", [500] * 7 + [20], [50] * 8)

    def chosen(*data: Path, **settings: object) -> str | None:
        return with_defaults_of_data(TrainConfig(data=data, **settings)).monitor

    assert chosen(affectnet) == "val_balanced_accuracy"
    assert "36 faces of happiness for each of contempt" in capsys.readouterr().out
    # The first dataset is the one that is scored; the faces of all are trained on.
    assert chosen(affectnet, natural) == chosen(equal, natural) == "val_balanced_accuracy"
    capsys.readouterr()
    for data in (natural, equal):
        assert chosen(data) == "val_accuracy"
    assert chosen(natural, affectnet) == "val_accuracy"
    assert chosen(contempt, without_contempt=True) == "val_accuracy"
    assert chosen(affectnet, monitor="val_loss") == "val_loss"
    assert capsys.readouterr().out == ""
    assert chosen(contempt) == "val_balanced_accuracy"


CORRECTIONS = {
    "--loss logit_adjusted": ["--loss", "logit_adjusted"],
    "--class-weights balanced": ["--class-weights", "balanced"],
    "--sampler balanced": ["--sampler", "balanced"],
    "--sampler sqrt": ["--sampler", "sqrt"],
}


def test_class_frequencies_are_corrected_once(tmp_path: Path) -> None:
    for (one, flags), (other, more) in combinations(CORRECTIONS.items(), 2):
        if flags[0] == more[0]:
            continue
        with pytest.raises(ConfigError, match=f"{one} and {other}.*keep one of them"):
            check(parse("train", ["--data", "D", *flags, *more]))
        # The way out that the message names: all corrections but one turned off.
        off = {"--loss": "cross_entropy", "--class-weights": "none", "--sampler": "natural"}
        check(parse("train", ["--data", "D", *flags, *more, more[0], off[more[0]]]))
    check(parse("train", ["--data", "D", *CORRECTIONS["--sampler sqrt"], "--loss", "focal"]))
    nothing = ["--loss", "logit_adjusted", "--logit-tau", "0", "--sampler", "balanced"]
    check(parse("train", ["--data", "D", *nothing]))
    # Through a recipe and a file; all three at once are one message.
    file = tmp_path / "own.yaml"
    file.write_text("sampler: balanced\nclass_weights: balanced\n")
    args = ["--recipe", "resnet152", "--config", str(file), "--data", "D"]
    with pytest.raises(ConfigError, match=r"logit_adjusted and .* and --sampler balanced each"):
        check(parse("train", args))


def test_a_run_that_corrects_twice_is_not_continued(trained: RunFolder, tmp_path: Path) -> None:
    """As runs of earlier versions do."""
    run = RunFolder(tmp_path / "first")
    shutil.copytree(trained.path, run.path)
    text = run.config.read_text()
    text = text.replace("loss: cross_entropy", "loss: logit_adjusted")
    run.config.write_text(text.replace("sampler: natural", "sampler: balanced"))
    args = ["train", "--runs", str(tmp_path), "--name", "first", "--resume"]
    with pytest.raises(ConfigError, match="each correct the class frequencies"):
        train(parse(args[0], args[1:]))


def test_an_extended_cosine_run_says_that_the_rate_jumps(
    trained: RunFolder, drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = trained.path.parent
    config = small(drawn, runs, name="first", resume=True, epochs=4, ema=0.99)
    check_same_run(with_defaults_of_data(config), trained)
    assert re.search(r"learning rate jumps from 0 to 0.0006.* 2 epochs", capsys.readouterr().out)
    check_same_run(with_defaults_of_data(dataclasses.replace(config, epochs=2)), trained)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("features", ["once", "live"])
def test_a_frozen_backbone_does_not_change(drawn: Path, tmp_path: Path, features: str) -> None:
    config = small(drawn, tmp_path, freeze="backbone", features=features)
    run = train(config)
    again = train(dataclasses.replace(config, name="once", epochs=1))
    assert not any(".backbone." in name for name in weights_of(run))
    assert not same(weights_of(run), weights_of(again))
    a = AffectModel.from_pretrained(run.model).backbone.state_dict()
    b = AffectModel.from_pretrained(again.model).backbone.state_dict()
    assert a
    assert same(a, b)


def test_training_starts_from_an_earlier_model(trained: RunFolder, drawn: Path, tmp_path) -> None:
    run = train(small(drawn, tmp_path, weights=trained.model, epochs=1, lr=1e-9, warmup_epochs=0))
    start = AffectModel.from_pretrained(trained.model).state_dict()
    now = AffectModel.from_pretrained(run.model).state_dict()
    for name, value in start.items():
        if value.is_floating_point() and "running" not in name:
            assert torch.allclose(value, now[name], atol=1e-5)


def start_in_background(config_file: Path, *flags: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "affectnet", "train", "--config", str(config_file), *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())},
    )


def wait_for_rows(run: RunFolder, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not (run.metrics.is_file() and len(rows_of(run)) >= count):
        assert process.poll() is None, "training ended before it could be killed"
        assert time.monotonic() < deadline, "training did not start"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("delay", "ema"),
    [
        (0.0, None),
        (0.4, 0.99),
        pytest.param(0.0, 0.99, marks=pytest.mark.slow),
        pytest.param(0.4, None, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_ends_like_an_uninterrupted_run(
    drawn: Path, tmp_path: Path, delay: float, ema: float | None
) -> None:
    config = small(drawn, tmp_path, epochs=4, name="whole", drop_path=0.1, ema=ema)
    whole = train(config)
    file = tmp_path / "killed.yaml"
    settings = yaml.safe_load(whole.config.read_text()) | {"name": "killed"}
    file.write_text(yaml.safe_dump(settings))
    killed = RunFolder(tmp_path / "killed")
    process = start_in_background(file)
    wait_for_rows(killed, 2, process)
    time.sleep(delay)  # 0: about the end of the epoch; later: in the middle of the next one
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(rows_of(killed))
    assert done < 4
    resumed = train(dataclasses.replace(config, name="killed", resume=True))
    assert same(weights_of(resumed), weights_of(whole))
    assert rows_of(resumed) == rows_of(whole)
    assert same(
        AffectModel.from_pretrained(resumed.model).state_dict(),
        AffectModel.from_pretrained(whole.model).state_dict(),
    )


def test_resume_needs_only_the_name(trained: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    from affectnet.cli import parse

    monkeypatch.chdir(trained.path.parent)
    config = parse("train", ["--resume", "--name", "first", "--runs", ".", "--epochs", "3"])
    assert config.resume
    assert config.epochs == 3
    assert config.ema == 0.99
    assert config.backbone == "resnet10t"


def test_a_moved_dataset_is_known_by_its_content(
    drawn: Path, trained: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from affectnet.cli import main

    runs = tmp_path / "runs"
    shutil.copytree(trained.path, runs / "first")
    moved = tmp_path / "moved"
    shutil.copytree(drawn, moved)
    settings = yaml.safe_load((runs / "first" / "config.yaml").read_text())
    settings["data"] = [str(tmp_path / "was")]
    (runs / "first" / "config.yaml").write_text(yaml.safe_dump(settings))
    resume = ["train", "--resume", "--name", "first", "--runs", str(runs)]
    assert main(resume) == 2
    assert "does not exist; if it was moved, give its new place" in capsys.readouterr().err
    assert main([*resume, "--data", str(moved)]) == 0
    assert "already has its 2 epochs" in capsys.readouterr().out
    assert yaml.safe_load((runs / "first" / "config.yaml").read_text())["data"] == [str(moved)]
    # Both files name the data; the second replaces the list of the first.
    assert main([*resume, "--config", str(runs / "first" / "config.yaml")]) == 0
    info = json.loads((moved / "dataset.json").read_text())
    (moved / "dataset.json").write_text(json.dumps(info | {"content_hash": "0" * 64}))
    assert main(resume) == 2
    assert "the content of" in capsys.readouterr().err


def test_resuming_an_unknown_run_names_those_that_exist(
    trained: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    from affectnet.cli import main

    assert main(["train", "--resume", "--name", "frist", "--runs", str(trained.path.parent)]) == 2
    error = capsys.readouterr().err
    assert "there is no run" in error
    assert "did you mean 'first'?" in error


def test_an_overwritten_run_stays_until_the_new_one_has_a_checkpoint(
    drawn: Path, trained: RunFolder, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "first")
    shutil.copytree(trained.path, run.path)
    config = small(drawn, tmp_path, name="first", overwrite=True, epochs=1)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="the loss became"):
        train(dataclasses.replace(config, lr=1e30))
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir() if "lock" not in path.name] == ["first"]
    assert train(config).path == run.path
    assert [path.name for path in tmp_path.iterdir() if "lock" not in path.name] == ["first"]
    assert len(rows_of(run)) == 1
    assert len(list(run.tensorboard.glob("events.*"))) == 1
    assert not run.start.exists()
    assert not same(dict(AffectModel.from_pretrained(run.model).state_dict()), weights_of(trained))
    resumed = train(dataclasses.replace(config, overwrite=False, resume=True, epochs=2))
    assert len(rows_of(resumed)) == 2
    # Without a run there is nothing to keep.
    assert train(dataclasses.replace(config, name="second")).last.is_file()


@pytest.mark.slow
def test_an_overwritten_run_survives_a_kill(trained: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "first")
    shutil.copytree(trained.path, run.path)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    arguments = ["--name", "first", "--runs", str(tmp_path), "--overwrite"]
    config = str(trained.config)
    command = [sys.executable, "-m", "affectnet", "train", "--config", config, *arguments]
    process = subprocess.Popen(command)
    while not list(tmp_path.glob(".first.*.tmp/first/checkpoints/start/config.json")):
        time.sleep(0.01)
        assert process.poll() is None
    process.kill()
    process.wait()
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    subprocess.run([*command, "--epochs", "1"], check=True)
    assert len(rows_of(run)) == 1
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"accelerator": "gpu"}, "gpu: PyTorch can use no such GPU here"),
        ({"accelerator": "mps"}, "mps: PyTorch can use no such GPU here"),
        ({"devices": -1}, "--devices is -1; it must be at least 1"),
        ({"backbone": "lcnet_050", "batch_size": 1}, "cannot be trained on one face at a time"),
    ],
)
def test_what_this_machine_rules_out_is_one_line(
    settings: dict[str, object], says: str, drawn: Path, tmp_path: Path
) -> None:
    if "accelerator" in settings and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ConfigError, match=says):
        train(small(drawn, tmp_path, **settings))
    assert not list(tmp_path.glob("[!.]*"))


def test_a_run_from_before_a_renamed_value_is_resumed(
    trained: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from affectnet.cli import parse

    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "runs" / "old")
    run.path.mkdir(parents=True)
    settings = yaml.safe_load(trained.config.read_text())
    settings |= {"augment": "described", "recipe": "described-cvnet", "name": "old"}
    run.config.write_text(yaml.safe_dump(settings))
    config = parse("train", ["--resume", "--name", "old"])
    assert config.augment == "notebook"
    check_same_run(config, run)
    with pytest.raises(ConfigError, match=r"augment \(was notebook, now photos\)"):
        check_same_run(dataclasses.replace(config, augment="photos"), run)


def test_the_second_of_two_trainings_of_one_run_is_refused(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("affectnet.commands.train.LOCK_WAIT", 0.1)
    code = (
        "import sys; from pathlib import Path; from affectnet.run import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "r")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "locked\n"
        for resume in (False, True):
            config = small(drawn, tmp_path, name="r", resume=resume)
            with pytest.raises(RunError, match=f"another process .process {other.pid} on "):
                train(config)
        assert not (tmp_path / "r").exists()
        other.kill()
