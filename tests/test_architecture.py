"""Imports go down only, no files import each other in a circle, the light half has no torch."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import affectnet
from affectnet.errors import installed

ROOT = Path(affectnet.__file__).parent
LEAVES = {"labels", "seven", "run", "threads", "errors", "version", "lazy"}
MIDDLE = {"evaluation", "models", "data"} | LEAVES
BELOW = {
    **dict.fromkeys(LEAVES, LEAVES),
    "config": set(),
    "recipes": {"errors"},
    "data": LEAVES,
    "models": LEAVES,
    "evaluation": LEAVES,
    "figures": {"evaluation"} | LEAVES,
    "training": MIDDLE | {"figures"},
    "inference": MIDDLE | {"figures"},
    "report": MIDDLE | {"figures", "inference"},
    "serve": MIDDLE | {"figures", "inference"},
    "commands": MIDDLE
    | {"serve", "report", "inference", "training", "figures", "config", "recipes"},
    "help": set(),
    "cli": {"config", "commands", "help", "recipes"} | LEAVES,
    "__main__": {"cli"},
    "__init__": {"inference", "figures", "report", "lazy", "version"},
}
"""What the files of each room may import beside their own room."""

COMMANDS_MADE_OF_OTHERS = {"demo", "benchmark", "report", "train"}
"""`demo` runs the other commands; `report --predictions` scores a file as `evaluate` does; `train`
has its settings in a file of their own; `benchmark` starts `affectnet train` and checks its command
lines first."""

NEED_TORCH = {
    "evaluation.torchmetrics",
    "inference.onnx_export",
    "inference.torch_classifier",
}
LIGHT_ROOMS = ("evaluation", "figures", "inference", *(["serve"] if installed("gradio") else []))


def modules() -> dict[str, Path]:
    """Every module by its name below `affectnet`; the package itself is `__init__`."""
    found = {}
    for file in sorted(ROOT.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        package = parts[-1] == "__init__" and len(parts) > 1
        found[".".join(parts[:-1] if package else parts)] = file
    return found


MODULES = modules()


def imported(file: Path) -> set[str]:
    """The modules that a file imports, at its top, inside functions and for type checks alike."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            module = node.module or ""
            names = [
                f"{module}.{alias.name}"
                if f"{module}.{alias.name}".removeprefix("affectnet.") in MODULES
                else module
                for alias in node.names
            ]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if name == "affectnet":
                found.add("__init__")
            elif name.startswith("affectnet."):
                found.add(name.removeprefix("affectnet."))
    return found


IMPORTS = {name: imported(file) for name, file in MODULES.items()}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_only(module: str) -> None:
    room = module.split(".")[0]
    allowed = BELOW[room] | ({room} if room != "commands" else set())
    if module.removeprefix("commands.") in COMMANDS_MADE_OF_OTHERS:
        allowed |= {"commands"}
    if module == "commands.benchmark":
        allowed |= {"cli"}
    assert {name.split(".")[0] for name in IMPORTS[module]} <= allowed


def test_no_two_files_import_each_other_in_a_circle() -> None:
    below: dict[str, set[str]] = {name: set(names) - {name} for name, names in IMPORTS.items()}
    while below:
        free = {name for name, names in below.items() if not names & below.keys()}
        assert free, f"circles among {sorted(below)}"
        below = {name: names for name, names in below.items() if name not in free}


def test_no_two_files_have_one_name() -> None:
    names = Counter(file.name for file in MODULES.values() if file.name != "__init__.py")
    assert [name for name, count in names.items() if count > 1] == []


LIGHT = [
    "affectnet",
    "affectnet.cli",
    "affectnet.data.crop",
    "affectnet.data.images",
    *(
        f"affectnet.{name}"
        for name in MODULES
        if name.split(".")[0] in LIGHT_ROOMS and name not in NEED_TORCH
    ),
]


def test_light_modules_load_no_torch() -> None:
    code = "; ".join(
        [
            "import sys",
            *(f"import {name}; assert 'torch' not in sys.modules, '{name}'" for name in LIGHT),
        ]
    )
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def imported_by(code: str, *args: str) -> set[str]:
    """The packages that Python imports while it runs some code."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code, *args],
        check=True,
        capture_output=True,
        text=True,
    )
    lines = (line for line in run.stderr.splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


RUN = "import sys; from affectnet import cli; sys.exit(cli.main(sys.argv[1:]))"
UNUSED = {"torch", "timm", "lightning", "pandas", "matplotlib", "scipy", "pyarrow", "gradio"}


def test_a_photo_is_predicted_without_what_it_does_not_need(
    photo_file: Path, tmp_path: Path
) -> None:
    found = imported_by(RUN, "predict", str(photo_file), "--out", str(tmp_path / "x.csv"))
    assert {"affectnet", "numpy", "cv2", "onnxruntime"} <= found
    assert not found & UNUSED
    assert (tmp_path / "x.csv").read_text().count("\n") == 2


def test_predictions_are_scored_without_what_that_does_not_need(tmp_path: Path) -> None:
    file = tmp_path / "p.csv"
    rows = ["id,expression,valence,arousal,expression_pred,valence_pred,arousal_pred"]
    rows += [f"{i},{i % 8},{i / 20},{-i / 20},{(i + i // 8) % 8},0.1,{i / 50}" for i in range(20)]
    file.write_text("\n".join(rows) + "\n")
    out = str(tmp_path / "m.json")
    found = imported_by(RUN, "evaluate", "--predictions", str(file), "--out", out)
    # pyarrow imports pandas where it is installed.
    assert not found & (UNUSED - {"scipy", "pyarrow", "pandas"} | {"cv2", "onnxruntime"})


def test_every_command_has_its_file_and_its_test() -> None:
    from affectnet.cli import COMMANDS

    tests = Path(__file__).parent / "commands"
    for name in COMMANDS:
        assert (ROOT / "commands" / f"{name}.py").is_file()
        assert (tests / f"test_{name}.py").is_file()
