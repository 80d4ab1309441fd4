"""What the interactive part of the page knows of the faces, and the strips of faces beside it."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from affectnet.report.choice import fair_sample, for_gallery, most_confident
from affectnet.report.faces import Album, FaceSource
from affectnet.report.runs import EvaluatedRun

SAMPLE_FACES = 600
GALLERY_FACES = 400
STRIP_FACES = 12


@dataclass(frozen=True)
class Strip:
    """A row of faces of one kind, written into the page without any script."""

    title: str
    faces: list[dict[str, Any]]


def embed_json(value: object) -> Markup:
    """Return JSON that may stand inside a `<script>` element, whatever strings it holds.

    No `<`, `>` or `&` is left, so no string can end the element or open a comment.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def strips_of(run: EvaluatedRun, source: FaceSource, album: Album) -> list[Strip]:
    """The most confidently wrong and right faces of a run, their pictures taken into `album`."""
    strips = []
    for kind, title in (("wrong", "Most confidently wrong"), ("right", "Most confidently right")):
        rows = most_confident(run.predictions, "wrong" if kind == "wrong" else "right", STRIP_FACES)
        faces = [_face(run, int(row), source, album) for row in rows]
        for face in faces:
            face["picture"] = None if face["f"] is None else album.pictures[face["f"]]
            face["right"] = kind == "right"
        strips.append(Strip(title, faces))
    return strips


def telling_rows(run: EvaluatedRun, n_runs: int) -> list[int]:
    """The faces of a run that the gallery shows besides the fair sample, fewer for many runs."""
    rows: list[int] = for_gallery(run.predictions, max(60, GALLERY_FACES // n_runs)).tolist()
    return rows


def explored(
    run: EvaluatedRun, telling: list[int], source: FaceSource, album: Album
) -> dict[str, Any]:
    """What the interactive part knows of a run: the telling faces and a fair sample."""
    sample = fair_sample(run.predictions, SAMPLE_FACES)
    in_sample = set(sample.tolist())
    rows = dict.fromkeys([*telling, *sample.tolist()])
    faces = []
    for row in rows:
        face = _face(run, row, source, album)
        face["s"] = int(row in in_sample)
        faces.append(face)
    return {"name": run.name, "n": len(run.predictions), "rows": faces}


def _face(run: EvaluatedRun, row: int, source: FaceSource, album: Album) -> dict[str, Any]:
    """One face for the page: short keys, for there are thousands."""
    p = run.predictions
    return {
        "id": p.ids[row],
        "f": album.add(source, p.ids[row]),
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
