"""The report: one HTML file with everything in it, over one or several evaluated runs."""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from tqdm import tqdm

from affectnet import __version__
from affectnet.data.store import DatasetInfo
from affectnet.errors import DataError
from affectnet.labels import COLOURS, EXPRESSIONS
from affectnet.report import figures, tables, words
from affectnet.report.drawings import (
    Drawing,
    history_drawing,
    run_drawings,
    sample_drawing,
    truth_drawing,
)
from affectnet.report.explorer import Strip, embed_json, explored, strips_of, telling_rows
from affectnet.report.faces import Album, FaceSource, datasets_of
from affectnet.report.runs import EvaluatedRun, figure_of, read_runs
from affectnet.report.svg import inline_svg
from affectnet.run import refuse_existing, write_beside

PICTURE_BUDGET = 4_500_000
"""Characters of all thumbnails together: with the figures the page stays under 10 MB."""
MOST_DRAWN_RUNS = 8
"""Runs beyond these are in the tables and curves only, or the figures would fill the page."""


@dataclass(frozen=True)
class ShownFigure:
    """A drawn figure of the page."""

    name: str
    title: str
    caption: str
    svg: Markup
    wide: bool = False


@dataclass
class ShownRun:
    """All that the page shows of one run."""

    name: str
    anchor: str
    n: int
    figures: list[ShownFigure] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    strips: list[Strip] = field(default_factory=list)
    image_problem: str = ""


def write_report(
    runs: Sequence[Path],
    out: Path,
    split: str = "test",
    overwrite: bool = False,
    datasets: Sequence[Path] = (),
) -> Path:
    """Write the page over these run folders to `out`; return `out`.

    Args:
        runs: evaluated run folders.
        out: the HTML file.
        split: whose evaluation is shown.
        overwrite: replace the file.
        datasets: where the images are; what the runs' files name, where not given.

    Raises:
        RunError: a run is missing or not evaluated on `split`, or `out` exists and `overwrite` was
            not asked for.
    """
    refuse_existing(out, overwrite)
    html = render_page(read_runs(runs, split), datasets)
    with write_beside(out) as new:
        new.write_text(html, encoding="utf-8")
    return out


