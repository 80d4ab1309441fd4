"""`affectnet evaluate`: score and compare runs, saved models, or predictions in files."""

import json
import shutil
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from rich.console import Console

from affectnet.config import EvaluateConfig, settings_of
from affectnet.data.audit.counts import published_test_part
from affectnet.data.store import (
    IMAGE_COLUMNS,
    SCHEMA,
    SPLITS,
    DatasetInfo,
    Split,
    image_columns,
    open_split,
)
from affectnet.errors import (
    ConfigError,
    DataError,
    Faults,
    RunError,
    installed,
    need_train,
    suggest_path,
)
from affectnet.evaluation.calibration import ensemble
from affectnet.evaluation.columns import parse_columns
from affectnet.evaluation.comparison import compare
from affectnet.evaluation.prediction_files import (
    predictions_of,
    read_predictions,
    read_table,
    read_truth,
    truth_of,
    with_notes,
    write_predictions,
)
from affectnet.evaluation.predictions import Predictions, Truth, join, joined_table
from affectnet.evaluation.scores import Scores
from affectnet.evaluation.scores import evaluate as score
from affectnet.evaluation.terminal import WIDTH, comparison_table, tables
from affectnet.models.model_config import local_path
from affectnet.run import (
    RunFolder,
    locked,
    refuse_existing,
    remove_leftovers,
    write_beside,
)

PREDICTIONS_NAME = "predictions.parquet"
METRICS_NAME = "metrics.json"
COMPARISON_NAME = "comparison.json"
CARD_NAME = "README.md"
DUPLICATES = "duplicates"
"""Slices of the faces with and without a duplicate in an earlier split, where there are any."""
_SCORE_SETTINGS = ("resamples", "seed", "stratified", "zero_rule", "without_contempt")
_TRUTH_COLUMNS = ("id", "expression", "valence", "arousal")


@dataclass(frozen=True)
class PredictionSet:
    """One set of predictions to score.

    Attributes:
        name: its name in tables.
        truth, preds: what to compare.
        folder: where the scores are written, None for nowhere.
        table: new predictions that belong there; None where it has them.
    """

    name: str
    truth: Truth
    preds: Predictions
    folder: Path | None
    table: pa.Table | None = None


def evaluate(config: EvaluateConfig) -> list[Scores]:
    """Score each run, model or file, print the tables, write them, and compare when several.

    Returns:
        The scores, in the order given; with `ensemble`, those of the mean last.

    Raises:
        ConfigError: settings that do not go together.
        DataError: predictions or truth cannot be scored; the message states why.
        RunError: a run has no predictions and no --data was given, or has scores already and
            --overwrite was not given.
    """
    given = _check(config)
    config = _with_classes_of_data(config)
    leads = _leads(config)
    with ExitStack() as stack:
        for path in _places(given, config) if leads else ():
            stack.enter_context(locked(path))
        return _evaluate(given, config, leads)


def _leads(config: EvaluateConfig) -> bool:
    """Whether this is the process, of several, that writes."""
    if config.devices == config.nodes == 1:
        return True
    need_train("evaluating in several processes")
    from affectnet.training.distributed import rank

    return rank() == 0


def _places(given: Sequence[Path], config: EvaluateConfig) -> list[Path]:
    """The files and folders that are written; leftovers in the runs and models are removed."""
    folders = [path for path in given if path.is_dir()]
    for path in folders:
        remove_leftovers(path.parent)
        remove_leftovers(path, deep=True)
    if config.out is not None:
        return [config.out]
    return [path / "evaluation" for path in folders if not (path / "config.json").is_file()]


def _evaluate(given: Sequence[Path], config: EvaluateConfig, leads: bool) -> list[Scores]:
    console = Console(width=max(WIDTH, Console().width))
    sets = [_prediction_set(path, config) for path in given]
    if not leads:
        return []  # the first process scores the predictions of all
    if config.ensemble:
        sets.append(_ensemble(sets, config))
    settings = settings_of(config, *_SCORE_SETTINGS)
    test_part = _published_test_part(config)
    found = []
    for one in sets:
        slices = [*config.slices, *([DUPLICATES] if DUPLICATES in one.truth.extra else [])]
        scores = score(
            one.truth,
            one.preds,
            interval=config.interval,
            slices=slices,
            test_part_of=test_part,
            **settings,
        )
        console.print(f"\n[bold]{one.name}[/bold]", *tables(scores.metrics), sep="\n")
        where = _write(one, scores, config)
        if where:
            console.print(f"scores: {where}", soft_wrap=True)
        if where and one.folder and config.figures:
            _save_figures(one.folder, config)
        if where and one.folder and config.card:
            _write_card(one.folder, config)
        found.append(scores)
    first, *others = sets
    compared = []
    for other in others:
        names = (first.name, other.name if other.name != first.name else f"{other.name} (2)")
        compared.append(compare(first.truth, first.preds, other.preds, names=names, **settings))
        console.print(comparison_table(compared[-1].metrics))
    if compared and (out := _out_folder(config)):
        with write_beside(out / COMPARISON_NAME) as new:
            new.write_text(json.dumps([one.metrics for one in compared], indent=2) + "\n")
    return found


