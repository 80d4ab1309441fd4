"""The model card of a run, in Hugging Face's form, from measured figures only."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from jinja2 import Environment, PackageLoader, StrictUndefined

from affectnet.data.store import SPLITS, DatasetInfo
from affectnet.errors import DataError, RunError
from affectnet.labels import EXPRESSIONS
from affectnet.report.card_tables import Result, measured_values, result_of
from affectnet.report.markdown import md_table, md_text
from affectnet.report.runs import METRICS_NAME, EvaluatedRun, read_run
from affectnet.report.samples import datasets_of
from affectnet.run import RunFolder, refuse_existing, write_beside

CARD_NAME: Final = "README.md"
TASKS: Final = {"expression": "Facial expression recognition"}
TOLD_SETTINGS: Final = (
    "recipe",
    "backbone",
    "pretrained",
    "weights",
    "freeze",
    "image_size",
    "epochs",
    "batch_size",
    "optimizer",
    "lr",
    "weight_decay",
    "schedule",
    "loss",
    "logit_tau",
    "class_weights",
    "label_smoothing",
    "soft_labels",
    "va_loss",
    "va_weight",
    "sampler",
    "augment",
    "dropout",
    "drop_path",
    "branches",
    "ema",
    "monitor",
    "seed",
)


def write_card(
    run_folder: Path | str,
    out: Path | None = None,
    *,
    datasets: Sequence[Path] = (),
    license: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the card of a run to `model/README.md` beside its weights; return where it is.

    Args:
        out: elsewhere.
        datasets, license: as for `model_card`.
        overwrite: replace a card that is there.

    Raises:
        RunError: the run has no model or no evaluation, or there is a card already.
    """
    path = out or RunFolder(Path(run_folder)).model / CARD_NAME
    refuse_existing(path, overwrite)
    text = model_card(run_folder, datasets=datasets, license=license)
    with write_beside(path) as new:
        new.write_text(text, encoding="utf-8")
    return path


def refresh_card(run_folder: Path | str, datasets: Sequence[Path] = ()) -> Path | None:
    """Write the card of a run that has a model and scores, over one that was written so before.

    None, and nothing is done, where there is no model, or a card that somebody wrote or changed.
    """
    folder = RunFolder(Path(run_folder))
    card = folder.model / CARD_NAME
    if not (folder.model / "config.json").is_file():
        return None
    if card.is_file() and not _ours(card.read_text(encoding="utf-8")):
        return None
    return write_card(folder.path, datasets=datasets, overwrite=True)


def model_card(
    run_folder: Path | str,
    *,
    datasets: Sequence[Path] = (),
    license: str | None = None,
    name: str | None = None,
) -> str:
    """Return the model card of a run: YAML front matter with `model-index`, then Markdown.

    Every figure is one of `evaluation/SPLIT/metrics.json`: in the front matter as it is, in tables
    to three places. What is undefined is left out, and the reason told.

    Args:
        run_folder: a run with `model/` and at least one evaluated split.
        datasets: folders of the data; what the run's files name, where not given.
        license: identifier of the weights' licence, as `cc-by-nc-4.0`; none is claimed where None.
        name: of the model; the run's where not given.

    Raises:
        RunError: the run has no model or no evaluation, or a file of it is damaged.
    """
    folder = RunFolder(Path(run_folder))
    model = _read_model_config(folder)
    splits = [s for s in ("test", "val", "train") if _scored(folder, s)]
    if not splits:
        raise RunError(
            f"the run {folder.path} is not evaluated, and a card contains only measured metrics; "
            f"run `affectnet evaluate {folder.path} --data DATASET` first"
        )
    runs = [read_run(folder.path, split) for split in splits]
    results = [result_of(run) for run in runs]
    title = name or folder.name
    infos, problem = _datasets(list(datasets) or datasets_of(runs[0]))
    body = (
        _environment()
        .get_template("card.md.j2")
        .render(
            name=title,
            what=_what(model, runs[0].config),
            version=model["affectnet_version"],
            classes=model["classes"],
            facts=model["preprocessing"],
            temperature=model.get("temperature"),
            results=results,
            datasets=[_describe(folder, info) for folder, info in infos],
            no_dataset=problem,
            training=_training(runs[0].config),
            agreement=_agreement(runs[0]),
            slices_say=_slices_say(results),
        )
    )
    front = _front_matter(title, model, runs, infos, license)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    text = f"---\n{front.strip()}\n---\n\n{body}\n"
    told = "evaluate rewrites this card until somebody edits it"
    return f"{text}\n<!-- affectnet {_sum(text)}: {told} -->\n"


def _sum(text: str) -> str:
    return f"{crc32(text.encode()):08x}"


def _ours(card: str) -> bool:
    """Whether a card stands as `model_card` wrote it."""
    text, mark, rest = card.rpartition("\n<!-- affectnet ")
    return bool(mark) and rest.startswith(_sum(text))


