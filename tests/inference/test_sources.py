"""What the user names: files, folders, globs and cameras; nothing twice, nothing forgotten."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from affectnet.errors import DataError
from affectnet.inference.predictor import Predictor
from affectnet.inference.sources import InputSource, find_sources, unique_names


@pytest.fixture
def album(tmp_path: Path, photo_file: Path, walk: Path) -> Path:
    folder = tmp_path / "album"
    (folder / "sub" / "deep").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("b.JPG", "a.jpeg", "sub/deep/c.jpg", "notes.txt", "._a.jpg", ".hidden/d.jpg"):
        shutil.copy(photo_file, folder / name)
    shutil.copy(walk, folder / "sub" / "film.mp4")
    (folder / "sub" / "empty.png").touch()
    (folder / "sub" / "readme.md").write_text("BMI, P1 and GIF are words")
    (folder / "sub" / "broken.mkv").write_bytes(b"nothing")
    return folder


def test_a_folder_is_searched_recursively(album: Path) -> None:
    found = find_sources([str(album)])
    assert [(source.name, source.kind) for source in found] == [
        ("a.jpeg", "image"),
        ("b.JPG", "image"),
        ("notes.txt", "image"),  # by its content
        ("sub/broken.mkv", "video"),
        ("sub/empty.png", "image"),
        ("sub/film.mp4", "video"),
        ("sub/deep/c.jpg", "image"),
    ]
    assert all(Path(source.path).is_file() for source in found)


def test_links_to_folders_are_followed_once(album: Path, tmp_path: Path, photo_file: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(photo_file, elsewhere / "linked.jpg")
    (album / "to_elsewhere").symlink_to(elsewhere)
    (album / "again").symlink_to(elsewhere)
    (album / "sub" / "up").symlink_to(album)
    names = [source.name for source in find_sources([str(album)])]
    assert [name for name in names if "linked" in name] == ["again/linked.jpg"]
    assert len(names) == 8


def test_a_folder_that_cannot_be_read_is_reported(
    album: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, scandir, listdir = str(album / "sub" / "deep"), os.scandir, os.listdir

    def refuse(path: object) -> None:  # root may read everything, so chmod would not do
        if str(path) == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), closed)

    monkeypatch.setattr(os, "scandir", lambda path: refuse(path) or scandir(path))
    monkeypatch.setattr(os, "listdir", lambda path: refuse(path) or listdir(path))
    found = find_sources([str(album)])
    assert InputSource("image", closed, "sub/deep") in found
    result = predictor.predict(closed, on_error="keep")
    assert result.reason == "the file cannot be read: Permission denied"


def test_files_that_are_named_are_taken_whatever_their_name(album: Path) -> None:
    notes = str(album / "notes.txt")
    assert find_sources([notes]) == [InputSource("image", notes, "notes.txt")]
    film = album / "sub" / "film"
    (album / "sub" / "film.mp4").rename(film)
    assert find_sources([str(film)])[0].kind == "video"


def test_globs_are_expanded_and_nothing_comes_twice(album: Path) -> None:
    pattern = str(album / "**" / "*.jp*g")
    found = find_sources([pattern, str(album / "a.jpeg"), pattern])
    assert sorted(source.name for source in found) == ["a.jpeg", "c.jpg"]
    strange = album / "x[1].jpg"
    shutil.copy(album / "a.jpeg", strange)
    assert [source.path for source in find_sources([str(strange)])] == [str(strange)]


def test_a_number_is_a_camera_unless_a_file_is_called_so(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_sources(["0"]) == [InputSource("camera", "0", "camera-0")]
    Path("0").write_bytes(b"GIF89a")
    assert find_sources(["0"])[0].kind == "image"


def test_all_that_is_missing_is_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'no\.jpg', .*nothing\*', 'a\\x00b'"):
        find_sources(["no.jpg", str(tmp_path / "nothing*"), "a\0b"])
    with pytest.raises(DataError, match="no image and no video"):
        find_sources([str(tmp_path)])


def test_without_an_input_it_says_what_to_give() -> None:
    with pytest.raises(
        DataError, match=r"no input is given; give .* `affectnet predict photo.jpg`"
    ):
        find_sources(())


def test_names_of_outputs_are_never_shared() -> None:
    paths = ("a.jpg", "a.png", "A.jpg", "sub/a.jpg", "a-2.jpg")
    sources = [InputSource("image", str(i), name) for i, name in enumerate(paths)]
    names = unique_names(sources)
    assert len({name.casefold() for name in names}) == len(paths)
    assert names[0] == "a"
    assert names[3] == "sub/a"


def test_a_copy_never_has_the_path_of_a_folder() -> None:
    paths = (
        "dir.png",
        "dir.jpg/a.png",
        "v.mp4",
        "V.webm/x/b.png",
        "w.mp4",
        "w_over_time.png/c.png",
    )
    sources = [InputSource("image", str(i), name) for i, name in enumerate(paths)]
    names = unique_names(sources)
    assert names == ["dir-2", "dir.jpg/a", "v-2", "V.webm/x/b", "w-2", "w_over_time.png/c"]
