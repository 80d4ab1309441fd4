"""The whole audit of a dataset folder: measurements, and findings in sentences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from affectnet.data.audit.affect import (
    AffectSummary,
    Contradiction,
    contradictions,
    judge,
    summarise,
)
from affectnet.data.audit.counts import Recognition, recognise
from affectnet.data.audit.duplicates import DuplicateGroup, find_duplicates
from affectnet.data.audit.findings import Finding, Severity, Topic, percentage
from affectnet.data.audit.mislabels import Suspects, suspect_labels
from affectnet.data.audit.scan import (
    AnySplit,
    DatasetRows,
    ImageSummary,
    SplitRows,
    judge_images,
    scan_images,
    summarise_images,
)
from affectnet.data.readers.release_part import Reason
from affectnet.data.store import DatasetInfo, Split, existing_splits, open_split
from affectnet.data.writer import content_hash
from affectnet.errors import DataError, counted, suggest
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS
from affectnet.seven import CONTEMPT, classes_for

DUPLICATES: Final = Topic("duplicates")
LABELS: Final = Topic("labels")
CONTENT: Final = Topic("content")


@dataclass(frozen=True, slots=True)
class CountColumn:
    """A column of the table of counts: faces per expression, and which differ, both (8,)."""

    title: str
    counts: NDArray[np.int64]
    differs: NDArray[np.bool_]


@dataclass(frozen=True)
class Audit:
    """Everything that an audit measured in the dataset in `folder`.

    Row numbers run over all splits, as in `rows`; `counts` is split -> faces per expression, (8,).
    """

    folder: Path
    info: DatasetInfo
    splits: dict[str, AnySplit]
    rows: DatasetRows
    counts: dict[str, NDArray[np.int64]]
    recognition: Recognition
    affect: AffectSummary
    contradictions: list[Contradiction]
    images: ImageSummary
    duplicates: list[DuplicateGroup]
    suspects: Suspects | None
    findings: list[Finding]
    without_contempt: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """The expressions that are audited: the eight, or seven without contempt."""
        return classes_for(self.without_contempt)

    def number(self, severity: Severity) -> int:
        """Return the number of findings with this severity."""
        return sum(finding.severity is severity for finding in self.findings)

    @property
    def passed(self) -> bool:
        """Whether there is no problem; information and warnings are allowed."""
        return self.number(Severity.PROBLEM) == 0

    def name(self, row: int) -> str:
        """Return `split/id` of a row."""
        return f"{self.rows.split_of(row)}/{self.rows.ids[row]}"

    def image(self, row: int) -> memoryview:
        """Return the encoded image of a row."""
        split = self.rows.split_of(row)
        return self.splits[split].image_bytes(row - self.rows.start(split))

    def count_columns(self) -> list[CountColumn]:
        """Return the counts per class as columns: each part's splits, their sum, the published."""
        columns = []
        rest = dict(self.counts)
        same = np.zeros(N_EXPRESSIONS, bool)
        for pair in self.recognition.comparisons:
            own = {name: rest.pop(name) for name in pair.part.splits if name in rest}
            published = np.array(pair.part.counts)
            if len(own) > 1:
                columns += [CountColumn(name, counts, same) for name, counts in own.items()]
            title = pair.where if len(own) > 1 else next(iter(own))
            columns.append(CountColumn(title, pair.actual, pair.actual != published))
            columns.append(CountColumn("published", published, same))
        return columns + [CountColumn(name, counts, same) for name, counts in rest.items()]

    def to_dict(self) -> dict[str, Any]:
        """Return the whole audit, every list complete, as values for JSON."""
        rows, affect = self.rows, self.affect
        release = self.recognition.release
        class_means = zip(EXPRESSIONS, affect.class_mean, affect.class_n, strict=True)
        return {
            "dataset": str(self.folder),
            "passed": self.passed,
            "findings": [
                {"severity": str(f.severity), "topic": f.topic, "text": f.text}
                for f in self.findings
            ],
            "release": release.title if release else None,
            "classes": list(self.classes),
            "counts": {split: self._by_class(n.tolist()) for split, n in self.counts.items()},
            "published": [
                {
                    "splits": list(c.part.splits),
                    "part": c.part.title,
                    "counts": self._by_class(c.part.counts),
                }
                for c in self.recognition.comparisons
            ],
            "affect": {
                "n": affect.n,
                "zeros": dict(zip(("valence", "arousal"), affect.zeros, strict=True)),
                "valence_histogram": affect.valence.tolist(),
                "arousal_histogram": affect.arousal.tolist(),
                "class_means": {name: mean.tolist() for name, mean, n in class_means if n},
            },
            "images": {
                "kinds": self.images.kinds,
                "sizes": {f"{w}x{h}": n for (w, h), n in self.images.sizes.items()},
                "grey": self.images.grey,
                "turned": self.images.turned,
                "bytes": self.images.total_bytes,
                "plain": [self.name(row) for row in self.images.plain],
                "broken": {self.name(row): why for row, why in self.images.broken.items()},
            },
            "duplicates": [
                {"kind": group.kind, "leak": group.leak, "faces": list(map(self._face, group.rows))}
                for group in self.duplicates
            ],
            "contradictions": [
                {
                    **self._face(found.row),
                    "valence": float(rows.valence[found.row]),
                    "arousal": float(rows.arousal[found.row]),
                    "rule": str(found.rule),
                }
                for found in self.contradictions
            ],
            "likely_wrong_labels": self._wrong_labels(),
        }

    def _by_class(self, counts: Sequence[int]) -> dict[str, int]:
        return dict(zip(self.classes, counts, strict=False))

    def _face(self, row: int) -> dict[str, Any]:
        name = expression_name(int(self.rows.expression[row]))
        return {"split": self.rows.split_of(row), "id": self.rows.ids[row], "expression": name}

    def _wrong_labels(self) -> dict[str, Any] | None:
        if self.suspects is None:
            return None
        found = self.suspects.found
        rows = zip(self.suspects.rows.tolist(), found.suggested, found.margin, strict=True)
        return {
            "split": self.suspects.split,
            "faces": self.suspects.n,
            "estimated_share": found.estimated_fraction,
            "rows": [
                {
                    "id": self.rows.ids[row],
                    "expression": expression_name(int(self.rows.expression[row])),
                    "suggested": expression_name(int(suggested)),
                    "margin": float(margin),
                }
                for row, suggested, margin in rows
            ],
        }


