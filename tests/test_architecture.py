"""Imports go down only, and the light parts stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import affectnet

ROOT = Path(affectnet.__file__).parent
LEAVES = {"labels", "errors", "run", ""}
BELOW = {
    "labels": set(),
    "errors": set(),
    "run": {"errors"},
    "config": set(),
    "recipes": {"errors"},
    "data": {"data"} | LEAVES,
    "models": {"models"} | LEAVES,
    "evaluation": {"evaluation"} | LEAVES,
    "training": {"training", "evaluation", "models", "data"} | LEAVES,
    "report": {"report", "evaluation", "models", "data"} | LEAVES,
    "inference": {"inference", "evaluation", "models", "data"} | LEAVES,
    "commands": {"report", "inference", "training", "evaluation", "models", "data", "config"}
    | {"recipes"}
    | LEAVES,
    "cli": {"config", "commands", "recipes"} | LEAVES,
    "__main__": {"cli"},
    "plots": {"report"} | LEAVES,
    "__init__": {"inference", "evaluation"} | LEAVES,
}
COMMANDS_MADE_OF_OTHERS = {"demo.py", "benchmark.py", "train.py"}
"""`train` has its settings in a file of their own."""


def imported(file: Path) -> set[str]:
    """First part below `affectnet` of everything that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{file}: relative import"
            names = [node.module]
            if node.module == "affectnet":
                names = [f"affectnet.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            if first == "affectnet":
                part = rest[0] if rest else ""
                found.add("" if part.startswith("__") else part)
    return found


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_imports_go_down_only(file: Path) -> None:
    part = file.relative_to(ROOT).parts[0].removesuffix(".py")
    allowed = set(BELOW[part])
    if part == "commands" and file.name in COMMANDS_MADE_OF_OTHERS:
        allowed.add("commands")
    assert imported(file) <= allowed


@pytest.mark.parametrize(
    "module", ["affectnet", "affectnet.cli", "affectnet.evaluation", "affectnet.plots"]
)
def test_light_modules_load_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_command_has_its_file_and_its_test() -> None:
    from affectnet.cli import COMMANDS

    tests = Path(__file__).parent / "commands"
    for name in COMMANDS:
        assert (ROOT / "commands" / f"{name}.py").is_file()
        assert (tests / f"test_{name}.py").is_file()
