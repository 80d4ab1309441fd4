"""The model card of a run in the format of Hugging Face, from measured metrics only."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from affectnet.data.store import SPLITS, DatasetInfo
from affectnet.errors import DataError, RunError
from affectnet.evaluation.slices import FEW, classes_with_few_faces
from affectnet.labels import EXPRESSIONS
from affectnet.models.model_config import read_config, untrained_note
from affectnet.report.html import template
from affectnet.report.runs import (
    METRICS_NAME,
    EvaluatedRun,
    baselines_of,
    mapping_of,
    metric_of,
    read_run,
    reason_of,
)
from affectnet.report.samples import datasets_of
from affectnet.report.summary import card_findings, interval_level, protocol_sentences, trained_on
from affectnet.report.tables import CATEGORICAL, NAMED_CONTINUOUS, Keys, Table, text_table
from affectnet.run import RunFolder, refuse_existing, write_beside

CARD_NAME: Final = "README.md"
AFFECT: Final = ("valence", "arousal")
TASKS: Final = {"expression": "Facial expression recognition"}
CARD_SETTINGS: Final = """
max_per_class leaks without_contempt recipe backbone pretrained weights freeze image_size epochs
probe_epochs head_epochs batch_size optimizer lr layer_decay backbone_lr weight_decay sam schedule
loss logit_tau class_weights label_smoothing soft_labels va_loss va_weight sampler augment mixup
cutmix dropout drop_path branches ema teacher monitor early_stop refit schedule_epochs seed
""".split()  # noqa: SIM905

# Names of metrics on the hub, where they differ from ours.
HUB_NAMES: Final = {
    "f1_macro": "f1",
    "auc_roc_macro": "roc_auc",
    "auc_pr_macro": "average_precision",
    "corr": "pearsonr",
}
EXPRESSION_METRICS: Final = CATEGORICAL | {("expression", "ece"): "Calibration error (ECE)"}
CARD_METRICS: Final = EXPRESSION_METRICS | NAMED_CONTINUOUS
CLASS_METRICS: Final = {
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "auc_roc": "AUC",
    "auc_pr": "AUC-PR",
}
SLICE_METRICS: Final = {
    keys: label
    for keys, label in (CATEGORICAL | NAMED_CONTINUOUS).items()
    if keys[-1] in ("accuracy", "f1_macro", "rmse", "ccc")
}


def write_card(
    run_folder: Path | str,
    out: Path | str | None = None,
    *,
    datasets: Sequence[Path | str] = (),
    license: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the card of a run to `model/README.md` next to its weights; return its path.

    Args:
        out: another path.
        datasets, license: as for `model_card`.
        overwrite: replace an existing card.

    Raises:
        RunError: the run has no model or no evaluation, or the card exists.
    """
    path = Path(out) if out else RunFolder(Path(run_folder)).model / CARD_NAME
    refuse_existing(path, overwrite)
    text = model_card(run_folder, datasets=datasets, license=license)
    with write_beside(path, overwrite) as new:
        new.write_text(text, encoding="utf-8")
    return path


def refresh_card(run_folder: Path | str, datasets: Sequence[Path | str] = ()) -> Path | None:
    """Write the card of an evaluated run with a model, or replace the one written earlier.

    Returns None and does nothing if there is no model, or if the card was edited or handwritten.
    """
    folder = RunFolder(Path(run_folder))
    card = folder.model / CARD_NAME
    if not (folder.model / "config.json").is_file():
        return None
    if card.is_file() and not _is_unchanged(card.read_text(encoding="utf-8")):
        return None
    return write_card(folder.path, datasets=datasets, overwrite=True)


