"""Paths in tables that lead out of the folder of the images: one rule for every release."""

import numpy as np
import pytest

from affectnet.data.readers.affectnet_csv import COLUMNS
from affectnet.data.readers.annotations import Bad, path_below
from affectnet.errors import ConfigError

VOTES = "0,9,0,0,0,0,0,0,0,0"  # happiness


def sources(kit, path: str) -> dict[str, dict[str, bytes | str]]:
    """A source of each release whose second image has this path, in a folder beside secret.png."""
    points = ";".join(f"{v:g}" for v in np.linspace(1, 14, 136))
    image = kit.image(0)
    csv = [f"{name},2,2,20,20,{points},1,0.5,0.5" for name in ("in/a.png", path)]
    return {
        "table": {"t.csv": f"image,label\na.png,happy\n{path},sad\n", "a.png": image},
        "affectnet_csv": {
            "training.csv": "\n".join([",".join(COLUMNS), *csv]),
            "in/a.png": image,
        },
        "ferplus": {
            "FER2013Train/label.csv": f"a.png,box,{VOTES}\n{path},box,{VOTES}\n",
            "FER2013Train/a.png": image,
        },
    }


@pytest.mark.parametrize("release", ["table", "affectnet_csv", "ferplus"])
@pytest.mark.parametrize("form", ["absolute", "above"])
def test_they_are_dropped_unless_allowed(kit, release, form):
    secret = kit.write({"secret.png": kit.image(1)}, "beside") / "secret.png"
    up = "../../beside/secret.png" if release == "ferplus" else "../beside/secret.png"
    path = str(secret) if form == "absolute" else up
    top = kit.write(sources(kit, path)[release])
    out, info = kit.ingest(top, release=release, val_fraction=0)
    assert info.dropped == {"unreadable id": 1}
    assert len(kit.rows(out)) == 1
    assert "--allow-outside accepts it" in (out / "dropped.csv").read_text()
    out, info = kit.ingest(top, release=release, val_fraction=0, allow_outside=True)
    assert len(kit.rows(out)) == 2
    assert not info.dropped


def test_the_flag_is_for_releases_with_paths(kit):
    top = kit.write({"happy/0.png": kit.image(0), "sad/0.png": kit.image(1)})
    with pytest.raises(ConfigError, match="--allow-outside does not apply to folder"):
        kit.ingest(top, allow_outside=True)


@pytest.mark.parametrize("path", ["/a.jpg", "../a.jpg", "a/../../b", "..\\a", "C:\\a.jpg", "C:/a"])
def test_what_leads_out(path):
    with pytest.raises(Bad):
        path_below(path, allow_outside=False)
    assert path_below(path, allow_outside=True) == path.replace("\\", "/")


@pytest.mark.parametrize("path", ["", "  ", "a\0b", "./", "a/" + "b" * 256])
def test_what_is_no_path(path):
    with pytest.raises(Bad):
        path_below(path, allow_outside=True)


@pytest.mark.parametrize(
    ("path", "wanted"), [("./a/b.jpg", "a/b.jpg"), ("a\\b", "a/b"), (" a..b ", "a..b")]
)
def test_what_stays_below(path, wanted):
    assert path_below(path, allow_outside=False) == wanted