def _published_test_part(config: EvaluateConfig) -> str:
    """The dataset whose published test part is scored, or "" for all other faces."""
    folder = config.truth or config.data
    if folder is None or not folder.is_dir():
        return ""
    info = DatasetInfo.read(folder)
    return published_test_part(info.release, info.counts.get(config.split, {}))


def _ensemble(sets: Sequence[PredictionSet], config: EvaluateConfig) -> PredictionSet:
    """The mean of several predictions, with seven classes where any of them has seven."""
    preds = [one.preds for one in sets]
    if config.without_contempt or any(one.of_seven for one in preds):
        preds = [one.to_seven() for one in preds]
    folder = config.out and RunFolder(config.out / "ensemble").evaluation(config.split)
    return PredictionSet("ensemble", sets[0].truth, ensemble(preds), folder)


def _with_classes_of_data(config: EvaluateConfig) -> EvaluateConfig:
    """The config, with seven classes where the truth was ingested without contempt."""
    truth = config.truth or config.data
    seven = config.without_contempt or bool(
        truth and truth.is_dir() and DatasetInfo.read(truth).without_contempt
    )
    return replace(config, without_contempt=seven)


def _save_figures(folder: Path, config: EvaluateConfig) -> None:
    """Save all figures of the evaluation in its folder figures/."""
    from affectnet.report import save_run_figures

    datasets = [path for path in (config.data, config.truth) if path and path.is_dir()]
    save_run_figures(folder.parents[1], config.split, datasets, dpi=150, explain=config.explain)


def _write_card(folder: Path, config: EvaluateConfig) -> None:
    """Update the model card of the run, unless the user wrote one."""
    if not installed("huggingface_hub"):
        print("model card: not written; it needs `pip install 'affectnet[train]'`")
        return
    from affectnet.report.card import refresh_card

    card = refresh_card(folder.parents[1], [config.data] if config.data else [])
    if card:
        print(f"model card: {card}")


def _check(config: EvaluateConfig) -> list[Path]:
    """The paths to score, after checking the settings."""
    if bool(config.runs) == (config.predictions is not None):
        raise ConfigError(
            "give one or several runs (`affectnet evaluate RUN... --data DIR`), or "
            "--predictions FILE --truth DIR"
        )
    given = [config.predictions] if config.predictions else [*map(local_path, config.runs)]
    if config.calibrate and any(local_path(path) != path for path in config.runs):
        raise ConfigError(
            "--calibrate stores its temperature in the model, and the model of the package is not "
            "changed; it is calibrated already: omit --calibrate, or calibrate a copy of its folder"
        )
    places = [path.resolve() for path in given]
    if len(set(places)) < len(places):
        raise ConfigError("the same run is given twice; give each once")
    if config.ensemble and len(given) < 2:
        raise ConfigError("--ensemble takes the mean of several runs; give two or more")
    if config.calibrate and config.data is None:
        raise ConfigError("--calibrate fits on the val split of --data; give --data DIR")
    if config.prior and (config.data is None or any(path.is_file() for path in given)):
        raise ConfigError(
            "--prior corrects the predictions of models, which know the class fractions of their "
            "training; give models and --data DIR, not files of predictions"
        )
    if config.out and len({_name(path) for path in given}) < len(given):
        raise ConfigError("two of these have the same name; score them separately, or rename one")
    if config.out and _out_folder(config) is None and len(given) > 1:
        raise ConfigError(f"--out {config.out} is one file; give a folder for several scores")
    if config.out:
        for path in given:
            folder = _evaluation_folder(path, config)
            refuse_existing(folder / METRICS_NAME if folder else config.out, config.overwrite)
    return given


def _name(path: Path) -> str:
    """The name of a run folder, or of a file without its suffix."""
    return path.stem if path.is_file() else path.resolve().name


def _out_folder(config: EvaluateConfig) -> Path | None:
    """The folder --out; None where it is a .json file or not given."""
    return None if config.out is None or config.out.suffix == ".json" else config.out


def _evaluation_folder(path: Path, config: EvaluateConfig) -> Path | None:
    """The folder of the evaluation of `path` in the folder --out, if that is given."""
    out = _out_folder(config)
    if out and len(config.runs) > 1:
        out /= _name(path)
    return out and RunFolder(out).evaluation(config.split)


