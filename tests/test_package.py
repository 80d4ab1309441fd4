"""The distribution: version, README on an index page, citation, Dockerfile, the Space."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
BUILD_FILES = ("pyproject.toml", "README.md", "LICENSE", "hatch_readme.py")

metadata = pytest.importorskip("hatchling.metadata.core", reason="hatchling is not installed")
plugin = pytest.importorskip("hatchling.plugin.manager")
pytest.importorskip("hatch_vcs", reason="hatch-vcs is not installed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that the build reads for the metadata, without Git."""
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def git(folder: Path, *args: str) -> None:
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *args], cwd=folder, check=True, capture_output=True)


def built(folder: Path) -> tuple[str, str]:
    """Version and long description in the metadata that a build would write."""
    found = metadata.ProjectMetadata(str(folder), plugin.PluginManager())
    return found.core.version or found.version, found.core.readme


@pytest.mark.skipif(not shutil.which("git"), reason="Git is not installed")
def test_the_version_is_the_tag(checkout: Path) -> None:
    git(checkout, "init")
    git(checkout, "add", ".")
    git(checkout, "commit", "-m", "first")
    assert re.match(r"0\.1\.0\.dev\d+\+g", built(checkout)[0])  # no tag yet
    git(checkout, "tag", "v3.4.5")
    assert built(checkout)[0] == "3.4.5"


def test_without_git_the_version_is_the_fallback(checkout: Path) -> None:
    assert built(checkout)[0] == "0.1.0.dev0"


def relative_links(text: str) -> list[str]:
    return re.findall(r"\]\((?!\w+:|#)[^)]*\)", text)


def test_the_index_page_has_no_relative_link(checkout: Path) -> None:
    assert relative_links((ROOT / "README.md").read_text(encoding="utf-8"))
    text = built(checkout)[1]
    assert "## Ethics" in text
    assert not relative_links(text)
    assert "![" not in text  # pictures would lead nowhere


@pytest.mark.skipif(not shutil.which("git"), reason="Git is not installed")
def test_with_an_address_links_and_pictures_point_to_the_tag(checkout: Path) -> None:
    file = checkout / "pyproject.toml"
    text = file.read_text(encoding="utf-8")
    line = '[project.urls]\nRepository = "https://git.example.org/us/affectnet"'
    file.write_text(text.replace("[project.urls]", line), encoding="utf-8")
    for args in (["init"], ["add", "."], ["commit", "-m", "first"], ["tag", "v3.4.5"]):
        git(checkout, *args)
    page = built(checkout)[1]
    assert not relative_links(page)
    at = "https://git.example.org/us/affectnet"
    assert f"({at}/blob/v3.4.5/docs/cvnet.md)" in page
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", page)
    assert pictures
    for picture in pictures:
        assert picture.startswith(f"{at}/raw/v3.4.5/")
        assert (ROOT / picture.removeprefix(f"{at}/raw/v3.4.5/")).is_file()


@pytest.mark.slow
def test_wheel_and_source_distribution_are_complete(tmp_path: Path) -> None:
    pytest.importorskip("build", reason="build is not installed")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*command, str(ROOT)], check=True, capture_output=True)
    (wheel,), (source,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    package = ROOT / "src"
    expected = {
        path.relative_to(package).as_posix()
        for path in (package / "affectnet").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert names == expected
    with tarfile.open(source) as file:
        inside = {name.partition("/")[2] for name in file.getnames()}
    for needed in ("README.md", "LICENSE", "CITATION.cff", "hatch_readme.py", "tests/conftest.py"):
        assert needed in inside
    (wheel_version,) = re.findall(r"-(.+)-py3", wheel.name)
    with zipfile.ZipFile(wheel) as file:
        assert file.read("affectnet/version.txt").decode().strip() == wheel_version


def test_the_citation_has_what_its_format_requires() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    citation = yaml.safe_load(text)
    assert citation["cff-version"] == "1.2.0"
    assert citation.keys() >= {"message", "title", "authors"}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'license = "{citation["license"]}"' in project
    for author in citation["authors"]:
        assert f'name = "{author["name"]}"' in project


def docker_command(instruction: str) -> list[str]:
    """The JSON list of an instruction of the Dockerfile."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (found,) = re.findall(rf"\b{instruction} (\[.*\])$", text, re.MULTILINE)
    return json.loads(found)


@contextmanager
def started(command: list[str], **env: str) -> Iterator[str]:
    """Run a server until the block ends, and return its address on this machine."""
    pytest.importorskip("gradio", reason="the extra `serve` is not installed")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"} | env
    )
    try:
        line = process.stdout.readline() if process.stdout else ""
        port = re.search(r":(\d+)", line)
        assert port, line
        yield f"http://127.0.0.1:{port[1]}"
        process.terminate()
        assert process.wait(timeout=60) == 0
    finally:
        process.kill()


def expression_of(photo: Path, address: str, **headers: str) -> str:
    request = urllib.request.Request(f"{address}/predict", photo.read_bytes(), headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["faces"][0]["expression"]


@pytest.mark.slow
def test_the_server_of_the_dockerfile_answers_and_is_healthy(photo_file: Path) -> None:
    entry = docker_command("ENTRYPOINT")
    assert entry[0] == "affectnet"
    command = [sys.executable, "-m", *entry, "--port", "0"]
    with started(command) as address:
        assert expression_of(photo_file, address) == "happiness"
        check = docker_command("CMD")
        assert check[0] == "python"
        code = check[2].replace("http://127.0.0.1:7860", address)
        assert code != check[2]
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    dead = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert dead.returncode == 1


def test_the_space_starts_under_its_name(photo_file: Path) -> None:
    space = ROOT / "examples" / "space"
    front = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert front["sdk"] == "docker"
    name = "somebody-affectnet.hf.space"
    with started([sys.executable, str(space / "app.py")], PORT="0", SPACE_HOST=name) as address:
        assert expression_of(photo_file, address, Host=name) == "happiness"
        with pytest.raises(urllib.error.HTTPError, match="421"):
            expression_of(photo_file, address, Host="elsewhere.example.org")
    dockerfile = (space / "Dockerfile").read_text(encoding="utf-8")
    assert f"EXPOSE {front['app_port']}" in dockerfile
    assert f'"PORT", "{front["app_port"]}"' in (space / "app.py").read_text(encoding="utf-8")
