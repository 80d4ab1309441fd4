"""The tables of a score on the terminal."""

from collections.abc import Sequence
from io import StringIO
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from affectnet.evaluation.baselines import ANNOTATORS, CONSTANT, MAJORITY
from affectnet.labels import EXPRESSIONS
from affectnet.seven import lacks_contempt

WIDTH: Final = 100
EXPRESSION_ROWS: Final = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "top2_accuracy": "top-2 accuracy",
    "f1_macro": "F1, macro",
    "f1_weighted": "F1, weighted",
    "cohen_kappa": "Cohen's kappa",
    "krippendorff_alpha": "Krippendorff's alpha",
    "auc_roc_macro": "AUC-ROC, macro",
    "auc_pr_macro": "AUC-PR, macro",
    "log_loss": "log loss (nats)",
    "ece": "calibration error",
}
AFFECT_ROWS: Final = {"rmse": "RMSE", "mae": "MAE", "corr": "CORR", "sagr": "SAGR", "ccc": "CCC"}
CLASS_COLUMNS: Final = {
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "auc_roc": "AUC-ROC",
    "auc_pr": "AUC-PR",
}


def tables(figures: dict[str, Any]) -> list[RenderableType]:
    """The tables of one metrics.json: expression, affect, classes, slices, and what to know."""
    shown: list[RenderableType] = []
    if figures["expression"]["n"]:
        shown += [_expression(figures), _classes(figures["expression"])]
    if figures["valence"]["n"] or figures["arousal"]["n"]:
        shown.append(_affect(figures))
    shown += [_slices(name, block) for name, block in figures.get("slices", {}).items()]
    published = figures["baselines"]["published"]
    return [*shown, *([_published(published)] if shown else []), _notes(figures)]


def comparison_table(figures: dict[str, Any]) -> RenderableType:
    """Two sets of predictions side by side, their differences, and the verdict."""
    a, b = figures["names"]
    title = f"{b} against {a}, {figures['n']:,} faces"
    if lacks_contempt(figures.get("classes", EXPRESSIONS)):
        title += ", seven classes"
    table = _grid(title, ["figure", a, b, "difference", "better"])
    for section, rows in (
        ("expression", EXPRESSION_ROWS),
        ("valence", AFFECT_ROWS),
        ("arousal", AFFECT_ROWS),
    ):
        for key, label in rows.items():
            entry = figures[section].get(key)
            if entry is None or entry["difference"] is None:
                continue
            apart = {"value": entry["difference"], "low": entry["low"], "high": entry["high"]}
            table.add_row(
                label if section == "expression" else f"{section} {label}",
                cell({"value": entry["a"]}),
                cell({"value": entry["b"]}),
                cell(apart),
                entry["better"] or "",
            )
    return Group(table, Text(figures["verdict"]))


def to_text(parts: Sequence[RenderableType]) -> str:
    """Render to plain text, 100 columns wide."""
    console = Console(file=StringIO(), width=WIDTH, color_system=None, highlight=False)
    console.print(Group(*parts))
    file = console.file
    assert isinstance(file, StringIO)
    return file.getvalue()


def cell(entry: dict[str, Any] | None, places: int = 3, interval: bool = True) -> str:
    """`.623 [.608 .638]`, or a dash."""
    if entry is None or entry.get("value") is None:
        return "-"
    text = _number(entry["value"], places)
    if interval and entry.get("low") is not None:
        text += f" [{_number(entry['low'], places)} {_number(entry['high'], places)}]"
    return text


def _number(value: float, places: int) -> str:
    """Without the zero before the point, as papers print shares: the tables stay narrow."""
    text = f"{value:.{places}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("0.", ".", 1) if text.removeprefix("-").startswith("0.") else text


def _expression(figures: dict[str, Any]) -> Table:
    eight, seven = figures["expression"], figures["expression_7"]
    base = figures["baselines"]
    only_seven = lacks_contempt(eight["classes"])
    title = f"Expression, {eight['n']:,} faces"
    columns = ["figure", "eight classes", "equal classes", "seven classes", "majority", "people"]
    if only_seven:
        title += ", seven classes (without contempt)"
        columns = ["figure", "seven classes", "equal classes", "majority", "people"]
    else:
        title += f" ({seven['n']:,} for seven classes)"
    table = _grid(title, columns)
    for key, label in EXPRESSION_ROWS.items():
        table.add_row(
            label,
            cell(eight[key]),
            cell(eight["skew_normalised"].get(key), interval=False),
            *(() if only_seven else (cell(seven[key]),)),
            cell(base[MAJORITY]["expression"][key]),
            cell(base[ANNOTATORS]["expression"].get(key)),
        )
    return table


