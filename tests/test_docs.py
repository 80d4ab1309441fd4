"""The documentation: links lead to existing pages and headings, and the map lists every module."""

import pkgutil
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "affectnet"
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")), *DOCS]
TREE_LINE = re.compile(r"^( *)([\w.]+/|\w+\.py)(?:  +(\S.*))?$")


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_pages_and_headings(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_file(), f"{page.name}: {link}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link}"


def test_the_readme_lists_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in DOCS:
        assert page.name == "index.md" or f"(docs/{page.name})" in text


def test_the_site_lists_every_page_once() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    pages = [page for section in nav for group in section.values() for page in group]
    assert sorted(pages) == [page.name for page in DOCS]


def test_files_and_names_in_the_docs_exist() -> None:
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # names of the past as well
            continue
        text = re.sub(r"https?://\S+", "", page.read_text(encoding="utf-8"))
        for name in re.findall(r"\b(?:\w+/)+\w+\.py\b", text):
            assert (ROOT / name).is_file() or (PACKAGE / name).is_file(), f"{page.name}: {name}"
        for name in re.findall(r"\baffectnet(?:\.(?!py\b|ipynb\b)\w+)+", text):
            if name != "affectnet.export":  # a metadata key of ONNX files
                pkgutil.resolve_name(name)


def mapped_files() -> dict[str, str]:
    """Return the paths below `src/affectnet` and their descriptions in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = text.split("## Map of every file")[1].split("```")[1]
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in tree.strip("\n").splitlines():
        match = TREE_LINE.match(line)
        assert match, f"cannot read the line {line!r} of the map"
        depth, name = len(match[1]) // 2, match[2]
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name)
        else:
            path = "".join(folders) + name
            assert path not in found, f"{path} is in the map twice"
            found[path] = match[3] or ""
    return found


def test_the_map_lists_every_module_once() -> None:
    modules = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py" or path.stat().st_size
    }
    files = mapped_files()
    assert set(files) == modules, (
        "update the map in docs/architecture.md: "
        f"missing {sorted(modules - set(files))}, removed {sorted(set(files) - modules)}"
    )
    assert all(files.values()), "every file of the map needs a description"