def model_card(
    run_folder: Path | str,
    *,
    datasets: Sequence[Path | str] = (),
    license: str | None = None,
    name: str | None = None,
) -> str:
    """Return the model card of a run: YAML front matter with `model-index`, then Markdown.

    Every number comes from `evaluation/SPLIT/metrics.json`: unrounded in the front matter, with
    three digits in tables. Undefined metrics are left out and listed with the reason.

    Args:
        run_folder: a run with `model/` and at least one evaluated split.
        datasets: folders of the data; those named in the run's files if not given.
        license: identifier of the licence of the weights, such as `cc-by-nc-4.0`; none if None.
        name: name of the model; that of the run if None.

    Raises:
        RunError: the run has no model or no evaluation, or one of its files is damaged.
    """
    folder = RunFolder(Path(run_folder))
    model = _read_model_config(folder)
    splits = [
        split
        for split in ("test", "val", "train")
        if (folder.evaluation(split) / METRICS_NAME).is_file()
    ]
    if not splits:
        raise RunError(
            f"the run {folder.path} is not evaluated, and a card contains only measured metrics; "
            f"run `affectnet evaluate {folder.path} --data DATASET` first"
        )
    runs = [read_run(folder.path, split) for split in splits]
    results = [_result(run) for run in runs]
    title = name or folder.name
    infos, problem = _datasets(list(datasets) or datasets_of(runs[0]))
    body = template("card.md.j2").render(
        name=title,
        description=_description(model, runs[0].config),
        version=model["affectnet_version"],
        classes=model["classes"],
        targets=model["targets"],
        untrained=untrained_note(model["targets"]),
        preprocessing=model["preprocessing"],
        temperature=model.get("temperature"),
        results=results,
        datasets=[_describe(folder, info) for folder, info in infos],
        no_dataset=problem,
        trained_on=trained_on(runs[0]),
        training=_training(runs[0].config),
        agreement=_agreement(runs[0]),
        slices=_slices_sentence(results),
    )
    front = _front_matter(title, model, runs, infos, license)
    body = re.sub(r"\n{3,}", "\n\n", body).strip()
    text = f"---\n{front.strip()}\n---\n\n{body}\n"
    note = "evaluate rewrites this card until somebody edits it"
    return f"{text}\n<!-- affectnet {_checksum(text)}: {note} -->\n"


def _checksum(text: str) -> str:
    return f"{crc32(text.encode()):08x}"


def _is_unchanged(card: str) -> bool:
    """Whether a card is as `model_card` wrote it."""
    text, mark, rest = card.rpartition("\n<!-- affectnet ")
    return bool(mark) and rest.startswith(_checksum(text))


def _read_model_config(folder: RunFolder) -> dict[str, Any]:
    path = folder.model / "config.json"
    if not path.is_file():
        raise RunError(f"the run {folder.path} has no trained model to describe")
    return read_config(path).to_dict()


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
            task_type="image-classification" if keys[0] == "expression" else "image-regression",
            task_name=TASKS.get(keys[0], "Valence and arousal estimation"),
            dataset_type=data_type,
            dataset_name=data_name,
            dataset_split=run.split,
            metric_type=HUB_NAMES.get(keys[-1], keys[-1]),
            metric_name=label,
            metric_value=value,
        )
        for run in runs
        for keys, label in CARD_METRICS.items()
        if (value := metric_of(run.metrics, *keys)[0]) is not None
    ]
    data = ModelCardData(
        model_name=title,
        library_name="affectnet",
        pipeline_tag="image-classification",
        tags=["facial-expression-recognition", *(t for t in model["targets"] if t in AFFECT)],
        license=license,
        base_model=_base_model(model, runs[0].config),
        metrics=list(dict.fromkeys(one.metric_type for one in found)),
        eval_results=found,
    )
    return str(data.to_yaml())


def _base_model(model: dict[str, Any], config: dict[str, Any]) -> str | None:
    """The pretrained weights at the start of training, if timm has a name for them."""
    architecture = str(model.get("architecture", ""))
    known = config.get("pretrained") is True and not config.get("weights")
    return f"timm/{architecture}" if known and "." in architecture else None


def _description(model: dict[str, Any], config: dict[str, Any]) -> str:
    backbone = model.get("architecture") or model.get("backbone")
    start = ""
    if _base_model(model, config):
        start = ", started from pretrained weights"
    elif config.get("weights"):
        start = f", started from {_known_as(config['weights'])}"
    elif config:
        start = ", trained from random weights"
    frozen = " (backbone frozen, heads trained)" if config.get("freeze") == "backbone" else ""
    text = f"`{backbone}`{start}{frozen}, trained on {' and '.join(model['targets'])}."
    if config.get("refit"):
        text += (
            " The training and validation faces were trained on together, for the epochs that an "
            f"earlier run, {_known_as(config['refit'])}, had chosen on the validation faces; "
            "metrics of the validation split are of faces seen in training."
        )
    return text


def _training(config: dict[str, Any]) -> Table:
    known = {key: config[key] for key in CARD_SETTINGS if config.get(key) not in (None, [], ())}
    for name in {"weights", "refit"} & known.keys():
        known[name] = _known_as(known[name])
    if "teacher" in known:
        known["teacher"] = ", ".join(map(_known_as, known["teacher"]))
    return text_table("", ("setting", "value"), known.items())


def _known_as(path: object) -> str:
    """The name of a file or a run; a card does not publish the folders of this machine."""
    given = Path(str(path))
    return given.parent.name if given.name == "model" and given.parent.name else given.name


