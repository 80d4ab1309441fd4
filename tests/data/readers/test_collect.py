import os
import random
import threading

import numpy as np
import pytest

from affectnet.data.readers import kept
from affectnet.data.readers.collect import Collector, Record
from affectnet.data.readers.kept import Scratch
from affectnet.data.readers.part import UNREADABLE
from affectnet.errors import DataError


def collect(kit, records, **settings):
    collector = Collector("part", Scratch(kit.folder), **settings)
    try:
        for record in records:
            if isinstance(record, Record):
                collector.add(record)
            else:
                collector.drop(record, UNREADABLE, "planted")
        return collector.finish()
    finally:
        collector.close()


def content(part) -> list:
    rows = np.arange(len(part))
    landmarks, absent = part.landmarks(rows)
    return [
        part.ids, part.expression.tolist(), part.images(rows), part.dropped, absent.tolist(),
        landmarks.tolist(), part.valence.tobytes(),
    ]  # fmt: skip


def test_neither_threads_nor_order_change_anything(kit):
    def record(i: int) -> Record:
        points = np.full((68, 2), i, np.float32) if i % 3 else None
        return Record(str(i), kit.image(i), i % 8, i / 100, landmarks=points)

    records = [record(i) for i in range(60)] + [Record("bad", b"no image", 1), "gone"]
    records += [record(3), Record("4", kit.image(99), 4, 0.04)]
    expected = content(collect(kit, records))
    assert len(expected[0]) == 59
    assert [line.reason for line in expected[3]] == [
        "duplicate id",
        "duplicate id",
        "undecodable image",
        "unreadable annotation",
    ]
    assert content(collect(kit, records, check="header")) == expected
    random.Random(0).shuffle(records)
    assert content(collect(kit, records)) == expected


@pytest.mark.parametrize("first", [True, False])
def test_an_id_of_a_bad_row_is_taken(kit, first):
    good = Record("a", kit.image(0), 1)
    rest = [good, "a"] if first else ["a", good]
    part = collect(kit, [*rest, Record("b", kit.image(1), 1)])
    assert part.ids == ["b"]
    assert sorted(line.reason for line in part.dropped) == ["duplicate id", "unreadable annotation"]


def test_files_are_read_where_they_lie(kit):
    top = kit.write({"1.png": kit.image(1), "2.png": kit.image(2)})
    part = collect(kit, [Record(str(i), top / f"{i}.png", i) for i in (1, 2)])
    assert part.images(np.array([1, 0])) == [kit.image(2), kit.image(1)]
    (top / "2.png").write_bytes(b"other")
    with pytest.raises(DataError, match=r"2\.png changed while it was read"):
        part.images(np.array([1]))
    (top / "2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png cannot be read"):
        part.images(np.array([1]))


def test_what_is_no_image_file_is_dropped_and_not_waited_for(kit, monkeypatch):
    top = kit.write({"good.png": kit.image(1), "huge.png": b"\0" * 2000})
    os.mkfifo(top / "pipe.png")
    monkeypatch.setattr(kept, "MAX_MEMBER", 1999)
    names = ["good.png", "huge.png", "pipe.png", "absent.png", ".", "x" * 300]
    made = []

    def work() -> None:
        made.append(collect(kit, [Record(name, top / name, 1) for name in names]))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(30)
    (part,) = made
    assert part.ids == ["good.png"]
    reasons = {line.id: line.reason for line in part.dropped}
    assert reasons.pop("huge.png") == "undecodable image"
    assert set(reasons.values()) == {"annotation without image"}


@pytest.mark.parametrize("name", ["", "a\nb", "a\0b", "\udcff", "\x1b[31m"])
def test_ids_that_are_no_text_are_dropped(kit, name):
    part = collect(kit, [Record(name, kit.image(0), 1), Record("ok", kit.image(1), 1)])
    assert part.ids == ["ok"]
    assert [line.reason for line in part.dropped] == ["unreadable id"]


@pytest.mark.parametrize("name", ["Żółć", "3.04\u202fPM", "👩‍🚀"])
def test_ids_in_any_script_are_kept(kit, name):
    assert collect(kit, [Record(name, kit.image(0), 1)]).ids == [name]


def test_nothing_usable_says_why(kit):
    with pytest.raises(DataError, match=r"not one of the 2 faces of part is usable: 2 x undec"):
        collect(kit, [Record("a", b"x", 1), Record("b", b"y", 1)])