def render_page(runs: Sequence[EvaluatedRun], datasets: Sequence[Path] = ()) -> str:
    """Return the whole page over these runs of one split; `datasets` as in `write_report`."""
    sources = _sources(runs, datasets)
    album = Album(PICTURE_BUDGET)
    shown, shown_rows = [], []
    drawn = list(runs[:MOST_DRAWN_RUNS])
    bar = tqdm(total=len(drawn) * 9 + 3, desc="report", unit="part", leave=False, disable=None)
    with bar:
        for i, run in enumerate(drawn):
            # The strips first, then all telling faces, then the samples: where the budget runs out,
            # the least telling go without a picture.
            one = ShownRun(run.name, f"run-{i + 1}", len(run.predictions))
            _draw(run_drawings(run), one.anchor, one.figures, one.missing, bar)
            one.strips = strips_of(run, sources[i], album)
            one.image_problem = sources[i].problem
            shown.append(one)
        telling = [telling_rows(run, len(drawn)) for run in drawn]
        for rows, run, source in zip(telling, drawn, sources, strict=False):
            for row in rows:
                album.add(source, run.predictions.ids[row])
        for rows, run, source in zip(telling, drawn, sources, strict=False):
            shown_rows.append(explored(run, rows, source, album))
            bar.update()
        common: list[ShownFigure] = []
        not_drawn: list[str] = []
        _draw(
            [history_drawing(runs), truth_drawing(runs[0]), sample_drawing(runs[0], sources[0])],
            "all",
            common,
            not_drawn,
            bar,
        )
    payload = {
        "classes": EXPRESSIONS,
        "colours": [COLOURS[name] for name in EXPRESSIONS],
        "faces": album.pictures,
        "runs": shown_rows,
    }
    infos = _infos(sources)
    counts = {k: v for info in infos[:1] for k, v in _counts(info).items()}
    distribution: list[ShownFigure] = []
    if counts:
        drawing = Drawing(
            "distribution",
            "How many faces there are of each expression",
            "",
            "Faces of each expression by split: "
            + "; ".join(f"{split} {sum(c):,}" for split, c in counts.items()),
            lambda: figures.class_distribution(counts),
            wide=True,
        )
        _draw([drawing], "all", distribution, [], None)
    environment = Environment(
        loader=PackageLoader("affectnet.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        title=_title(runs),
        split=runs[0].split,
        made=date.today().isoformat(),
        version=__version__,
        names=[run.name for run in runs],
        tiles=_tiles(runs),
        summary=words.summary(runs),
        categorical=tables.categorical_table(runs),
        continuous=tables.continuous_table(runs),
        per_class=tables.per_class_table(runs),
        published=tables.published_figures(runs),
        expressions=EXPRESSIONS,
        colours=COLOURS,
        runs=shown,
        undrawn=[run.name for run in runs[MOST_DRAWN_RUNS:]],
        common={one.name: one for one in [*common, *distribution]},
        not_drawn=not_drawn,
        album=album,
        infos=infos,
        settings=_settings(runs),
        protocols=_protocols(runs),
        versions=_versions(),
        payload=embed_json(payload),
        style=_asset("page.css"),
        scripts=[_asset("theme.js"), _asset("explore.js")],
    )


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


def _draw(
    drawings: Sequence[Drawing],
    anchor: str,
    into: list[ShownFigure],
    missing: list[str],
    bar: "tqdm[Any] | None",
) -> None:
    for drawing in drawings:
        if drawing.missing:
            said = f"{drawing.title}: {drawing.missing}"
            missing.append(said)
        else:
            svg = inline_svg(drawing.draw(), f"{anchor}-{drawing.name}", drawing.alt)
            into.append(
                ShownFigure(drawing.name, drawing.title, drawing.caption, svg, drawing.wide)
            )
        if bar is not None:
            bar.update()


def _tiles(runs: Sequence[EvaluatedRun]) -> list[dict[str, Any]]:
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
        tiles.append(
            {
                "label": label,
                "value": form(value),
                "interval": "" if low is None or high is None else f"{form(low)} – {form(high)}",
                "guess": None
                if (guess := words.baseline_value(best.metrics, *keys)) is None
                else form(guess),
                "run": best.name if len(runs) > 1 else "",
            }
        )
    return tiles


def _title(runs: Sequence[EvaluatedRun]) -> str:
    names = [run.name for run in runs]
    if len(names) > 3:
        return f"{len(names)} runs"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _infos(sources: Sequence[FaceSource]) -> list[DatasetInfo]:
    infos: list[DatasetInfo] = []
    for source in dict.fromkeys(sources):
        try:
            infos += [info for info in source.infos() if info not in infos]
        except DataError:
            continue  # the images are there; only what dataset.json would add is not
    return infos


def _counts(info: DatasetInfo) -> dict[str, list[int]]:
    return {
        split: [int(counts.get(name, 0)) for name in EXPRESSIONS]
        for split, counts in info.counts.items()
    }


def _settings(runs: Sequence[EvaluatedRun]) -> list[dict[str, Any]]:
    """One row a setting, one value a run; `differs` where the runs do not agree."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    rows = []
    for key in keys:
        values = [_plain(run.config[key]) if key in run.config else "–" for run in runs]
        rows.append({"name": key, "values": values, "differs": len(set(values)) > 1})
    return rows


def _protocols(runs: Sequence[EvaluatedRun]) -> list[dict[str, Any]]:
    """How each run was scored, runs that agree together."""
    groups: dict[str, dict[str, Any]] = {}
    for run in runs:
        known = run.metrics.get("protocol")
        said = known if isinstance(known, dict) else {}
        lines = {str(k): _plain(v) for k, v in said.items() if v not in ([], {}, None)}
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
    """The versions that made this page."""
    packages = ("numpy", "pyarrow", "matplotlib", "torch", "timm", "lightning")
    found = {"affectnet": __version__, "Python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _asset(name: str) -> Markup:
    """A file of the package that goes into the page as it is."""
    return Markup((resources.files("affectnet.report") / "templates" / name).read_text("utf-8"))
