"""The contents of a report over evaluated runs, independent of its format."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Final

from affectnet import figures
from affectnet.data.store import DatasetInfo
from affectnet.errors import DataError
from affectnet.report.audit_page import AuditSummary, audit_summary
from affectnet.report.model_figures import FOLDER, model_figures_for_report
from affectnet.report.run_figures import (
    RunFigure,
    annotation_figure,
    figures_of_run,
    gallery_figures,
    history_figure,
    sample_figure,
)
from affectnet.report.runs import EvaluatedRun, mapping_of, metric_of
from affectnet.report.samples import FaceSource, datasets_of
from affectnet.report.summary import (
    baseline_value,
    best_run,
    listed,
    percent,
    summary_sentences,
    trained_on,
)
from affectnet.report.tables import (
    Cell,
    Row,
    Table,
    categorical_table,
    continuous_table,
    per_class_table,
    published_table,
    text_table,
)
from affectnet.version import __version__

MOST_DRAWN_RUNS = 8  # further runs appear only in the tables and learning curves
PACKAGES: Final = ("numpy", "pyarrow", "matplotlib", "torch", "timm", "lightning")
FOOTER: Final = (
    "A face shows an expression, which is not the same as what the person feels. These scores "
    "measure how well a model reproduces human annotations of these faces."
)


@dataclass(frozen=True)
class RunContents:
    """A run with the images of its faces and its figures, including figures that lack data."""

    run: EvaluatedRun
    source: FaceSource
    figures: list[RunFigure]


@dataclass(frozen=True)
class Contents:
    """Everything that a report shows; figures are not drawn yet."""

    title: str
    split: str
    runs: Sequence[EvaluatedRun]
    best: str
    drawn: list[RunContents]
    highlights: Table
    summary: list[str]
    categorical: Table
    continuous: Table
    per_class: Table
    published: Table
    history: RunFigure
    data_figures: list[RunFigure]
    infos: list[DatasetInfo]
    trained: list[str]
    audits: list[AuditSummary]
    settings: Table
    protocols: list[Table]
    versions: Table

    @property
    def omitted(self) -> list[str]:
        """Names of the runs whose figures are left out."""
        return [run.name for run in self.runs[len(self.drawn) :]]

    @property
    def references(self) -> str:
        """A sentence on the rows of the tables of scores that are not runs."""
        people = any("annotators" in row.name for row in self.categorical.rows)
        agreement = " and the agreement of two annotators, over eleven categories," * people
        return f"Baselines, which ignore the image,{agreement} are listed for comparison."


def contents_of(
    runs: Sequence[EvaluatedRun], datasets: Sequence[Path | str] = (), explain: bool = True
) -> Contents:
    """Assemble the contents of a report over these runs of one split.

    Args:
        runs: at least one.
        datasets: folders of the images; those named in the runs' files if not given.
        explain: whether to add the figures that need the trained model.
    """
    places = [tuple(datasets or datasets_of(run)) for run in runs]
    # Runs on the same datasets share one source of images.
    by_place = {place: FaceSource(place, runs[0].split) for place in set(places)}
    sources = [by_place[place] for place in places]
    drawn = []
    for run, source in zip(runs[:MOST_DRAWN_RUNS], sources, strict=False):
        own = figures_of_run(run)
        if explain:
            own += model_figures_for_report(run, source.datasets)
        drawn.append(RunContents(run, source, own))
    folders = list(dict.fromkeys(folder for source in sources for folder in source.datasets))
    infos = _infos(folders)
    cache = runs[0].folder.evaluation(runs[0].split) / FOLDER
    audits = (audit_summary(folder, cache) for folder in folders)
    return Contents(
        title=_title([run.name for run in runs]),
        split=runs[0].split,
        runs=runs,
        best=best_run(runs).name,
        drawn=drawn,
        highlights=_highlights(runs),
        summary=summary_sentences(runs),
        categorical=categorical_table(runs),
        continuous=continuous_table(runs),
        per_class=per_class_table(runs),
        published=published_table(runs),
        history=history_figure(runs),
        data_figures=[
            *map(_class_figure, infos[:1]),
            annotation_figure(runs[0]),
            sample_figure(runs[0], sources[0]),
        ],
        infos=infos,
        trained=[f"{run.name} was {text}." for run in runs if (text := trained_on(run))],
        audits=[audit for audit in audits if audit is not None],
        settings=_settings(runs),
        protocols=_protocols(runs),
        versions=_versions(),
    )


def _infos(folders: Sequence[Path]) -> list[DatasetInfo]:
    infos: list[DatasetInfo] = []
    for folder in folders:
        try:
            info = DatasetInfo.read(folder)
        except DataError:
            continue  # the images are there, only dataset.json is missing
        if info not in infos:
            infos.append(info)
    return infos


def _class_figure(info: DatasetInfo) -> RunFigure:
    counts = {
        split: [int(own.get(name, 0)) for name in info.classes]
        for split, own in info.counts.items()
    }
    totals = "; ".join(f"{split} {sum(own):,}" for split, own in counts.items())
    return RunFigure(
        "distribution",
        "Faces per expression",
        "",
        f"Faces of each expression by split: {totals}",
        lambda: figures.class_distribution(counts),
        "" if counts else "dataset.json contains no counts",
        wide=True,
    )


def _title(names: Sequence[str]) -> str:
    if len(names) > 3:
        return f"{len(names)} runs"
    return listed(names)


def _highlights(runs: Sequence[EvaluatedRun]) -> Table:
    """The four most important scores of the best run."""
    best = best_run(runs)
    rows = []
    for label, keys in (
        ("Accuracy", ("expression", "accuracy")),
        ("Macro F1", ("expression", "f1_macro")),
        ("Valence CCC", ("valence", "ccc")),
        ("Arousal CCC", ("arousal", "ccc")),
    ):
        value, low, high = metric_of(best.metrics, *keys)
        if value is None:
            continue
        form = percent if label == "Accuracy" else "{:.3f}".format
        baseline = baseline_value(best.metrics, *keys)
        texts = (
            form(value),
            "" if low is None or high is None else f"{form(low)} – {form(high)}",
            "" if baseline is None else form(baseline),
        )
        rows.append(Row(label, tuple(map(Cell, texts))))
    title = f"Main scores of {best.name}" if len(runs) > 1 else "Main scores"
    return Table(title, "", ("Value", "95% interval", "Baseline"), tuple(rows))


def _settings(runs: Sequence[EvaluatedRun]) -> Table:
    rows = []
    for key in dict.fromkeys(key for run in runs for key in run.config):
        values = [_plain(run.config[key]) if key in run.config else "–" for run in runs]
        differs = len(set(values)) > 1
        rows.append(Row(key, tuple(map(Cell, values)), kind="differs" if differs else ""))
    names = tuple(run.name for run in runs)
    return Table("Training settings", "setting", names, tuple(rows))


def _protocols(runs: Sequence[EvaluatedRun]) -> list[Table]:
    """How the runs were scored; runs with the same protocol share a table."""
    groups: dict[str, tuple[list[str], dict[str, str]]] = {}
    for run in runs:
        lines = {
            str(key): _plain(value)
            for key, value in mapping_of(run.metrics, "protocol").items()
            if value not in ([], {}, None) and key != "predictions"  # the run's own name
        }
        names, _ = groups.setdefault(json.dumps(lines), ([], lines))
        names.append(run.name)
    return [
        text_table(
            f"How {', '.join(names)} {'was' if len(names) == 1 else 'were'} scored",
            ("", ""),
            lines.items(),
        )
        for names, lines in groups.values()
        if lines
    ]


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {v}" for k, v in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


def _versions() -> Table:
    found = {"affectnet": __version__, "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return text_table("Versions that made this report", ("", ""), found.items())


@dataclass(frozen=True)
class Note:
    """A remark that is set apart from the text."""

    text: str


Block = str | Note | list[str] | Table | RunFigure  # the first is a paragraph, list[str] a list


@dataclass(frozen=True)
class Chapter:
    """Blocks under a heading; `new_page` starts it on a new page."""

    title: str
    blocks: list[Block]
    new_page: bool = False


def chapters_of(contents: Contents) -> list[Chapter]:
    """The report from top to bottom, for PDF and Markdown; names of figures are unique."""
    intro: list[Block] = [f"Expression, valence and arousal on the {contents.split} split."]
    if contents.highlights.rows:
        intro.append(contents.highlights)
    chapters = [
        Chapter(contents.title, [*intro, contents.summary]),
        Chapter("Scores", _score_blocks(contents)),
        *(_run_chapter(run, f"run-{i}") for i, run in enumerate(contents.drawn, start=1)),
    ]
    if contents.omitted:
        names = ", ".join(contents.omitted)
        chapters[-1].blocks.append(Note(f"Figures of {names} are omitted to limit the length."))
    settings = [contents.settings] if contents.settings.rows else []
    versions = [*contents.protocols, contents.versions]
    closing = f"{FOOTER} Made by affectnet {__version__} on {date.today().isoformat()}."
    return [
        *chapters,
        Chapter("Training", [_named("all", contents.history)]),
        Chapter("Data", _data_blocks(contents)),
        Chapter("Settings and versions", [*settings, *versions, closing]),
    ]


def _named(prefix: str, figure: RunFigure) -> RunFigure:
    return replace(figure, name=f"{prefix}-{figure.name}")


def _score_blocks(contents: Contents) -> list[Block]:
    best = "A star marks the best run of each column. " if len(contents.runs) > 1 else ""
    return [
        f"Values with their 95% intervals. {best}{contents.references}",
        contents.categorical,
        contents.continuous.select("Valence", 0, 4),
        contents.continuous.select("Arousal", 4, 8),
        contents.per_class,
        *([contents.published] if contents.published.rows else []),
    ]


def _run_chapter(contents: RunContents, prefix: str) -> Chapter:
    run, problem = contents.run, contents.source.problem
    blocks: list[Block] = [f"{len(run.predictions):,} faces."]
    if problem:
        blocks.append(Note(f"Faces cannot be shown: {problem}."))
    galleries = [] if problem else gallery_figures(run, contents.source, titled=False)
    blocks += [_named(prefix, figure) for figure in (*galleries, *contents.figures)]
    return Chapter(run.name, blocks, new_page=True)


def _data_blocks(contents: Contents) -> list[Block]:
    blocks: list[Block] = []
    for info in contents.infos:
        origin = f"Release {info.release}, ingested by affectnet {info.version}"
        blocks.append(f"{origin}; content hash {info.content_hash[:16]}.")
        if info.dropped:
            rows = [(reason, f"{n:,}") for reason, n in info.dropped.items()]
            blocks.append(text_table("Rows dropped at ingest", ("Reason", "Rows"), rows))
    if not contents.infos:
        blocks.append(Note("The dataset was not found; only the predictions are described."))
    blocks += contents.trained
    for audit in contents.audits:
        blocks.append(f"Findings of the audit of {audit.name}:")
        blocks.append([f"{finding.severity}: {finding.text}" for finding in audit.findings])
        if not audit.complete:
            blocks.append(Note(audit.advice))
    return blocks + [_named("all", figure) for figure in contents.data_figures]
