"""The report as one HTML file with everything in it."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from tqdm import tqdm

from affectnet.labels import COLOURS
from affectnet.report import html
from affectnet.report.contents import FOOTER, Contents, RunContents
from affectnet.report.run_figures import RunFigure
from affectnet.report.runs import EvaluatedRun
from affectnet.report.samples import (
    VERDICTS,
    FaceSource,
    Thumbnails,
    fair_sample,
    for_gallery,
    most_confident,
)

THUMBNAIL_LIMIT = 4_500_000  # characters of all together, which keeps the page below 10 MB
SAMPLE_FACES = 600
GALLERY_FACES: Final = 400
STRIP_FACES: Final = 12
SCRIPTS: Final = ("theme.js", "tables.js", "faces.js")


def page_of(contents: Contents) -> str:
    """Return the HTML page."""
    thumbnails = Thumbnails(THUMBNAIL_LIMIT)
    n = sum(len(run.figures) + 1 for run in contents.drawn) + len(contents.data_figures) + 1
    with tqdm(total=n, desc="report", unit="part", leave=False, disable=None) as bar:
        # Strips first, then the gallery, then the samples: if the limit is reached, the least
        # informative faces lack their image.
        sections = [
            _section(run, f"run-{i}", thumbnails, bar)
            for i, run in enumerate(contents.drawn, start=1)
        ]
        faces = _face_data(contents.drawn, thumbnails, bar)
        training, training_missing = _draw([contents.history], "all", bar)
        data, data_missing = _draw(contents.data_figures, "all", bar)
    # Contempt comes last, so the indices of seven classes are those of the eight.
    classes = max((run.classes for run in contents.runs), key=len)
    payload = {
        "classes": classes,
        "colours": [COLOURS[name] for name in classes],
        "faces": thumbnails.uris,
        "runs": faces,
    }
    return html.page(
        "page.html.j2",
        SCRIPTS,
        contents=contents,
        footer=FOOTER,
        names=[run.name for run in contents.runs],
        expressions=classes,
        colours=COLOURS,
        runs=sections,
        training=training,
        training_missing=training_missing,
        data=data,
        data_missing=data_missing,
        omitted_images=thumbnails.omitted,
        payload=html.embed_json(payload),
    )


def _section(
    contents: RunContents, anchor: str, thumbnails: Thumbnails, bar: "tqdm[Any]"
) -> dict[str, Any]:
    run, source = contents.run, contents.source
    drawn, missing = _draw(contents.figures, anchor, bar)
    return {
        "name": run.name,
        "anchor": anchor,
        "n": len(run.predictions),
        "strips": face_strips(run, source, thumbnails),
        "image_problem": source.problem,
        "figures": drawn,
        "missing": missing,
    }


def _draw(
    wanted: Sequence[RunFigure], anchor: str, bar: "tqdm[Any]"
) -> tuple[list[dict[str, Any]], list[str]]:
    """The figures that can be drawn, and one line for each that cannot."""
    drawn, missing = [], []
    for one in wanted:
        figure, reason = one.draw_or_reason()
        if figure is None:
            missing.append(reason)
        else:
            svg = html.inline_svg(figure, f"{anchor}-{one.name}", one.alt)
            drawn.append({"title": one.title, "caption": one.caption, "svg": svg, "wide": one.wide})
        bar.update()
    return drawn, missing


def face_strips(
    run: EvaluatedRun, source: FaceSource, thumbnails: Thumbnails
) -> list[dict[str, Any]]:
    """Title and faces of the most confidently wrong and of the right ones, shown without scripts.

    Their images are added to `thumbnails`.
    """
    strips = []
    for verdict in VERDICTS:
        rows = most_confident(run.predictions, verdict, STRIP_FACES)
        faces = [_face(run, int(row), source, thumbnails) for row in rows]
        for face in faces:
            face["image"] = None if face["f"] is None else thumbnails.uris[face["f"]]
            face["right"] = verdict == "right"
        strips.append({"title": f"Most confidently {verdict}", "faces": faces})
    return strips


def _face_data(
    runs: Sequence[RunContents], thumbnails: Thumbnails, bar: "tqdm[Any]"
) -> list[dict[str, Any]]:
    galleries = [gallery_rows(one.run, len(runs)) for one in runs]
    for rows, one in zip(galleries, runs, strict=True):
        for row in rows:
            thumbnails.add(one.source, one.run.predictions.ids[row])
    data = []
    for rows, one in zip(galleries, runs, strict=True):
        data.append(face_data(one.run, rows, one.source, thumbnails))
        bar.update()
    return data


def gallery_rows(run: EvaluatedRun, n_runs: int) -> list[int]:
    """The informative faces of a run for the gallery, fewer if there are many runs."""
    return list(for_gallery(run.predictions, max(60, GALLERY_FACES // n_runs)).tolist())


def face_data(
    run: EvaluatedRun, gallery: list[int], source: FaceSource, thumbnails: Thumbnails
) -> dict[str, Any]:
    """The faces of a run for the interactive part: those of the gallery and a random sample."""
    sample = fair_sample(run.predictions, SAMPLE_FACES)
    in_sample = set(sample.tolist())
    faces = []
    for row in dict.fromkeys([*gallery, *sample.tolist()]):
        face = _face(run, row, source, thumbnails)
        face["s"] = int(row in in_sample)
        faces.append(face)
    return {"name": run.name, "n": len(run.predictions), "rows": faces}


def _face(
    run: EvaluatedRun, row: int, source: FaceSource, thumbnails: Thumbnails
) -> dict[str, Any]:
    """One face for the page; the keys are short because there are thousands."""
    p = run.predictions
    return {
        "id": p.ids[row],
        "f": thumbnails.add(source, p.ids[row]),
        "t": int(p.expression[row]),
        "p": int(p.expression_pred[row]),
        "c": _short(p.confidence[row]),
        "q": [_short(value) for value in p.probabilities[row]],
        "v": _short(p.valence[row]),
        "a": _short(p.arousal[row]),
        "vp": _short(p.valence_pred[row]),
        "ap": _short(p.arousal_pred[row]),
    }


def _short(value: float) -> float | None:
    return round(float(value), 3) if np.isfinite(value) else None