def _prediction_set(path: Path, config: EvaluateConfig) -> PredictionSet:
    folder = _evaluation_folder(path, config)
    if path.is_file() or config.predictions:
        faults, alone = Faults(), config.truth is None and config.data is None
        with faults.caught():
            preds = read_predictions(
                path, config.columns, config.classes, config.out_of_range, with_truth=alone
            )
        with faults.caught():
            truth = _truth(path, config)
        if faults and alone:
            faults.append("if the truth is not in this file, give --truth DIR (a dataset) or FILE")
        faults.raise_all(DataError)
        return PredictionSet(path.stem, truth, preds.with_ids_of(truth), folder)
    if not path.is_dir():
        raise RunError(f"there is neither a run folder nor a file {path}")
    saved = (path / "config.json").is_file()
    run = RunFolder(path)
    name = path.resolve().parent.name if saved and path.name == "model" else run.name
    if saved and folder is None:
        return _set_of_saved_model(path, name, config)
    folder = folder or run.evaluation(config.split)
    file = folder / PREDICTIONS_NAME
    model = path if saved else run.model
    new = _new_predictions(model, path, file, config)
    table = read_table(file) if new is None else new
    preds = predictions_of(table, source=name)
    truth = truth_of(table, source=str(file)) if config.data is None else _truth(file, config)
    return PredictionSet(name, truth, preds, folder, new)


def _set_of_saved_model(model: Path, name: str, config: EvaluateConfig) -> PredictionSet:
    """The predictions of a saved model, which is not a run folder and stores no scores."""
    if config.devices > 1 or config.nodes > 1:
        raise ConfigError(
            f"{model} is a saved model, which stores no scores, and several processes share a "
            "folder; give one with --out DIR"
        )
    if config.data is None:
        raise _no_predictions(model, config)
    preds = predictions_of(predict_run(model, config.data, config), source=name)
    if config.out is None:
        print(f"{name} is a saved model: its scores are printed only; --out DIR stores them")
    return PredictionSet(name, _truth(model, config), preds, None)


def _new_predictions(
    model: Path, path: Path, file: Path, config: EvaluateConfig
) -> pa.Table | None:
    """Predictions of the model at `path`; None if those in `file` are to be scored.

    They are stored at once, unless there are scores of earlier ones: `_write` replaces both.
    """
    if file.is_file() and len(config.runs) == 1 and not config.overwrite:
        raise RunError(
            f"{path} is already evaluated on {config.split} ({file}); add --overwrite to repeat it "
            "(without --data: to score the same predictions again)"
        )
    if (config.calibrate or config.prior) and file.is_file() and not config.overwrite:
        flag = "--calibrate" if config.calibrate else "--prior"
        raise RunError(f"{file} exists, from before {flag}; add --overwrite to predict again")
    if config.data is not None and (config.overwrite or not file.is_file()):
        table = predict_run(model, config.data, config)
        if _leads(config) and not file.with_name(METRICS_NAME).exists():
            write_predictions(table, file)
        return table
    if not file.is_file():
        raise _no_predictions(path, config)
    return None


def _no_predictions(path: Path, config: EvaluateConfig) -> RunError:
    return RunError(
        f"{path} has no predictions of split {config.split}; give --data DIR, the dataset to "
        "predict"
    )


def _trained_on_val(run: RunFolder) -> bool:
    """Whether this is the run of a `--refit`."""
    if not run.config.is_file():
        return False
    settings = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    return isinstance(settings, dict) and settings.get("refit") is not None


def predict_run(model: Path, data: Path, config: EvaluateConfig) -> pa.Table:
    """Run the saved `model` over a split of the dataset `data`; return predictions.parquet's table.

    With `config.calibrate` a temperature is first fitted on the val split and stored in the model;
    `config.prior` changes only the predictions.
    """
    need_train(f"predicting {data}")
    if _trained_on_val(RunFolder(model.parent)):
        if config.calibrate:
            raise ConfigError(
                f"--calibrate fits on the val split, and {model.parent} was trained on it too "
                "(--refit), so the temperature would be too low; leave it out"
            )
        if config.split == "val":
            print(f"note: {model.parent} was trained on the val split too (--refit)")
    from affectnet.models.affect_model import AffectModel
    from affectnet.training.checkpoints import export_best
    from affectnet.training.distributed import rank, wait_for_all
    from affectnet.training.prediction import calibrate, predict_split

    if model.name == "model" and rank() == 0:
        export_best(RunFolder(model.parent))
    loaded = AffectModel.from_pretrained(model)
    settings = settings_of(
        config, "batch_size", "workers", "accelerator", "devices", "nodes", "strategy", "flip"
    )
    fit = None
    priors = settings_of(config, "prior", "prior_tau")
    if config.calibrate:
        fit = calibrate(loaded, data, scored=config.split, **priors, **settings)
    if fit is not None and rank() == 0:
        with write_beside(model) as new:
            loaded.save_pretrained(new)
            if (model / CARD_NAME).is_file():
                # The folder of the model is replaced; a card that the user wrote must stay.
                shutil.copy2(model / CARD_NAME, new)
        print(
            f"temperature {fit.temperature:.3f}, fitted on val with the class fractions of "
            f"{config.split}, stored in {model}; calibration error (ECE) on these faces "
            f"{fit.ece_before:.3f}, now {fit.ece_after:.3f}"
        )
    table = predict_split(loaded, data, config.split, **priors, **settings)
    wait_for_all()
    return with_notes(table, _prior_name(config))