def _datasets(folders: Sequence[Path | str]) -> tuple[list[tuple[Path, DatasetInfo]], str]:
    found, problems = [], []
    for folder in map(Path, folders):
        try:
            found.append((folder, DatasetInfo.read(folder)))
        except DataError:
            # The error message would publish a path of this machine.
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
        "table": text_table("", ["expression", *splits], rows),
        "dropped": ", ".join(f"{n:,} ({reason})" for reason, n in info.dropped.items()),
    }


def _agreement(run: EvaluatedRun) -> str:
    """How often two annotators agree, with its source."""
    for name, block in baselines_of(run.metrics):
        if "annotators" in name:
            value = block["expression"]["accuracy"]["value"]
            return f": {name} gave {100 * value:.1f}% of images the same label ({block['source']})"
    return ""


def _slices_sentence(results: Sequence[dict[str, Any]]) -> str:
    names = [name for result in results for name in result["slices"] if name != "duplicates"]
    columns = ", ".join(dict.fromkeys(names))
    measured = f"was measured only by these columns: {columns}; anything else was not measured"
    return measured if columns else "was not measured"


def _result(run: EvaluatedRun) -> dict[str, Any]:
    metrics = run.metrics
    tables = [
        _baseline_table("Expression", metrics, EXPRESSION_METRICS),
        _baseline_table("Valence and arousal", metrics, NAMED_CONTINUOUS),
        _class_table(metrics),
        *_slice_tables(metrics),
    ]
    classes = mapping_of(mapping_of(metrics, "expression"), "per_class")
    wanted = CARD_METRICS | {
        ("expression", "per_class", name, metric): f"{label} of {name}"
        for name in classes
        for metric, label in CLASS_METRICS.items()
    }
    return {
        "split": run.split,
        "n": int(metrics.get("n") or len(run.predictions)),
        "findings": card_findings(metrics),
        "tables": [table for table in tables if table.rows],
        "undefined": [
            (label, reason_of(metrics, *keys) or "not scored")
            for keys, label in wanted.items()
            if metric_of(metrics, *keys)[0] is None
        ],
        "notes": [str(note) for note in mapping_of(metrics, "protocol").get("notes") or ()],
        "protocol": protocol_sentences(metrics),
        "slices": list(mapping_of(metrics, "slices")),
    }


def _baseline_table(title: str, metrics: dict[str, Any], wanted: Mapping[Keys, str]) -> Table:
    rows = [keys for keys in wanted if metric_of(metrics, *keys)[0] is not None]
    others = [
        (name, block)
        for name, block in baselines_of(metrics)
        if any(metric_of(block, *keys)[0] is not None for keys in rows)
    ]
    return text_table(
        title,
        ["Metric", "Value", f"{interval_level(metrics)} interval", *(name for name, _ in others)],
        [
            [
                wanted[keys],
                *_value_and_interval(metrics, keys),
                *(_value_and_interval(block, keys)[0] for _, block in others),
            ]
            for keys in rows
        ],
    )


def _class_table(metrics: dict[str, Any]) -> Table:
    rows = []
    few = classes_with_few_faces(mapping_of(metrics, "expression"))
    for name in EXPRESSIONS:
        known = [("expression", "per_class", name, metric) for metric in CLASS_METRICS]
        texts = [_value_and_interval(metrics, keys)[0] for keys in known]
        if any(texts):
            n = metric_of(metrics, "expression", "per_class", name, "n")[0]
            faces = "" if n is None else f"{int(n):,}" + " *" * (name in few)
            rows.append([name, faces, *texts])
    title = "By expression" + f" ({FEW})" * bool(few)
    return text_table(title, ["Expression", "Faces", *CLASS_METRICS.values()], rows)


def _slice_tables(metrics: dict[str, Any]) -> Iterator[Table]:
    for column, found in mapping_of(metrics, "slices").items():
        blocks = found["slices"]
        wanted = {
            keys: label
            for keys, label in SLICE_METRICS.items()
            if any(metric_of(block, *keys)[0] is not None for block in blocks)
        }
        rows = []
        for block in blocks:
            pairs = [_value_and_interval(block, keys) for keys in wanted]
            texts = [f"{value} ({interval})" if interval else value for value, interval in pairs]
            rows.append([block["slice"], f"{block['n']:,}", *texts])
        yield text_table(f"By {column}", [column, "Faces", *wanted.values()], rows)


def _value_and_interval(metrics: dict[str, Any], keys: Keys) -> tuple[str, str]:
    """Both to three digits; empty where they are missing."""
    value, low, high = metric_of(metrics, *keys)
    interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return "" if value is None else f"{value:.3f}", interval
