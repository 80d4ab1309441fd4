"""The whole audit of a dataset folder: everything measured, and the findings in sentences."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from affectnet.data.audit.affect import Affect, Contradiction, contradictions, judge, summarise
from affectnet.data.audit.counts import Recognition, recognise
from affectnet.data.audit.duplicates import Group, find_duplicates
from affectnet.data.audit.findings import Finding, Severity, info, problem, share, warning
from affectnet.data.audit.mislabels import Suspects, suspect_labels
from affectnet.data.audit.scan import (
    AnySplit,
    Images,
    Rows,
    SomeRows,
    judge_images,
    scan_images,
    summarise_images,
)
from affectnet.data.readers.release_part import Reason
from affectnet.data.store import SPLITS, DatasetInfo, Split, open_split
from affectnet.errors import DataError, counted, suggest
from affectnet.labels import EXPRESSIONS, N_EXPRESSIONS
from affectnet.seven import CONTEMPT, classes_for

DUPLICATES = "duplicates"
LABELS = "labels"


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table of counts: faces of each expression, and which differ, both (8,)."""

    title: str
    counts: NDArray[np.int64]
    differs: NDArray[np.bool_]


@dataclass(frozen=True)
class Audit:
    """Everything that an audit measured of the dataset in `folder`.

    Rows count over all splits, one behind the other, as `rows` has them; `counts` is split -> faces
    of each expression, (8,).
    """

    folder: Path
    info: DatasetInfo
    splits: dict[str, AnySplit]
    rows: Rows
    counts: dict[str, NDArray[np.int64]]
    recognition: Recognition
    affect: Affect
    contradictions: list[Contradiction]
    images: Images
    duplicates: list[Group]
    suspects: Suspects | None
    findings: list[Finding]
    without_contempt: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """The expressions that are audited: the eight, or seven without contempt."""
        return classes_for(self.without_contempt)

    def number(self, severity: Severity) -> int:
        """Return how many findings have this severity."""
        return sum(finding.severity is severity for finding in self.findings)

    @property
    def passed(self) -> bool:
        """Whether there is no problem (information and warnings may be)."""
        return self.number(Severity.PROBLEM) == 0

    def name(self, row: int) -> str:
        """Return `split/id` of a row."""
        return f"{self.rows.split_of(row)}/{self.rows.ids[row]}"

    def image(self, row: int) -> memoryview:
        """Return the encoded image of a row."""
        split = self.rows.split_of(row)
        return self.splits[split].image_bytes(row - self.rows.start(split))

    def count_columns(self) -> list[Column]:
        """Return the counts by class as columns: each part's splits, their sum, the published."""
        columns = []
        compared: set[str] = set()
        for pair in self.recognition.comparisons:
            own = [split for split in pair.part.splits if split in self.counts]
            differs = pair.actual != np.array(pair.part.counts)
            alone = len(own) == 1
            same = np.zeros(N_EXPRESSIONS, bool)
            columns += [Column(name, self.counts[name], differs if alone else same) for name in own]
            if not alone:
                columns.append(Column(pair.where, pair.actual, differs))
            columns.append(Column("published", np.array(pair.part.counts), same))
            compared |= set(own)
        rest = [name for name in self.counts if name not in compared]
        return columns + [
            Column(name, self.counts[name], np.zeros(N_EXPRESSIONS, bool)) for name in rest
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, every list complete, as JSON can hold it."""
        rows = self.rows
        release = self.recognition.release
        return {
            "dataset": str(self.folder),
            "passed": self.passed,
            "findings": [
                {"severity": str(f.severity), "topic": f.topic, "text": f.text}
                for f in self.findings
            ],
            "release": release.title if release else None,
            "classes": list(self.classes),
            "counts": {
                split: dict(zip(self.classes, n.tolist(), strict=False))
                for split, n in self.counts.items()
            },
            "published": [
                {
                    "splits": list(c.part.splits),
                    "part": c.part.title,
                    "counts": dict(zip(self.classes, c.part.counts, strict=False)),
                }
                for c in self.recognition.comparisons
            ],
            "affect": {
                "n": self.affect.n,
                "zeros": dict(zip(("valence", "arousal"), self.affect.zeros, strict=True)),
                "valence_histogram": self.affect.valence.tolist(),
                "arousal_histogram": self.affect.arousal.tolist(),
                "class_means": {
                    name: mean.tolist()
                    for name, mean, n in zip(
                        EXPRESSIONS, self.affect.class_mean, self.affect.class_n, strict=True
                    )
                    if n
                },
            },
            "images": {
                "kinds": self.images.kinds,
                "sizes": {f"{w}x{h}": n for (w, h), n in self.images.sizes.items()},
                "grey": self.images.grey,
                "bytes": self.images.total_bytes,
                "plain": [self.name(row) for row in self.images.plain],
                "broken": {self.name(row): why for row, why in self.images.broken.items()},
            },
            "duplicates": [
                {
                    "kind": group.kind,
                    "leak": group.leak,
                    "faces": [
                        {
                            "split": rows.split_of(row),
                            "id": rows.ids[row],
                            "expression": expression_name(int(rows.expression[row])),
                        }
                        for row in group.rows
                    ],
                }
                for group in self.duplicates
            ],
            "contradictions": [
                {
                    "split": rows.split_of(found.row),
                    "id": rows.ids[found.row],
                    "expression": found.rule.expression,
                    "valence": float(rows.valence[found.row]),
                    "arousal": float(rows.arousal[found.row]),
                    "rule": str(found.rule),
                }
                for found in self.contradictions
            ],
            "likely_wrong_labels": self._suspects(),
        }

    def _suspects(self) -> dict[str, Any] | None:
        if self.suspects is None:
            return None
        found = self.suspects.found
        return {
            "split": self.suspects.split,
            "faces": self.suspects.n,
            "estimated_share": found.estimated_share,
            "rows": [
                {
                    "id": self.rows.ids[row],
                    "expression": expression_name(int(self.rows.expression[row])),
                    "suggested": expression_name(int(suggested)),
                    "margin": float(margin),
                }
                for row, suggested, margin in zip(
                    self.suspects.rows.tolist(), found.suggested, found.margin, strict=True
                )
            ],
        }


def expression_name(expression: int) -> str:
    """Return the name of an expression, `unlabelled` for -1."""
    return EXPRESSIONS[expression] if expression >= 0 else "unlabelled"


def audit_dataset(
    folder: Path,
    predictions: Path | None = None,
    split: str | None = None,
    without_contempt: bool = False,
) -> Audit:
    """Audit a dataset folder: counts, labels, images, duplicates, likely wrong labels.

    Args:
        folder: made by `affectnet ingest`.
        predictions: a model's probabilities for one split of it (see `suspect_labels`).
        split: that split, where its ids do not tell.
        without_contempt: audit the other faces alone, as seven classes; always so on a dataset that
            was ingested without contempt.

    Raises:
        DataError: no dataset is there, or the predictions do not belong to it.
    """
    known = DatasetInfo.read(folder)
    without_contempt = without_contempt or known.without_contempt
    splits: dict[str, AnySplit] = {
        name: open_split(folder, name) for name in SPLITS if _there(folder, name)
    }
    if not splits:
        raise DataError(f"{folder} has no split; make it again with `affectnet ingest`")
    if split is not None and split not in splits:
        raise DataError(
            f"{folder} has no split '{split}'{suggest(split, splits)}; it has {', '.join(splits)}"
        )
    rows = Rows.of(splits)
    if len(rows) == 0:
        raise DataError(f"{folder} has no faces; make it again with `affectnet ingest`")
    # Mistakes in the predictions come up before the minutes that the images take.
    suspects = suspect_labels(predictions, rows, split, without_contempt) if predictions else None
    left_out = int((rows.expression == CONTEMPT).sum()) if without_contempt else 0
    if left_out:
        kept = rows.expression != CONTEMPT
        if suspects:
            suspects = replace(suspects, rows=(np.cumsum(kept) - 1)[suspects.rows])
        splits = {
            name: SomeRows(part, np.flatnonzero(part.expression != CONTEMPT))
            for name, part in splits.items()
            if isinstance(part, Split)
        }
        rows = Rows.of(splits)
        if len(rows) == 0:
            raise DataError(f"every face of {folder} is of contempt, which was to be left out")
    counts = {name: _count(part.expression) for name, part in splits.items()}
    dropped = sum(known.dropped.values())
    recognition = recognise(
        counts,
        known.release,
        dropped - known.dropped.get(Reason.CONTEMPT_LEFT_OUT, 0),
        known.settings.get("max_per_class"),
        without_contempt,
    )
    affect = summarise(rows.expression, rows.valence, rows.arousal)
    odd = contradictions(rows.expression, rows.valence, rows.arousal)
    scan = scan_images(splits)
    images = summarise_images(scan)
    groups = find_duplicates(scan, rows)
    findings = [
        *recognition.findings,
        *([_seven(left_out)] if without_contempt else []),
        *_labels(rows, dropped),
        *judge(affect, odd, rows.expression, rows.valence, rows.arousal),
        *judge_images(images, recognition.release),
        *_duplicates(groups, rows),
        *(_suspicion(suspects) if suspects else []),
    ]
    return Audit(
        folder,
        known,
        splits,
        rows,
        counts,
        recognition,
        affect,
        odd,
        images,
        groups,
        suspects,
        findings,
        without_contempt,
    )


def _there(folder: Path, split: str) -> bool:
    return (folder / f"{split}.arrow").is_file()


def _count(expression: NDArray[np.int8]) -> NDArray[np.int64]:
    return np.bincount(expression[expression >= 0], minlength=N_EXPRESSIONS).astype(np.int64)


def _labels(rows: Rows, dropped: int) -> list[Finding]:
    findings = []
    unlabelled = int((rows.expression < 0).sum())
    if unlabelled:
        findings.append(
            info(LABELS, f"{counted(unlabelled, 'face')} of {len(rows):,} without expression")
        )
    if dropped:
        findings.append(
            info(LABELS, f"ingest left out {counted(dropped, 'row')}; dropped.csv says why")
        )
    return findings


def _seven(left_out: int) -> Finding:
    said = f"{counted(left_out, 'face')} of contempt left out here" if left_out else "as ingested"
    return info(LABELS, f"seven classes, without contempt: {said}")


def _duplicates(groups: list[Group], rows: Rows) -> list[Finding]:
    if not groups:
        return [info(DUPLICATES, "no picture comes twice")]
    findings = []
    leaks = [group for group in groups if group.leak]
    if leaks:
        findings.append(
            problem(
                DUPLICATES,
                f"{counted(len(leaks), 'picture')} in more than one split "
                f"({'; '.join(_leaked(leaks, rows))}): scores on such faces are scores on faces "
                "that were seen in training",
            )
        )
    disputed = sum(group.disputed for group in groups)
    if disputed:
        findings.append(
            warning(
                DUPLICATES,
                f"{counted(disputed, 'picture')} that come more than once with different "
                "expressions: one of the labels is wrong",
            )
        )
    spare = sum(len(group.rows) - 1 for group in groups)
    exact = sum(group.kind != "near" for group in groups)
    findings.append(
        warning(
            DUPLICATES,
            f"{counted(len(groups), 'picture')} more than once, with {counted(spare, 'face')} "
            f"({share(spare, len(rows))}) too many: {exact:,} copied exactly, "
            f"{len(groups) - exact:,} re-encoded, resized or cropped",
        )
    )
    return findings


def _leaked(leaks: list[Group], rows: Rows) -> list[str]:
    """For each later split, how many of its faces are in an earlier one too."""
    said = []
    for i, split in enumerate(rows.splits[1:], start=1):
        earlier = rows.splits[:i]
        hit = sum(
            sum(rows.split_of(row) == split for row in group.rows)
            for group in leaks
            if set(group.splits) & set(earlier)
        )
        total = int((rows.split == i).sum())
        if hit:
            said.append(
                f"{hit:,} of {total:,} {split} faces, {share(hit, total)}, are also in "
                f"{' or '.join(earlier)}"
            )
    return said


def _suspicion(suspects: Suspects) -> list[Finding]:
    findings = []
    if suspects.split == "train":
        findings.append(
            warning(
                LABELS,
                "the predictions are for the training split: a model that was trained on these "
                "labels hides their mistakes; predict a split that it has not seen",
            )
        )
    n = len(suspects.rows)
    text = (
        f"{counted(n, 'label')} of {suspects.n:,} in {suspects.split} likely wrong by confident "
        f"learning; estimated share of wrong labels "
        f"{share(round(suspects.found.estimated_share * suspects.n), suspects.n)}"
    )
    findings.append(warning(LABELS, text) if n else info(LABELS, text))
    return findings
