"""Hook of mkdocs: links from a page to files outside of docs/, which a website does not have."""

import re
import tomllib
from pathlib import Path
from typing import Any

OUTSIDE = re.compile(r"\[([^\[\]]*)\]\((\.\./[^)\s]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links to files of the repository there, or make them text without an address."""
    project = Path(__file__).parents[1] / "pyproject.toml"
    urls = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["urls"]
    repository = urls.get("Repository")

    def outside(match: re.Match[str]) -> str:
        label, path = match.groups()
        if not repository:
            return f"{label} (`{path.removeprefix('../')}` in the repository)"
        return f"[{label}]({repository}/blob/HEAD/{path.removeprefix('../')})"

    return OUTSIDE.sub(outside, markdown)
