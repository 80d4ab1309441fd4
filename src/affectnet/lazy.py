"""Public names of a package that are imported when they are first used.

Imports nothing that takes time: the command handles signals only after `affectnet` is imported.
"""

import sys

TYPE_CHECKING = False  # known to type checkers; the one of `typing` would import it
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def lazy_names(package: str, file: str) -> "tuple[Callable[[str], Any], Callable[[], list[str]]]":
    """Return `__getattr__`, which also makes `__all__`, and `__dir__` for a package.

    The public names are those that its `__init__.py`, `file`, imports under `if TYPE_CHECKING:`.
    They are written once, type checkers know them, and importing the package stays fast.
    """
    homes: dict[str, str] = {}

    def names() -> list[str]:
        if not homes:
            homes.update(_homes(file))
        return sorted(homes)

    def load(name: str) -> "Any":
        from importlib import import_module

        if name == "__all__":
            return names()
        if name not in names():
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if homes[name] == package:
            return import_module(f"{package}.{name}")
        value = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return load, names


def _homes(file: str) -> dict[str, str]:
    """The module of each name that the source `file` imports under `if`."""
    import ast
    from pathlib import Path

    return {
        alias.name: line.module
        for block in ast.parse(Path(file).read_text(encoding="utf-8")).body
        if isinstance(block, ast.If)
        for line in block.body
        if isinstance(line, ast.ImportFrom) and line.module
        for alias in line.names
    }
