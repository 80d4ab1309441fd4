"""What a report over evaluated runs holds, whatever it is written as: a page, a PDF or Markdown."""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from affectnet import figures
from affectnet.data.store import DatasetInfo
from affectnet.errors import AffectNetError, DataError
from affectnet.report import summary as words
from affectnet.report import tables
from affectnet.report.audit_summary import AuditSummary, audit_summary
from affectnet.report.model_figures import FOLDER as KEPT
from affectnet.report.model_figures import explaining_drawings
from affectnet.report.run_figures import (
    Drawing,
    history_drawing,
    run_drawings,
    sample_drawing,
    truth_drawing,
)
from affectnet.report.runs import EvaluatedRun, figure_of
from affectnet.report.samples import FaceSource, datasets_of
from affectnet.version import __version__

MOST_DRAWN_RUNS = 8
"""Runs beyond these are in the tables and curves only, or the figures would fill the report."""
PACKAGES = ("numpy", "pyarrow", "matplotlib", "torch", "timm", "lightning")


@dataclass(frozen=True)
class Tile:
    """One of the figures that people look for first."""

    label: str
    value: str
    interval: str
    guess: str | None
    run: str


@dataclass(frozen=True)
class Setting:
    """A training setting, one value a run; `differs` where the runs do not agree."""

    name: str
    values: list[str]
    differs: bool


@dataclass(frozen=True)
class RunPart:
    """One drawn run: its faces' pictures and its figures, those without data among them."""

    run: EvaluatedRun
    source: FaceSource
    drawings: list[Drawing]


@dataclass(frozen=True)
class Contents:
    """All of a report but its form; nothing is drawn yet."""

    title: str
    split: str
    runs: Sequence[EvaluatedRun]
    drawn: list[RunPart]
    tiles: list[Tile]
    summary: list[str]
    categorical: tables.Table
    continuous: tables.Table
    per_class: tables.Table
    published: list[dict[str, Any]]
    history: Drawing
    data: list[Drawing]
    infos: list[DatasetInfo]
    audits: list[AuditSummary]
    settings: list[Setting]
    protocols: list[dict[str, Any]]
    versions: dict[str, str]

    @property
    def undrawn(self) -> list[str]:
        """Names of the runs whose figures are left out."""
        return [run.name for run in self.runs[len(self.drawn) :]]


def gather(
    runs: Sequence[EvaluatedRun], datasets: Sequence[Path] = (), explain: bool = True
) -> Contents:
    """Put together what a report over these runs of one split says.

    Args:
        runs: at least one.
        datasets: where the images are; what the runs' files name, where not given.
        explain: with the figures that need the trained model (Grad-CAM, map of features).
    """
    sources = _sources(runs, datasets)
    drawn = []
    for run, source in zip(runs[:MOST_DRAWN_RUNS], sources, strict=False):
        own = run_drawings(run)
        if explain:
            own += explaining_drawings(run, source.datasets)
        drawn.append(RunPart(run, source, own))
    folders = list(dict.fromkeys(folder for source in sources for folder in source.datasets))
    infos = _infos(folders)
    keep = runs[0].folder.evaluation(runs[0].split) / KEPT
    data = [truth_drawing(runs[0]), sample_drawing(runs[0], sources[0])]
    if infos:
        data.insert(0, _distribution(infos[0]))
    return Contents(
        title=_title(runs),
        split=runs[0].split,
        runs=runs,
        drawn=drawn,
        tiles=_tiles(runs),
        summary=words.summary(runs),
        categorical=tables.categorical_table(runs),
        continuous=tables.continuous_table(runs),
        per_class=tables.per_class_table(runs),
        published=tables.published_figures(runs),
        history=history_drawing(runs),
        data=data,
        infos=infos,
        audits=[one for folder in folders if (one := audit_summary(folder, keep)) is not None],
        settings=_settings(runs),
        protocols=_protocols(runs),
        versions=_versions(),
    )


