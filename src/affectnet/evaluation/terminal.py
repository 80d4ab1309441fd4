"""Tables on the terminal: those of scores, and an empty one for others."""

from collections.abc import Sequence
from io import StringIO
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from affectnet.evaluation.slices import FEW, classes_with_few_faces
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


def tables(metrics: dict[str, Any]) -> list[RenderableType]:
    """The tables of one metrics.json: expression, affect, classes, slices, and the notes."""
    found: list[RenderableType] = []
    if metrics["expression"]["n"]:
        found += [_expression(metrics), _classes(metrics["expression"])]
    if metrics["valence"]["n"] or metrics["arousal"]["n"]:
        found.append(_affect(metrics))
    found += [_slices(name, block) for name, block in metrics.get("slices", {}).items()]
    published = metrics["baselines"].get("published")
    return [*found, *([_published(published)] if found and published else []), _notes(metrics)]


def comparison_table(metrics: dict[str, Any]) -> RenderableType:
    """Two sets of predictions next to each other, their differences, and the verdict."""
    a, b = metrics["names"]
    title = f"{b} against {a}, {metrics['n']:,} faces"
    if lacks_contempt(metrics.get("classes", EXPRESSIONS)):
        title += ", seven classes"
    table = grid(title, ["metric", a, b, "difference", "better"])
    for group, rows in (
        ("expression", EXPRESSION_ROWS),
        ("valence", AFFECT_ROWS),
        ("arousal", AFFECT_ROWS),
    ):
        for key, label in rows.items():
            entry = metrics[group].get(key)
            if entry is None or entry["difference"] is None:
                continue
            apart = {"value": entry["difference"], "low": entry["low"], "high": entry["high"]}
            table.add_row(
                label if group == "expression" else f"{group} {label}",
                cell({"value": entry["a"]}),
                cell({"value": entry["b"]}),
                cell(apart),
                entry["better"] or "",
            )
    return Group(table, Text(metrics["verdict"]))


def to_text(found: Sequence[RenderableType]) -> str:
    """Render to plain text, 100 columns wide."""
    console = Console(file=StringIO(), width=WIDTH, color_system=None, highlight=False)
    console.print(Group(*found))
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
    """Without the zero before the point, as in papers, so that the tables stay narrow."""
    text = f"{value:.{places}f}"
    if float(text) == 0:
        text = text.removeprefix("-")
    return text.replace("0.", ".", 1) if text.removeprefix("-").startswith("0.") else text


def _expression(metrics: dict[str, Any]) -> Table:
    eight, seven = metrics["expression"], metrics["expression_7"]
    base = metrics["baselines"]
    only_seven = lacks_contempt(eight["classes"])
    title = f"Expression, {eight['n']:,} faces"
    people = base.get("two AffectNet annotators", {}).get("expression")
    columns = ["metric", "eight classes", "equal classes", "seven classes", "majority"]
    if only_seven:
        title += ", seven classes (without contempt)"
        columns = ["metric", "seven classes", "equal classes", "majority"]
    else:
        title += f" ({seven['n']:,} for seven classes)"
    table = grid(title, [*columns, *(["people"] if people else [])])
    for key, label in EXPRESSION_ROWS.items():
        table.add_row(
            label,
            cell(eight[key]),
            cell(eight["skew_normalised"].get(key), interval=False),
            *(() if only_seven else (cell(seven[key]),)),
            cell(base["majority class"]["expression"][key]),
            *((cell(people.get(key)),) if people else ()),
        )
    return table


def _classes(block: dict[str, Any]) -> Table:
    few = classes_with_few_faces(block)
    title = f"Each class ({FEW})" if few else "Each class"
    table = grid(title, ["class", "faces", *CLASS_COLUMNS.values()])
    for name, entries in block["per_class"].items():
        cells = (
            cell(entries[column], 2, interval=not column.startswith("auc"))
            for column in CLASS_COLUMNS
        )
        table.add_row(name, f"{entries['n']:,}" + " *" * (name in few), *cells)
    return table


def _affect(metrics: dict[str, Any]) -> Table:
    constant = metrics["baselines"].get("constant mean", {})
    table = grid(
        f"Valence, {metrics['valence']['n']:,} faces, and arousal, {metrics['arousal']['n']:,}",
        ["metric", "valence", "constant", "arousal", "constant"],
    )
    for key, label in AFFECT_ROWS.items():
        row = [label]
        for name in ("valence", "arousal"):
            row += [cell(metrics[name][key]), cell(constant.get(name, {}).get(key))]
        table.add_row(*row)
    return table