def _prior_name(config: EvaluateConfig) -> str | None:
    """The correction of the class fractions, as notes name it."""
    strength = "" if config.prior_tau == 1 else f" (tau {config.prior_tau:g})"
    return config.prior and config.prior + strength


def _truth(path: Path, config: EvaluateConfig) -> Truth:
    """The truth for the predictions in the file `path`."""
    source = config.truth or config.data
    if source is None:
        return _own_truth(path, config)
    if not source.exists():
        raise DataError(f"there is no dataset folder or file {source}{suggest_path(source)}")
    if source.is_dir():
        return _truth_of_split(open_split(source, config.split), config.slices)
    aliases = parse_columns(config.columns)
    known = {name: theirs for name, theirs in aliases.items() if name in _TRUTH_COLUMNS}
    return read_truth(source, [f"{n}={theirs}" for n, theirs in known.items()], config.classes)


def _own_truth(path: Path, config: EvaluateConfig) -> Truth:
    """The truth in the same file as the predictions."""
    aliases = parse_columns(config.columns)
    for name in _TRUTH_COLUMNS[1:]:
        if aliases.get(f"{name}_pred") == aliases.get(name, name):
            raise DataError(
                f"{path.name}: the column {aliases[f'{name}_pred']!r} is given as the prediction "
                "and is no truth; give --truth DIR (a dataset) or --truth FILE"
            )
    return read_truth(path, config.columns, config.classes, with_predictions=True)


def _truth_of_split(split: Split, slices: Sequence[str]) -> Truth:
    computed = [name for name in slices if name in IMAGE_COLUMNS and name not in split.schema.names]
    added = [name for name in split.schema.names if name not in SCHEMA.names]
    extra = {name: split.column(name).to_numpy() for name in added}
    earlier = SPLITS[: SPLITS.index(split.path.stem)]
    copied = split.copied_in(earlier)
    if copied is not None and copied.any():
        where = " or ".join(earlier)
        extra[DUPLICATES] = np.where(copied, f"also in {where}", f"not in {where}").astype(object)
    return Truth(
        ids=split.ids,
        expression=split.expression.astype(np.int64),
        valence=split.valence.astype(np.float64),
        arousal=split.arousal.astype(np.float64),
        extra=extra | image_columns(split, computed),
        source=f"{split.path.parent.name}/{split.path.stem}",
    )


def _write(one: PredictionSet, scores: Scores, config: EvaluateConfig) -> Path | None:
    """Write metrics.json, and predictions.parquet if missing; return the path, if any."""
    if config.out and _out_folder(config) is None:
        scores.write(config.out)
        return config.out
    if one.folder is None:
        return None
    path = one.folder / METRICS_NAME
    if path.exists() and not config.overwrite:
        return None
    if config.data is not None:
        # Galleries need the location of the faces, and reports may be made from another folder.
        scores.metrics["protocol"]["data"] = str(config.data.resolve())
    table = one.table
    if config.predictions or (table is None and not (one.folder / PREDICTIONS_NAME).is_file()):
        table = with_notes(joined_table(join(one.truth, one.preds)), one.preds.prior)
    # Predictions and scores change together, and figures of earlier ones do not stay beside them.
    replaced = {METRICS_NAME, "figures", *([PREDICTIONS_NAME] if table is not None else [])}
    kept = _names(one.folder) - replaced
    with write_beside(one.folder, check=lambda old: _refuse_others(old, kept | replaced)) as new:
        new.mkdir()
        for name in kept:
            copy = shutil.copytree if (one.folder / name).is_dir() else shutil.copy2
            copy(one.folder / name, new / name)
        if table is not None:
            write_predictions(table, new / PREDICTIONS_NAME)
        scores.write(new / METRICS_NAME)
    return path


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _refuse_others(folder: Path, known: Collection[str]) -> None:
    """Refuse to replace a folder with files that were put there in the meantime."""
    others = sorted(_names(folder) - set(known))
    if others:
        raise RunError(
            f"{folder.name} contains new files ({', '.join(others[:3])}), put there during the "
            "evaluation; nothing was replaced: repeat the command"
        )
