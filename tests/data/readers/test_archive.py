import pytest

from affectnet.data.readers.affectnet_plus import images_by_stem
from affectnet.data.readers.archive import below, walk
from affectnet.errors import DataError


def test_files_and_folders_are_found_level_by_level(kit):
    top = kit.write({"b/a/x.csv": b"", "a/x.csv": b"", "x.csv": b"", ".git/x.csv": b""})
    found = [str(path.relative_to(top)) for path in below(top, lambda name: name == "x.csv")]
    assert found == ["x.csv", "a/x.csv", "b/a/x.csv"]
    folders = [str(path.relative_to(top)) for path in below(top, lambda n: n == "a", folders=True)]
    assert folders == ["a", "b/a"]


def test_depth_and_circles_are_bounded(kit):
    top = kit.write({"1/2/3/4/5/x": b"", "1/2/3/4/5/6/x": b""})
    (top / "1" / "back").symlink_to(top, target_is_directory=True)
    assert [p.parent.name for p in below(top, lambda name: name == "x")] == ["5"]
    assert len(list(walk(top))) == 6


def test_the_files_of_affectnet_are_not_searched(kit):
    top = kit.write({"train_set/images/x": b"", "images/x": b"", "train_set/lists/x": b""})
    found = [str(path.relative_to(top)) for path in below(top, lambda name: name == "x")]
    assert found == ["images/x", "train_set/lists/x"]


def test_too_many_folders_are_refused(kit, monkeypatch):
    monkeypatch.setattr("affectnet.data.readers.archive.MOST_FOLDERS", 3)
    with pytest.raises(DataError, match="over 3 folders"):
        list(walk(kit.write({f"{i}/x": b"" for i in range(4)})))


def test_images_by_stem(kit):
    top = kit.write({"a.jpg": b"", "a.PNG": b"", "b.x.Jpeg": b"", "c.txt": b"", "._d.jpg": b""})
    assert images_by_stem(top) == {"a": "a.PNG", "b.x": "b.x.Jpeg"}