def _classes(block: dict[str, Any]) -> Table:
    table = _grid("Each class", ["class", "faces", *CLASS_COLUMNS.values()])
    for name, entries in block["per_class"].items():
        cells = (
            cell(entries[column], 2, interval=not column.startswith("auc"))
            for column in CLASS_COLUMNS
        )
        table.add_row(name, f"{entries['n']:,}", *cells)
    return table


def _affect(figures: dict[str, Any]) -> Table:
    constant = figures["baselines"].get(CONSTANT, {})
    table = _grid(
        f"Valence, {figures['valence']['n']:,} faces, and arousal, {figures['arousal']['n']:,}",
        ["figure", "valence", "constant", "arousal", "constant"],
    )
    for key, label in AFFECT_ROWS.items():
        row = [label]
        for name in ("valence", "arousal"):
            row += [cell(figures[name][key]), cell(constant.get(name, {}).get(key))]
        table.add_row(*row)
    return table


def _published(rows: Sequence[dict[str, Any]]) -> Table:
    """The published figures, a row a model."""
    table = _grid(
        "Published on AffectNet's test faces, as their authors give them (none reproduced here)",
        ["model", "8 cl.", "7 cl.", "V CCC", "V RMSE", "A CCC", "A RMSE", "source"],
    )
    models: dict[str, dict[str, Any]] = {}
    for row in rows:
        figure = f"{row['figure']} {row['classes'] or ''}".strip()
        models.setdefault(row["model"], {"source": _author(row)})[figure] = row
    columns = ("accuracy 8", "accuracy 7", "valence ccc", "valence rmse", "arousal ccc")
    for model, known in models.items():
        table.add_row(
            model, *(cell(known.get(name)) for name in (*columns, "arousal rmse")), known["source"]
        )
    return table


def _author(row: dict[str, Any]) -> str:
    """`Mao et al. 2023, arXiv:...` as `Mao 2023`."""
    return str(row["source"]).split(",")[0].replace(" et al.", "")


def _slices(column: str, block: dict[str, Any]) -> Table:
    table = _grid(
        f"By {column}", ["slice", "faces", "accuracy", "F1", "valence CCC", "arousal CCC"]
    )
    worst = (block["worst"] or {}).get("slice")
    for part in block["slices"]:
        table.add_row(
            part["slice"] + ("  (worst)" if part["slice"] == worst else ""),
            f"{part['n']:,}",
            cell(part["expression"]["accuracy"], 2),
            cell(part["expression"]["f1_macro"], 2),
            cell(part["valence"]["ccc"], 2),
            cell(part["arousal"]["ccc"], 2),
        )
    return table


def _notes(figures: dict[str, Any]) -> Text:
    protocol = figures["protocol"]
    lines = []
    said = figures["consistency"]["predicted"]
    if said["value"] is not None:
        annotated = cell(figures["consistency"]["annotated"])
        lines.append(f"Expression fits valence and arousal: {cell(said)}; annotations: {annotated}")
    if protocol["resamples"]:
        lines.append(
            f"In brackets: {protocol['level']:.0%} {protocol['interval']} bootstrap interval, "
            f"{protocol['resamples']:,} resamples"
            + (" within each class" if protocol["stratified"] else "")
        )
    for name, part in figures.get("slices", {}).items():
        if worst := part["worst"]:
            lines.append(
                f"Worst slice by {name}: {worst['slice']} ({worst['n']:,} faces), "
                f"{worst['by']} {worst['value']:.3f}"
            )
    lines += [f"Note: {note}" for note in protocol["notes"]]
    reasons: dict[str, list[str]] = {}
    for section in ("expression", "expression_7", "valence", "arousal"):
        for key, entry in figures[section].items():
            if isinstance(entry, dict) and entry.get("reason") and figures[section]["n"]:
                names = reasons.setdefault(entry["reason"], [])
                name = "seven classes" if section == "expression_7" else key
                names += [name] if name not in names else []
    lines += [f"No value or interval, {', '.join(names)}: {why}" for why, names in reasons.items()]
    return Text("\n".join(lines))


def _grid(title: str, columns: Sequence[str]) -> Table:
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column(columns[0], no_wrap=True)
    for name in columns[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    return table
