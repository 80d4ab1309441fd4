"""Build step: the README as a package index needs it, with absolute links and pictures.

An index page has no files beside it. With `Repository` in `[project.urls]`, relative links and
pictures point to the files of the tag there. Without it, links become plain text and pictures are
left out, so that the page shows nothing broken.
"""

import re
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[([^\[\]]*)\]\((?!\w+:|#)([^)\s]+)\)")
"""A Markdown link or picture with a relative address."""


def index_page(text: str, repository: str | None, ref: str = "HEAD") -> str:
    """Return the README with absolute links, or without relative ones if there is no address."""

    def absolute(match: re.Match[str]) -> str:
        picture, label, path = match.groups()
        if repository:
            kind = "raw" if picture else "blob"
            return f"{picture}[{label}]({repository.rstrip('/')}/{kind}/{ref}/{path})"
        return "" if picture else label

    return LINK.sub(absolute, text)


class IndexPage(MetadataHookInterface):
    """Sets `readme` in the metadata of the wheel and the source distribution."""

    def update(self, metadata: dict) -> None:  # type: ignore[type-arg]
        """Add the converted README."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository")
        version = metadata.get("version", "")
        ref = f"v{version}" if re.fullmatch(r"[\d.]+", version) else "HEAD"
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": index_page(text, repository, ref),
        }
