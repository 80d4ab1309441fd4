"""Pieces of Markdown as GitHub and Hugging Face read it."""

import re
from collections.abc import Sequence


def md_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, numbers flush right."""
    rule = ["---", *(["---:"] * (len(columns) - 1))]
    lines = [[md_text(cell) for cell in row] for row in (columns, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (lines[0], rule, *lines[1:]))


def md_text(text: object) -> str:
    """Text as it is, nothing of it read as Markdown or HTML."""
    return re.sub(r"([\\`*\[\]<>#|]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(str(text).split()))
