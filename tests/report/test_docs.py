"""The Python example of docs/report.md runs, and its table lists every format."""

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "report.md"


def test_the_example_runs(make_run, tmp_path: Path) -> None:
    make_run("cvnet")
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    for name in ("report.pdf", "confusion.pdf"):
        assert (tmp_path / name).read_bytes().startswith(b"%PDF")


def test_the_docs_list_every_format() -> None:
    from affectnet.report.output import FORMATS

    assert re.findall(r"^\| `(\w+)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE) == list(
        FORMATS
    )
