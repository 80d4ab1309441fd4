"""What `affectnet predict` prints: a table of the first faces, and a line on all of them."""

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.table import Table

from affectnet.errors import counted
from affectnet.inference.drawing import expression_text
from affectnet.inference.results import PictureResult

_MAX_ROWS: Final = 40
_MAX_FRAMES: Final = 8
"""Of one film, so that a film does not take the place of the files after it."""
_PATH_LENGTH: Final = 28


class TerminalSummary:
    """Counts the results, and stores the first ones for the terminal."""

    def __init__(self, show: bool) -> None:
        self.rows: list[PictureResult] = []
        self.show = show
        self.images = self.frames = self.faces = self.faceless = 0
        self.unreadable: list[PictureResult] = []
        self.n_unreadable = 0
        self.started = time.monotonic()
        self.before = 0

    def add(self, result: PictureResult) -> None:
        """Add one image or frame."""
        if result.reason is not None:
            self.n_unreadable += 1
            if len(self.unreadable) < _MAX_ROWS:
                self.unreadable.append(result)
            return
        if result.frame is None:
            self.images += 1
        else:
            self.frames += 1
        self.faces += len(result.faces)
        self.faceless += not result.faces
        of_file = sum(row.source == result.source for row in self.rows)
        if self.show and len(self.rows) < _MAX_ROWS and of_file < _MAX_FRAMES:
            self.rows.append(result)

    @property
    def all_unreadable(self) -> bool:
        """Whether no input could be read."""
        return self.n_unreadable > 0 and self.images + self.frames + self.before == 0

    def print(self, outputs: Sequence[str | Path | None]) -> None:
        """Print the table, if there is no --out, and the summary; `outputs` were written."""
        console = Console()
        if self.rows:
            console.print(_table(self.rows))
            hidden = self.images + self.frames - len(self.rows)
            if hidden > 0:
                console.print(f"and {hidden:,} more; --out FILE writes all of them")
        lines = [f"{result.source}: {result.reason}" for result in self.unreadable]
        for line in (*lines, self._last_line(outputs)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _last_line(self, outputs: Sequence[str | Path | None]) -> str:
        read = ((self.images, "image"), (self.frames, "frame"))
        counts = [counted(number, noun) for number, noun in read if number]
        line = f"{' and '.join(counts) or 'nothing read'}: {counted(self.faces, 'face')}"
        if self.faceless:
            line += f", {self.faceless:,} without a face"
        if self.n_unreadable:
            line += f"; {self.n_unreadable:,} unreadable"
        if self.before:
            line += f"; {counted(self.before, 'input')} finished before"
        line += f"; {time.monotonic() - self.started:,.1f} s"
        written = ", ".join(str(path) for path in outputs if path is not None)
        return f"{line} -> {written}" if written else line


def _short(path: str | None) -> str:
    path = path or ""
    return path if len(path) <= _PATH_LENGTH else f"…{path[-_PATH_LENGTH + 1 :]}"


def _table(results: Iterable[PictureResult]) -> Table:
    table = Table(box=None, pad_edge=False)
    results = list(results)
    film = any(result.time is not None for result in results)
    widths = {"source": 0, **({"time": 7} if film else {})}
    widths |= {"face": 4, "expression": 14, "valence": 7, "arousal": 7}
    for name, width in widths.items():
        side: Literal["left", "right"] = "left" if name in ("source", "expression") else "right"
        table.add_column(name, justify=side, no_wrap=True, min_width=width)
    for result in results:
        first = [_short(result.source)]
        if film:
            first.append("" if result.time is None else f"{result.time:.2f} s")
        if not result.faces:
            table.add_row(*first, "", "no face", "", "")
        for number, face in enumerate(result.faces, 1):
            table.add_row(
                *first,
                str(face.track or number),
                expression_text(face) if face.expression else "",
                *("" if math.isnan(v) else f"{v:+.2f}" for v in (face.valence, face.arousal)),
            )
    return table