def expression_name(expression: int) -> str:
    """Return the name of an expression, `unlabelled` for -1."""
    return EXPRESSIONS[expression] if expression >= 0 else "unlabelled"


def audit_dataset(
    folder: Path | str,
    predictions: Path | str | None = None,
    split: str | None = None,
    without_contempt: bool = False,
) -> Audit:
    """Audit a dataset folder: counts, labels, images, duplicates, likely wrong labels.

    Args:
        folder: made by `affectnet ingest`.
        predictions: a model's probabilities for one split of it (see `suspect_labels`).
        split: that split, where its ids do not determine it.
        without_contempt: audit only the other seven classes; always on for a dataset that was
            ingested without contempt.

    Raises:
        DataError: the folder is not a dataset, or the predictions do not belong to it.
    """
    folder = Path(folder)
    known = DatasetInfo.read(folder)
    without_contempt = without_contempt or known.without_contempt
    splits = _open_splits(folder, split)
    rows = DatasetRows.of(splits)
    if len(rows) == 0:
        raise DataError(f"{folder} has no faces; make it again with `affectnet ingest`")
    # Errors in the predictions are raised before the minutes that the images take.
    suspects = suspect_labels(predictions, rows, split, without_contempt) if predictions else None
    left_out = int((rows.expression == CONTEMPT).sum()) if without_contempt else 0
    if left_out == len(rows):
        raise DataError(f"all faces in {folder} are of contempt, which is left out")
    selected: dict[str, AnySplit] = dict(splits)
    if left_out:
        used = rows.expression != CONTEMPT
        if suspects:
            suspects = replace(suspects, rows=(np.cumsum(used) - 1)[suspects.rows])
        for name, part in splits.items():
            selected[name] = SplitRows(part, np.flatnonzero(part.expression != CONTEMPT))
        rows = DatasetRows.of(selected)
    counts = {
        name: np.bincount(part.expression[part.expression >= 0], minlength=N_EXPRESSIONS)
        for name, part in selected.items()
    }
    dropped = sum(known.dropped.values())
    recognition = recognise(
        counts,
        known.release,
        dropped - known.dropped.get(Reason.CONTEMPT_LEFT_OUT, 0),
        known.settings.get("max_per_class"),
        without_contempt,
    )
    labels = (rows.expression, rows.valence, rows.arousal)
    affect = summarise(*labels)
    found = contradictions(*labels)
    scan = scan_images(selected)
    images = summarise_images(scan)
    duplicates = find_duplicates(scan, rows)
    findings = [
        *_content_findings(folder, known),
        *recognition.findings,
        *_label_findings(rows, dropped, left_out if without_contempt else None),
        *judge(affect, found, *labels),
        *judge_images(images, recognition.release),
        *_duplicate_findings(duplicates, rows),
        *(_suspect_findings(suspects) if suspects else []),
    ]
    return Audit(
        folder,
        known,
        selected,
        rows,
        counts,
        recognition,
        affect,
        found,
        images,
        duplicates,
        suspects,
        findings,
        without_contempt,
    )