def _scored(folder: RunFolder, split: str) -> bool:
    return (folder.evaluation(split) / METRICS_NAME).is_file()


def _read_model_config(folder: RunFolder) -> dict[str, Any]:
    path = folder.model / "config.json"
    if not path.is_file():
        raise RunError(f"the run {folder.path} has no trained model to describe")
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        needed = known["classes"], known["preprocessing"], known["affectnet_version"]
        assert all(needed), "an empty entry"
        return dict(known)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"{path} is no config of an affectnet model ({error})") from error


def _front_matter(
    title: str,
    model: dict[str, Any],
    runs: Sequence[EvaluatedRun],
    infos: Sequence[tuple[Path, DatasetInfo]],
    license: str | None,
) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    data_name = ", ".join(folder.resolve().name for folder, _ in infos) or "unknown dataset"
    data_type = "+".join(dict.fromkeys(info.release for _, info in infos)) or "unknown"
    found = [
        EvalResult(
            task_type="image-classification" if key[0] == "expression" else "image-regression",
            task_name=TASKS.get(key[0], "Valence and arousal estimation"),
            dataset_type=data_type,
            dataset_name=data_name,
            dataset_split=run.split,
            metric_type=kind,
            metric_name=label,
            metric_value=value,
        )
        for run in runs
        for key, kind, label, value in measured_values(run.metrics)
    ]
    data = ModelCardData(
        model_name=title,
        library_name="affectnet",
        pipeline_tag="image-classification",
        tags=["facial-expression-recognition", "valence", "arousal"],
        license=license,
        base_model=_base_model(model, runs[0].config),
        metrics=list(dict.fromkeys(one.metric_type for one in found)),
        eval_results=found,
    )
    return str(data.to_yaml())


def _base_model(model: dict[str, Any], config: dict[str, Any]) -> str | None:
    """The pretrained weights that the backbone started from, where timm names them."""
    architecture = str(model.get("architecture", ""))
    known = config.get("pretrained") is True and not config.get("weights")
    return f"timm/{architecture}" if known and "." in architecture else None


def _what(model: dict[str, Any], config: dict[str, Any]) -> str:
    backbone = model.get("architecture") or model.get("backbone")
    start = ""
    if _base_model(model, config):
        start = ", started from pretrained weights"
    elif config.get("weights"):
        start = f", started from {Path(str(config['weights'])).name}"
    elif config:
        start = ", trained from random weights"
    frozen = " (backbone frozen, heads trained)" if config.get("freeze") == "backbone" else ""
    return f"`{backbone}`{start}{frozen}, with heads for expression, valence and arousal."


def _training(config: dict[str, Any]) -> list[tuple[str, str]]:
    told = []
    for key in TOLD_SETTINGS:
        value = config.get(key)
        if value is not None:
            told.append((key, Path(str(value)).name if key == "weights" else str(value)))
    return told


def _datasets(folders: Sequence[Path]) -> tuple[list[tuple[Path, DatasetInfo]], str]:
    found, problems = [], []
    for folder in folders:
        try:
            found.append((folder, DatasetInfo.read(folder)))
        except DataError:
            # The message would tell the world a path of this machine.
            problems.append(f"the dataset {folder.name} is not available")
    return found, "; ".join(problems) or "neither the run nor its metrics name a dataset"


def _describe(folder: Path, info: DatasetInfo) -> dict[str, Any]:
    splits = [s for s in SPLITS if s in info.counts]
    rows = [
        [name, *(f"{info.counts[s].get(name, 0):,}" for s in splits)]
        for name in (*EXPRESSIONS, "unlabelled")
        if any(info.counts[s].get(name) for s in splits)
    ]
    rows.append(["all", *(f"{sum(info.counts[s].values()):,}" for s in splits)])
    return {
        "name": folder.resolve().name,
        "release": info.release,
        "sources": [Path(source).name for source in info.source],
        "hash": info.content_hash,
        "columns": ["expression", *splits],
        "rows": rows,
        "dropped": ", ".join(f"{n:,} ({reason})" for reason, n in info.dropped.items()),
    }


def _agreement(run: EvaluatedRun) -> str:
    """How often two annotators agree, as the scores carry it, with its source."""
    known = run.metrics.get("baselines")
    for name, block in known.items() if isinstance(known, dict) else ():
        if "annotators" in name and isinstance(block, dict):
            value = block["expression"]["accuracy"]["value"]
            return f": {name} agree on {100 * value:.1f}% of faces ({block['source']})"
    return ""


def _slices_say(results: Sequence[Result]) -> str:
    columns = list(dict.fromkeys(name for result in results for name in result.slices))
    if not columns:
        return "was not measured"
    return (
        f"was measured only by these columns: {', '.join(columns)}; anything else was not measured"
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("affectnet.report"),
        autoescape=False,  # Markdown; `md` makes names harmless
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = md_text
    environment.filters["table"] = md_table
    return environment