def draw_or_say(drawing: Drawing) -> tuple[Any, str]:
    """The drawn figure and "", or None and why there is none, in a line."""
    if drawing.missing:
        return None, f"{drawing.title}: {drawing.missing}"
    try:
        return drawing.draw(), ""
    except AffectNetError as error:
        # One figure that cannot be drawn must not cost the others.
        return None, f"{drawing.title}: {error}"


def _sources(runs: Sequence[EvaluatedRun], datasets: Sequence[Path]) -> list[FaceSource]:
    """A source of images a run; runs on the same dataset share one."""
    known: dict[tuple[Path, ...], FaceSource] = {}
    sources = []
    for run in runs:
        folders = tuple(datasets or datasets_of(run))
        if folders not in known:
            known[folders] = FaceSource(folders, run.split)
        sources.append(known[folders])
    return sources


def _infos(folders: Sequence[Path]) -> list[DatasetInfo]:
    infos: list[DatasetInfo] = []
    for folder in folders:
        try:
            info = DatasetInfo.read(folder)
        except DataError:
            continue  # the images are there; only what dataset.json would add is not
        if info not in infos:
            infos.append(info)
    return infos


def _distribution(info: DatasetInfo) -> Drawing:
    counts = {
        split: [int(own.get(name, 0)) for name in info.classes]
        for split, own in info.counts.items()
    }
    said = "; ".join(f"{split} {sum(own):,}" for split, own in counts.items())
    return Drawing(
        "distribution",
        "How many faces there are of each expression",
        "",
        f"Faces of each expression by split: {said}",
        lambda: figures.class_distribution(counts),
        "" if counts else "dataset.json holds no counts",
        wide=True,
    )


def _tiles(runs: Sequence[EvaluatedRun]) -> list[Tile]:
    """The four figures that people look for first, of the best run."""
    best = words.best_run(runs)
    tiles = []
    for label, keys, share in (
        ("Accuracy", ("expression", "accuracy"), True),
        ("Macro F1", ("expression", "f1_macro"), False),
        ("Valence CCC", ("valence", "ccc"), False),
        ("Arousal CCC", ("arousal", "ccc"), False),
    ):
        value, low, high = figure_of(best.metrics, *keys)
        if value is None:
            continue
        form = words.per_cent if share else "{:.3f}".format
        guess = words.baseline_value(best.metrics, *keys)
        tiles.append(
            Tile(
                label,
                form(value),
                "" if low is None or high is None else f"{form(low)} – {form(high)}",
                None if guess is None else form(guess),
                best.name if len(runs) > 1 else "",
            )
        )
    return tiles


def _title(runs: Sequence[EvaluatedRun]) -> str:
    names = [run.name for run in runs]
    if len(names) > 3:
        return f"{len(names)} runs"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _settings(runs: Sequence[EvaluatedRun]) -> list[Setting]:
    keys = dict.fromkeys(key for run in runs for key in run.config)
    rows = []
    for key in keys:
        values = [_plain(run.config[key]) if key in run.config else "–" for run in runs]
        rows.append(Setting(key, values, len(set(values)) > 1))
    return rows


def _protocols(runs: Sequence[EvaluatedRun]) -> list[dict[str, Any]]:
    """How each run was scored, runs that agree together."""
    groups: dict[str, dict[str, Any]] = {}
    for run in runs:
        known = run.metrics.get("protocol")
        said = known if isinstance(known, dict) else {}
        lines = {
            str(key): _plain(value)
            for key, value in said.items()
            if value not in ([], {}, None) and key != "predictions"  # the run's own name
        }
        group = groups.setdefault(json.dumps(lines), {"runs": [], "lines": lines})
        group["runs"].append(run.name)
    return [group for group in groups.values() if group["lines"]]


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _versions() -> dict[str, str]:
    """The versions that made this report."""
    found = {"affectnet": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
