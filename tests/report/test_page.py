import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import write_faces

from affectnet.data.store import DatasetInfo, Split, open_split
from affectnet.errors import RunError
from affectnet.labels import EXPRESSIONS
from affectnet.report import contents as contents_module
from affectnet.report import samples as faces_module
from affectnet.report import write_report
from affectnet.report.contents import contents_of
from affectnet.report.page import face_data, face_strips, gallery_rows, page_of
from affectnet.report.runs import read_run, read_runs
from affectnet.report.samples import FaceSource, Thumbnails


def render(runs, **kwargs):
    return page_of(contents_of(runs, **kwargs))


HOSTILE = "</script><img src=x onerror=alert(1)>&\u2028{{7*7}}"


class ParsedPage(HTMLParser):
    """Links, ids and alternative texts of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.images, self.ids, self.anchors, self.tags = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.tags.append((tag, known))
        if "id" in known:
            self.ids.append(known["id"])
        for name in ("src", "href", "action", "data", "poster"):
            if known.get(name, "").startswith("#"):
                self.anchors.append(known[name][1:])
            elif name in known:
                self.links.append(known[name])
        if tag == "img":
            self.images.append(known.get("alt"))


def payload_of(text):
    (inside,) = re.findall(r'<script type="application/json" id="payload">(.*?)</script>', text)
    return json.loads(inside)


@pytest.fixture(scope="module")
def page(report):
    return report.read_text(encoding="utf-8")


def test_the_page_is_self_contained(page):
    parsed = ParsedPage(page)
    assert all(link.startswith("data:image/") for link in parsed.links)
    assert set(parsed.anchors) <= set(parsed.ids)
    assert len(set(parsed.ids)) == len(parsed.ids)
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page
    assert len(page.encode()) < 3_000_000


def test_every_figure_and_image_has_alternative_text(page):
    parsed = ParsedPage(page)
    figures = [known for tag, known in parsed.tags if tag == "svg" and known.get("class")]
    assert len(figures) == 2 * 8 + 4
    assert all(len(known["aria-label"]) > 20 for known in figures)
    assert parsed.images
    assert all(re.match(r"Face \d+: \w+, predicted \w+", alt) for alt in parsed.images)


def test_the_tables_have_all_runs_and_baselines(page, two_runs):
    for run in read_runs(two_runs, "test"):
        for value in (
            run.metrics["expression"]["krippendorff_alpha"]["value"],
            run.metrics["arousal"]["sagr"]["value"],
        ):
            assert f">{value:.3f}" in page
    assert "majority class" in page
    assert "constant mean" in page
    assert page.count('class="best"') >= 14


def test_the_data_of_the_faces(page, two_runs):
    data = payload_of(page)
    assert data["classes"] == list(EXPRESSIONS)
    assert [run["name"] for run in data["runs"]] == ["good", "poor"]
    for shown, run in zip(data["runs"], read_runs(two_runs, "test"), strict=True):
        p = run.predictions
        assert shown["n"] == len(p) == 112
        assert {row["id"] for row in shown["rows"]} == set(p.ids)
        row = shown["rows"][0]
        i = p.ids.index(row["id"])
        assert (row["t"], row["p"]) == (p.expression[i], p.expression_pred[i])
        np.testing.assert_allclose(row["q"], p.probabilities[i], atol=6e-4)
        assert row["vp"] == pytest.approx(p.valence_pred[i], abs=6e-4)
    # Both runs show the same faces: each image is included once.
    assert len(data["faces"]) == 112


def test_hostile_ids_and_names_stay_text(make_run):
    run = make_run("x<b>onload&'\"")
    path = run / "evaluation" / "test" / "predictions.parquet"
    table = pq.read_table(path)
    ids = [HOSTILE + one for one in table["id"].to_pylist()]
    pq.write_table(table.set_column(0, "id", pa.array(ids)), path)
    (run / "config.yaml").write_text(f"backbone: '{HOSTILE}'\n")
    text = render(read_runs([run], "test"))
    assert "onerror" not in [name for _, known in ParsedPage(text).tags for name in known]
    assert "<b>onload" not in text
    assert "<img src=x" not in text
    assert text.count("<script") == text.count("</script>") == 4
    assert "7*7" in text
    assert payload_of(text)["runs"][0]["rows"][0]["id"].startswith(HOSTILE)


def test_the_dataset_can_be_given(make_run, faces):
    run = make_run("moved", data="/no/such/place", epochs=0, valence=np.nan, arousal=np.nan)
    text = render(read_runs([run], "test"), datasets=[faces])
    assert len(payload_of(text)["faces"]) == 112


def test_a_page_without_the_dataset_and_some_scores(make_run, change_metrics):
    run = make_run("imageless", data="/no/such/place")

    def edit(known):
        known["expression"]["auc_roc_macro"] = {"value": None, "reason": "because <so>"}
        del known["valence"], known["baselines"], known["protocol"]

    change_metrics(run, edit)
    text = render(read_runs([run], "test"))
    assert 'title="because &lt;so&gt;">–' in text
    assert "Faces cannot be shown: /no/such/place is not a dataset" in text
    assert "The dataset was not found" in text
    assert payload_of(text)["faces"] == []
    assert ParsedPage(text).images == []
    assert "no image" in text


def test_a_run_without_epochs_labels_or_affect(make_run):
    run = make_run("bare", epochs=0, expression=-1, valence=np.nan, arousal=np.nan)
    text = render(read_runs([run], "test"))
    assert "Learning curves: no run has a metrics.csv" in text
    assert "Confusion matrix: no face has" in text
    assert "no face has annotated valence and arousal" in text


def test_only_images_that_are_shown_are_read(make_run, faces, monkeypatch):
    # Counts calls of the real reader: ten thousand predictions must not read as many images.
    run = make_run("large")
    path = run / "evaluation" / "test" / "predictions.parquet"
    table = pq.read_table(path)
    many = pa.concat_tables([table] * 100)
    ids = [f"{i}" for i in range(len(many))]
    pq.write_table(many.set_column(0, "id", pa.array(ids)), path)
    big = faces.parent / "big"
    if not big.exists():
        shutil.copytree(faces, big)
    read = []
    whole = Split.image_bytes
    monkeypatch.setattr(
        Split, "image_bytes", lambda split, row: read.append(row) or whole(split, row)
    )
    text = render(read_runs([run], "test"))
    assert len(payload_of(text)["runs"][0]["rows"]) <= 1000
    assert 0 < len(read) <= 1100


def test_runs_beyond_the_limit_appear_in_the_tables_only(make_run, monkeypatch):
    monkeypatch.setattr(contents_module, "MOST_DRAWN_RUNS", 1)
    less = {"epochs": 0, "valence": np.nan, "arousal": np.nan}
    runs = read_runs([make_run("good", **less), make_run("poor", seed=1, **less)], "test")
    text = render(runs)
    assert "Figures of poor are omitted" in text
    assert [run["name"] for run in payload_of(text)["runs"]] == ["good"]
    accuracy = runs[1].metrics["expression"]["accuracy"]["value"]
    assert f">{accuracy:.3f}" in text


def test_the_page_is_written_atomically_and_not_over_another(make_run, tmp_path):
    bare = {"epochs": 0, "expression": -1, "valence": np.nan, "arousal": np.nan}
    first, second = make_run("first", **bare), make_run("second", **bare)
    out = tmp_path / "new" / "report.html"
    assert write_report([first], out) == out
    assert out.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert list(out.parent.iterdir()) == [out]
    with pytest.raises(RunError, match="--overwrite"):
        write_report([second], out)
    write_report([second], out, overwrite=True)
    assert "<h1>second" in out.read_text(encoding="utf-8")


@pytest.mark.slow
def test_of_300000_predictions_few_images_are_decoded(make_run, faces, tmp_path, monkeypatch):
    split = open_split(faces, "test")
    n, some = 300_000, np.arange(300_000) % len(split)
    ids = [f"{i:06d}" for i in range(n)]
    data = tmp_path / "large"
    data.mkdir()
    rows = enumerate(some.tolist())
    write_faces(data / "test.arrow", (replace(split.face(row), id=ids[i]) for i, row in rows))
    counts = {"test": dict.fromkeys(EXPRESSIONS, n // 8)}
    DatasetInfo(["drawn"], "folder", counts, {}, "0" * 64, "0").write(data)
    run = make_run("large", data=str(data))
    path = run / "evaluation" / "test" / "predictions.parquet"
    table = pq.read_table(path)
    rows = np.array([table["id"].to_pylist().index(one) for one in split.ids])[some]
    pq.write_table(table.take(rows).set_column(0, "id", pa.array(ids)), path)
    decoded = []
    whole = faces_module.decode_image
    monkeypatch.setattr(
        faces_module, "decode_image", lambda *given: decoded.append(1) or whole(*given)
    )
    for out in ("report.html", "report.md"):
        decoded.clear()
        write_report([run], tmp_path / out)
        assert 0 < len(decoded) <= 1200
        assert (tmp_path / out).stat().st_size < 10_000_000


def test_strips_have_the_most_confident_faces_with_images(two_runs, faces):
    run, thumbnails = read_run(two_runs[1], "test"), Thumbnails(10**6)
    wrong, right = face_strips(run, FaceSource([faces], "test"), thumbnails)
    assert (wrong["title"], right["title"]) == ("Most confidently wrong", "Most confidently right")
    for strip, kind in ((wrong, False), (right, True)):
        assert len(strip["faces"]) == 12
        assert all((face["t"] == face["p"]) == kind for face in strip["faces"])
        sure = [face["c"] for face in strip["faces"]]
        assert sure == sorted(sure, reverse=True)
        assert all(face["image"] == thumbnails.uris[face["f"]] for face in strip["faces"])
    assert wrong["faces"][0]["c"] == pytest.approx(
        run.predictions.confidence[~run.predictions.right].max(), abs=6e-4
    )


def test_the_random_sample_is_marked(two_runs, faces):
    run = read_run(two_runs[0], "test")
    known = face_data(run, [3, 5], FaceSource([faces], "test"), Thumbnails(0))
    assert known["n"] == len(known["rows"]) == 112
    assert all(row["s"] == 1 and row["f"] is None for row in known["rows"])
    assert [row["id"] for row in known["rows"][:2]] == [run.predictions.ids[i] for i in (3, 5)]


def test_unknown_values_are_null(make_run, faces):
    run = read_run(make_run("half", expression=-1, arousal=np.nan), "test")
    row = face_data(run, [0], FaceSource([faces], "test"), Thumbnails(0))["rows"][0]
    assert row["t"] == -1
    assert row["a"] is None
    assert isinstance(row["v"], float)
    json.dumps(row, allow_nan=False)


def test_many_runs_share_the_gallery(two_runs):
    run = read_run(two_runs[0], "test")
    assert len(gallery_rows(run, 8)) <= 60 < len(gallery_rows(run, 1))
