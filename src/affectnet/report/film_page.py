"""A film as an HTML page: curves of all persons, expressions, episodes, tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from affectnet.errors import counted
from affectnet.figures.curves import MOST_LINES, Line, affect_over_time
from affectnet.figures.style import PERSON_COLOURS
from affectnet.inference.film_summary import (
    EPISODE_COLUMNS,
    PERSON_COLUMNS,
    FilmSummary,
    PersonSummary,
    csv_table,
)
from affectnet.inference.tracks import Course, OverTime
from affectnet.labels import COLOURS, EXPRESSIONS
from affectnet.report import html
from affectnet.report.tables import DASH, Cell, Row, Table, number
from affectnet.run import write_beside

MAX_FIGURES: Final = 4
MAX_EPISODES: Final = 500
MAX_ROWS: Final = 200
"""Of very many episodes and persons, the page shows the longest; the downloads have all."""


def write_film_page(path: Path, summary: FilmSummary, over_time: OverTime) -> None:
    """Write the page, one file that opens offline, in light and dark."""
    with write_beside(path) as new:
        new.write_text(film_page(summary, over_time), encoding="utf-8")


def film_page(summary: FilmSummary, over_time: OverTime) -> str:
    """Return the page of a film.

    Args:
        summary: of the film.
        over_time: courses of its persons.
    """
    figures = []
    for i, figure in enumerate(courses_figures(over_time, MAX_FIGURES)):
        svg = html.inline_svg(figure, f"curves-{i}", _alt(summary))
        place = figure.axes[0].get_position()
        figures.append({"svg": svg, "left": place.x0, "right": place.x1})
    longest = sorted(summary.episodes, key=lambda one: -one.seconds)[:MAX_EPISODES]
    shown = sorted(longest, key=lambda one: (one.start, one.person))
    persons = sorted(summary.persons, key=lambda one: -one.seconds)[:MAX_ROWS]
    persons.sort(key=lambda one: one.person)
    name = Path(summary.source).name
    return html.page(
        "film.html.j2",
        ("theme.js", "tables.js", "film.js"),
        title=name,
        length=clock(summary.seconds),
        persons=summary.persons,
        summary=summary,
        figures=figures,
        times=_times(persons),
        fractions=_fractions(persons),
        affect=_affect(persons),
        episodes=[
            {
                "person": one.person,
                "expression": one.expression,
                "start": one.start,
                "peak": one.peak,
                "clock": clock(one.start),
                "seconds": number(one.seconds, 1),
                "probability": f"{one.probability:.0%}",
                "picture": one.picture,
            }
            for one in shown
        ],
        hidden=len(summary.episodes) - len(shown),
        colours=COLOURS,
        person_colours=_person_colours(over_time),
        data=html.embed_json(
            {
                "end": over_time.end,
                "files": {
                    f"{Path(name).stem}_summary.csv": _csv(PERSON_COLUMNS, summary.person_rows()),
                    f"{Path(name).stem}_summary_episodes.csv": _csv(
                        EPISODE_COLUMNS, summary.episode_rows()
                    ),
                },
            }
        ),
    )


def courses_figures(over_time: OverTime, most: int) -> list[Figure]:
    """Draw the persons seen for longest, `MOST_LINES` a figure, in at most `most` figures."""
    courses = over_time.courses()
    drawn = _drawn(courses, most)
    lines = [
        Line(f"person {c.track}", c.time, c.valence, c.arousal, c.expression, c.step) for c in drawn
    ]
    parts = [lines[i : i + MOST_LINES] for i in range(0, len(lines), MOST_LINES)] or [[]]
    figures = []
    for i, part in enumerate(parts):
        left_out = len(courses) - len(drawn) if i == len(parts) - 1 else 0
        figures.append(affect_over_time(part, over_time.end, left_out, over_time.relative))
    return figures


def _drawn(courses: list[Course], figures: int) -> list[Course]:
    """The persons that so many figures have room for, in the order of their numbers."""
    return sorted(courses[: figures * MOST_LINES], key=lambda course: course.track)


def clock(seconds: float) -> str:
    """A time as `0:04.2`, `12:30.0` or `1:02:30.0`."""
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    front = f"{hours}:{minutes:02}" if hours else str(minutes)
    return f"{front}:{rest // 10:02}.{rest % 10}"


def _alt(summary: FilmSummary) -> str:
    return (
        f"Valence, arousal and expression of {counted(len(summary.persons), 'person')} over "
        f"{clock(summary.seconds)}; the tables below have the numbers"
    )


def _person_colours(over_time: OverTime) -> Mapping[int, str]:
    drawn = _drawn(over_time.courses(), MAX_FIGURES)
    return {course.track: PERSON_COLOURS[i % MOST_LINES] for i, course in enumerate(drawn)}


def _times(persons: list[PersonSummary]) -> Table:
    rows = []
    for one in persons:
        longest = one.longest
        cells = (
            Cell(f"{number(one.seconds, 1)} s", one.seconds),
            Cell(clock(one.start), one.start),
            Cell(clock(one.end), one.end),
            Cell(f"{one.usable:.0%}", one.usable),
            Cell(DASH)
            if longest is None
            else Cell(
                f"{longest.expression}, {number(longest.seconds, 1)} s",
                longest.seconds,
                f"from {clock(longest.start)}",
            ),
        )
        rows.append(Row(f"Person {one.person}", cells))
    columns = ("In sight", "From", "To", "Usable", "Longest episode")
    return Table("Persons", "person", columns, tuple(rows))


def _fractions(persons: list[PersonSummary]) -> Table | None:
    names = [name for name in EXPRESSIONS if any(name in one.fractions for one in persons)]
    if not names:
        return None
    rows = []
    for one in persons:
        cells = []
        for name in names:
            part = one.fractions.get(name)
            times = counted(one.episodes.get(name, 0), "episode")
            cells.append(Cell(DASH) if part is None else Cell(f"{part:.0%}", part, times))
        rows.append(Row(f"Person {one.person}", tuple(cells)))
    return Table("Expressions", "person", tuple(names), tuple(rows))


def _affect(persons: list[PersonSummary]) -> Table | None:
    rows = []
    for one in persons:
        values = [
            value
            for found in (one.valence, one.arousal)
            for value in (found.mean, found.sd, found.min, found.max, found.slope)
        ]
        cells = (Cell(DASH) if v != v else Cell(number(v, 2), v) for v in values)
        rows.append(Row(f"Person {one.person}", tuple(cells)))
    if all(cell.value is None for row in rows for cell in row.cells):
        return None
    columns = ("mean", "SD", "lowest", "highest", "per minute") * 2
    return Table("Valence and arousal", "person", columns, tuple(rows))


def _csv(names: Mapping[str, type], rows: Any) -> str:
    return b"".join(csv_table(names, rows)).decode()