def _open_splits(folder: Path, wanted: str | None) -> dict[str, Split]:
    splits = {name: open_split(folder, name) for name in existing_splits(folder)}
    if not splits:
        raise DataError(f"{folder} has no split; make it again with `affectnet ingest`")
    if wanted is not None and wanted not in splits:
        raise DataError(
            f"{folder} has no split '{wanted}'{suggest(wanted, splits)}; it has {', '.join(splits)}"
        )
    return splits


def _content_findings(folder: Path, info: DatasetInfo) -> Iterator[Finding]:
    found = content_hash(folder)
    if found != info.content_hash:
        yield CONTENT.problem(
            f"ids, labels or images were changed after ingest: their hash is {found[:16]}, that in "
            f"dataset.json {info.content_hash[:16]}; make the dataset again"
        )


def _label_findings(rows: DatasetRows, dropped: int, left_out: int | None) -> Iterator[Finding]:
    """`left_out` is the number of faces of contempt, None with eight classes."""
    if left_out is not None:
        text = f"{counted(left_out, 'face')} of contempt left out" if left_out else "as ingested"
        yield LABELS.info(f"seven classes, without contempt: {text}")
    unlabelled = int((rows.expression < 0).sum())
    if unlabelled:
        yield LABELS.info(f"{counted(unlabelled, 'face')} of {len(rows):,} without expression")
    if dropped:
        yield LABELS.info(f"ingest dropped {counted(dropped, 'row')}; dropped.csv has the reasons")


def _duplicate_findings(groups: list[DuplicateGroup], rows: DatasetRows) -> Iterator[Finding]:
    if not groups:
        yield DUPLICATES.info("no image appears more than once")
        return
    leaks = [group for group in groups if group.leak]
    if leaks:
        yield DUPLICATES.problem(
            f"{counted(len(leaks), 'image')} in more than one split "
            f"({'; '.join(_leaked(leaks, rows))}): scores on such faces are scores on faces "
            "seen in training"
        )
    disputed = sum(group.disputed for group in groups)
    if disputed:
        yield DUPLICATES.warning(
            f"{counted(disputed, 'image')} that appear more than once with different "
            "expressions: one of the labels is wrong"
        )
    spare = sum(len(group.rows) - 1 for group in groups)
    exact = sum(group.kind != "near" for group in groups)
    yield DUPLICATES.warning(
        f"{counted(len(groups), 'image')} more than once, with {counted(spare, 'face')} "
        f"({percentage(spare, len(rows))}) too many: {exact:,} copied exactly, "
        f"{len(groups) - exact:,} re-encoded, resized or cropped"
    )


def _leaked(leaks: list[DuplicateGroup], rows: DatasetRows) -> list[str]:
    """List for each later split how many of its faces are also in an earlier one."""
    texts = []
    for i, split in enumerate(rows.splits[1:], start=1):
        earlier = rows.splits[:i]
        hit = sum(
            sum(rows.split_of(row) == split for row in group.rows)
            for group in leaks
            if set(group.splits) & set(earlier)
        )
        total = int((rows.split == i).sum())
        if hit:
            texts.append(
                f"{hit:,} of {total:,} {split} faces, {percentage(hit, total)}, are also in "
                f"{' or '.join(earlier)}"
            )
    return texts


def _suspect_findings(suspects: Suspects) -> Iterator[Finding]:
    if suspects.split == "train":
        yield LABELS.warning(
            "the predictions are for the training split: a model trained on these labels "
            "hides their mistakes; predict a split that it has not seen"
        )
    n = len(suspects.rows)
    text = (
        f"{counted(n, 'label')} of {suspects.n:,} in {suspects.split} likely wrong by confident "
        f"learning; estimated fraction of wrong labels "
        f"{percentage(round(suspects.found.estimated_fraction * suspects.n), suspects.n)}"
    )
    yield LABELS.warning(text) if n else LABELS.info(text)