def _published(rows: Sequence[dict[str, Any]]) -> Table:
    """The published metrics, one row per model."""
    affect = any(not row["classes"] for row in rows)
    table = grid(
        f"Published for {rows[0]['data']}'s test faces, as their authors report them (none "
        "reproduced here; † the epoch was chosen on the test set, ‡ trained on a partial copy)",
        [
            *("model", "8 cl.", "7 cl."),
            *(("V CCC", "V RMSE", "A CCC", "A RMSE") if affect else ()),
            "source",
        ],
    )
    models: dict[str, dict[str, Any]] = {}
    for row in rows:
        metric = f"{row['figure']} {row['classes'] or ''}".strip()
        # `Mao et al. 2023, arXiv:...` as `Mao 2023`.
        author = row["source"].split(",")[0].replace(" et al.", "")
        author += " †" * (row["epoch"] == "test set") + " ‡" * ("partial copy" in row["note"])
        models.setdefault(row["model"], {"source": author})[metric] = row
    columns = ["accuracy 8", "accuracy 7"]
    if affect:
        affects = ("valence", "arousal")
        columns += [f"{name} {metric}" for name in affects for metric in ("ccc", "rmse")]
    for model, known in models.items():
        table.add_row(model, *(cell(known.get(name)) for name in columns), known["source"])
    return table


def _slices(column: str, block: dict[str, Any]) -> Table:
    table = grid(f"By {column}", ["slice", "faces", "accuracy", "F1", "valence CCC", "arousal CCC"])
    worst = (block["worst"] or {}).get("slice")
    for one in block["slices"]:
        table.add_row(
            one["slice"] + ("  (worst)" if one["slice"] == worst else ""),
            f"{one['n']:,}",
            cell(one["expression"]["accuracy"], 2),
            cell(one["expression"]["f1_macro"], 2),
            cell(one["valence"]["ccc"], 2),
            cell(one["arousal"]["ccc"], 2),
        )
    return table


def _notes(metrics: dict[str, Any]) -> Text:
    protocol = metrics["protocol"]
    lines = []
    predicted = metrics["consistency"]["predicted"]
    if predicted["value"] is not None:
        values = f"{cell(predicted)}; annotations: {cell(metrics['consistency']['annotated'])}"
        lines.append(f"Expression agrees with valence and arousal: {values}")
    if protocol["resamples"]:
        lines.append(
            f"In brackets: {protocol['level']:.0%} {protocol['interval']} bootstrap interval, "
            f"{protocol['resamples']:,} resamples"
            + (" within each class" if protocol["stratified"] else "")
        )
    if people := metrics["baselines"].get("two AffectNet annotators"):
        lines.append(f"People: {people['source']}")
    for name, block in metrics.get("slices", {}).items():
        if (worst := block["worst"]) and name != "duplicates":
            lines.append(
                f"Worst slice by {name}: {worst['slice']} ({worst['n']:,} faces), "
                f"{worst['by']} {worst['value']:.3f}"
            )
    lines += [f"Note: {note}" for note in protocol["notes"]]
    reasons: dict[str, list[str]] = {}
    for group in ("expression", "expression_7", "valence", "arousal"):
        for key, entry in metrics[group].items():
            if isinstance(entry, dict) and entry.get("reason") and metrics[group]["n"]:
                names = reasons.setdefault(entry["reason"], [])
                name = "seven classes" if group == "expression_7" else key
                names += [name] if name not in names else []
    lines += [f"No value or interval, {', '.join(names)}: {why}" for why, names in reasons.items()]
    if wilson := _wilson(metrics):
        lines.append(f"Wilson's interval, where the bootstrap gives none: {', '.join(wilson)}")
    return Text("\n".join(lines))


def _wilson(metrics: dict[str, Any]) -> list[str]:
    """The metrics with an interval that is not the bootstrap's."""
    found = []
    for group in ("expression", "valence", "arousal"):
        for name, block in [(group, metrics[group]), *metrics[group].get("per_class", {}).items()]:
            found += [
                f"{metric} of {name}"
                for metric, entry in block.items()
                if isinstance(entry, dict) and entry.get("interval") == "wilson"
            ]
    return found


def grid(title: str, columns: Sequence[str], numbers: int | None = None) -> Table:
    """Return an empty table whose last `numbers` columns are aligned right.

    By default these are all but the first. Cells are wrapped only in a table without numbers.
    """
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
    )
    texts = 1 if numbers is None else len(columns) - numbers
    for place, name in enumerate(columns):
        right = place >= texts
        table.add_column(name, justify="right" if right else "left", no_wrap=numbers != 0)
    return table
