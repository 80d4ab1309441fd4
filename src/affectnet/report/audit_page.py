"""The page of an audit: one HTML file that opens offline, in light and dark."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from affectnet.data.audit.affect import RULES
from affectnet.data.audit.dataset_audit import Audit, expression_name
from affectnet.data.audit.findings import Severity
from affectnet.data.images import decode_image
from affectnet.errors import DataError
from affectnet.labels import CIRCUMPLEX, COLOURS, EXPRESSIONS
from affectnet.report.page import html_template
from affectnet.version import __version__

MOST_GROUPS = 60
MOST_FACES = 8
"""Faces shown of one group of duplicates."""
MOST_ROWS = 60
"""Contradictions, and likely wrong labels, shown with their pictures."""
MOST_SIZES = 12
THUMBNAIL = 96
"""Longest side of a picture in the page, in pixels."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A face of the page: its picture as a data URI ('' where it cannot be decoded), and words."""

    picture: str
    name: str
    expression: str
    detail: str = ""


def render_audit(audit: Audit) -> str:
    """Return the whole page; lists of faces are cut at `MOST_GROUPS` and `MOST_ROWS`."""
    rows = audit.rows
    groups = [
        {
            "kind": group.kind,
            "splits": group.splits,
            "leak": group.leak,
            "disputed": group.disputed,
            "more": max(0, len(group.rows) - MOST_FACES),
            "faces": [_face(audit, row) for row in _spread(audit, group.rows)],
        }
        for group in audit.duplicates[:MOST_GROUPS]
    ]
    odd = [
        _face(
            audit,
            found.row,
            f"{found.rule}: valence {rows.valence[found.row]:+.2f}, "
            f"arousal {rows.arousal[found.row]:+.2f}",
        )
        for found in audit.contradictions[:MOST_ROWS]
    ]
    return html_template("audit.html.j2").render(
        audit=audit,
        title=f"Audit of {audit.folder.resolve().name}",
        made=date.today().isoformat(),
        version=__version__,
        problems=audit.number(Severity.PROBLEM),
        warnings=audit.number(Severity.WARNING),
        expressions=audit.classes,
        colours=COLOURS,
        columns=audit.count_columns(),
        bars={"valence": _bars(audit.affect.valence), "arousal": _bars(audit.affect.arousal)},
        plane=_plane(audit.affect.plane),
        means=_means(audit),
        circumplex=CIRCUMPLEX,
        rules=RULES,
        sizes=list(audit.images.sizes.items())[:MOST_SIZES],
        groups=groups,
        odd=odd,
        suspects=_suspects(audit),
        broken=[(audit.name(row), why) for row, why in audit.images.broken.items()][:MOST_ROWS],
        plain=[_face(audit, row) for row in audit.images.plain[:MOST_ROWS]],
    )


def _spread(audit: Audit, rows: Sequence[int]) -> list[int]:
    """Up to `MOST_FACES` rows of a group, taken from its splits in turn, so that a leak shows."""
    place: dict[str, int] = {}
    turns = []
    for row in rows:
        split = audit.rows.split_of(row)
        place[split] = place.get(split, -1) + 1
        turns.append((place[split], row))
    return sorted(row for _, row in sorted(turns)[:MOST_FACES])


def _face(audit: Audit, row: int, detail: str = "") -> Shown:
    name = expression_name(int(audit.rows.expression[row]))
    return Shown(_picture(audit.image(row)), audit.name(row), name, detail)


def _picture(data: memoryview) -> str:
    """An encoded image as a small JPEG in a data URI."""
    try:
        image = Image.fromarray(decode_image(data))
    except DataError:
        return ""
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _suspects(audit: Audit) -> list[Shown]:
    if audit.suspects is None:
        return []
    found = audit.suspects.found
    return [
        _face(
            audit,
            row,
            f"more likely {EXPRESSIONS[found.suggested[i]]}, margin {found.margin[i]:+.2f}",
        )
        for i, row in enumerate(audit.suspects.rows[:MOST_ROWS].tolist())
    ]


def _bars(counts: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Bars of a histogram over [-1, 1], heights 0 to 100; what is not empty is at least 1 high."""
    top = max(int(counts.max()), 1)
    width = 2 / len(counts)
    return [
        {
            "x": -1 + i * width,
            "width": width,
            "height": max(1.0, 100 * n / top) if n else 0.0,
            "n": n,
        }
        for i, n in enumerate(counts.tolist())
    ]


def _plane(plane: NDArray[np.int64]) -> list[dict[str, float]]:
    """Cells of the circumplex that hold faces; opacity grows with the logarithm of their number."""
    top = math.log1p(max(int(plane.max()), 1))
    side = 2 / len(plane)
    return [
        {
            "x": -1 + column * side,
            "y": -1 + row * side,
            "side": side,
            "opacity": round(0.08 + 0.72 * math.log1p(int(plane[row, column])) / top, 3),
            "n": int(plane[row, column]),
        }
        for row, column in zip(*np.nonzero(plane), strict=True)
    ]


def _means(audit: Audit) -> list[dict[str, Any]]:
    affect = audit.affect
    return [
        {
            "name": name,
            "n": int(affect.class_n[i]),
            "valence": float(affect.class_mean[i, 0]),
            "arousal": float(affect.class_mean[i, 1]),
            "valence_std": float(affect.class_std[i, 0]),
            "arousal_std": float(affect.class_std[i, 1]),
        }
        for i, name in enumerate(EXPRESSIONS)
        if affect.class_n[i]
    ]
