import pytest

from affectnet.data.readers.affectnet_plus import images_by_stem
from affectnet.data.readers.archive import below, find_folders, read_member, walk
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


def test_each_folder_is_found_once_under_its_own_name(kit):
    top = kit.write({"a/train_set/x": b"", "a/train_set/train_set/x": b"", "b/x": b""})
    (top / "b" / "train_set").symlink_to(top / "a" / "train_set")
    (top / "c").symlink_to(top / "a")
    assert find_folders([top, top / "a"], ["train_set"]) == [top / "a" / "train_set"]
    linked = top / "b" / "train_set"  # an archive may be unpacked to a folder of the same name
    assert find_folders([linked], ["train_set"]) == [linked, linked / "train_set"]


def test_files_are_read_only_if_regular_and_small(kit, monkeypatch):
    top = kit.write({"a": b"abc"})
    assert read_member(top / "a") == (b"abc", 3)
    monkeypatch.setattr("affectnet.data.readers.archive.MAX_MEMBER", 2)
    assert read_member(top / "a") == (None, 3)
    with pytest.raises(OSError, match="not a regular file"):
        read_member(top)
