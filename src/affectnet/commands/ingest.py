"""`affectnet ingest`: make a dataset from a release."""

import csv
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Never

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from tqdm import tqdm

from affectnet.config import IngestConfig, settings_of
from affectnet.data.groups import Selection, find_duplicates, join_values, note_copies
from affectnet.data.readers.classes import Classes
from affectnet.data.readers.detect import read_release
from affectnet.data.readers.engine import ReadOptions
from affectnet.data.readers.release_part import Dropped, RawRelease, Reason
from affectnet.data.readers.soft import SoftMatch, apply_soft
from affectnet.data.splits import cap_per_class, stratified_split
from affectnet.data.store import DROPPED_NAME, INFO_NAME, SPLITS, DatasetInfo
from affectnet.data.writer import content_hash, write_splits
from affectnet.errors import FULL_DISK, ConfigError, DataError, Faults, Limit, counted, suggest
from affectnet.evaluation.terminal import grid
from affectnet.labels import EXPRESSIONS
from affectnet.run import locked, refuse_existing, write_beside
from affectnet.seven import classes_for
from affectnet.version import __version__

_NO_COLUMN = frozenset({"duplicates", "none"})
_LIMITS: tuple[Limit, ...] = (
    (("val_fraction",), lambda value: 0 <= value < 1, "at least 0 and below 1"),
    (("max_per_class",), lambda value: value >= 1, "at least 1"),
    (("margin",), lambda value: -0.4 <= value <= 2, "-0.4 to 2"),
    (("face_size",), lambda value: 16 <= value <= 1024, "16 to 1024 pixels"),
)

_WITHOUT_PATHS = ("affectnet", "affectnet_plus", "folder")


def ingest(config: IngestConfig) -> DatasetInfo:
    """Read a release into the dataset folder `config.out`, and print its counts.

    The new dataset is written next to `config.out` and renamed when it is complete: after an error,
    a full disk, Ctrl-C or SIGTERM there is either the old dataset, complete, or nothing. With
    `config.verify` a dataset is compared with its content hash instead.

    Raises:
        ConfigError: a setting is out of its range.
        DataError: a source or a soft-label file cannot be used, or the disk is full.
        RunError: `config.out` exists and --overwrite was not given, or another process writes it.
    """
    _check_settings(config)
    if config.verify is not None:
        return _verify(config.verify)
    assert config.out is not None
    out = config.out.resolve()
    _check_out(out, config)
    try:
        # Files that were put into the old dataset in the meantime must not be deleted either.
        with (
            locked(out),
            _quiet_pillow(),
            write_beside(out, config.overwrite, partial(_refuse_other_files, config)) as new,
        ):
            _check_out(out, config)  # another process may have written it before the lock was free
            new.mkdir()
            info, matches, other_files = _build(config, new)
    except OSError as error:
        if error.errno in FULL_DISK:
            raise DataError(
                f"the disk of {config.out} is full; free some space or choose another --out (about "
                "the size of the sources is needed, twice that for compressed sources)"
            ) from error
        raise
    _print(config, info, matches, other_files)
    return info


def _check_settings(config: IngestConfig) -> None:
    faults = Faults(config, _LIMITS)
    if config.verify is not None:
        if config.sources or config.out:
            faults.append(
                "--verify reads a dataset and writes nothing; leave out sources and --out"
            )
        faults.raise_all()
        return
    if not config.sources:
        faults.append("no source given; give the tar files or folders of the release")
    if config.out is None:
        faults.append("missing: --out, the folder of the new dataset")
    with faults.caught():
        Classes(config.class_order)
    faults.raise_all()


def _verify(folder: Path) -> DatasetInfo:
    info = DatasetInfo.read(folder)
    found = content_hash(folder)
    if found != info.content_hash:
        raise DataError(
            f"{folder} was changed after ingest: the hash of its ids, labels and images is "
            f"{found[:16]}, that in {INFO_NAME} {info.content_hash[:16]}; make the dataset again"
        )
    print(f"{folder} is unchanged since ingest: content hash {found[:16]}")
    return info


def _check_out(out: Path, config: IngestConfig) -> None:
    """Refuse to replace anything but a dataset: --overwrite must not delete other files."""
    refuse_existing(out, config.overwrite)
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{config.out} is a file; --out names a folder")
    _refuse_other_files(config, out)


def _refuse_other_files(config: IngestConfig, folder: Path) -> None:
    ours = {INFO_NAME, DROPPED_NAME, *(f"{name}.arrow" for name in SPLITS)}
    others = sorted(path.name for path in folder.iterdir() if path.name not in ours)
    if others:
        raise DataError(
            f"{config.out} contains files that are not a dataset's ({', '.join(others[:3])}), "
            "which --overwrite would delete; move them away or choose another --out"
        )


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    """Hide Pillow's warnings: `dropped.csv` lists what it cannot read."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")
        yield


def _build(config: IngestConfig, folder: Path) -> tuple[DatasetInfo, list[SoftMatch], int]:
    """Read the sources and write the dataset into an empty folder."""
    with _Bars() as bars, _read(config, folder, bars) as release:
        _refuse_unused_settings(config, release)
        soft = [str(path) for path in config.soft]
        matches = apply_soft(soft, release.parts, release.splits)
        left = {
            name: part.leave_out_contempt() if config.without_contempt else np.ones(len(part), bool)
            for name, part in release.parts.items()
        }
        own, left_out = _select(config, release, left)
        sets = None if config.group == "none" else find_duplicates(own, folder)
        splits = _divide(config, own, sets)
        copies = None if sets is None else note_copies(splits, own, sets)
        total = sum(len(rows) for _, rows in splits.values())
        with tqdm(total=total, unit="face", desc="writing", disable=None) as bar:
            content = write_splits(folder, splits, bar.update)
        dropped = [line for part in release.parts.values() for line in part.dropped]
        other_files = release.other_files
    _write_dropped(folder / DROPPED_NAME, dropped)
    counts = Counter(line.reason for line in dropped)
    info = DatasetInfo(
        source=[str(path) for path in config.sources],
        release=release.name,
        counts={
            name: _count(part.expression[rows], config.without_contempt)
            for name, (part, rows) in splits.items()
        },
        dropped={reason.value: counts[reason] for reason in Reason if counts[reason]},
        content_hash=content,
        version=__version__,
        settings={
            **settings_of(config, "val_fraction", "seed", "max_per_class", "group"),
            "left_out_by_cap": left_out,
            **settings_of(config, "without_contempt", "check"),
            "soft": soft,
        }
        | release.settings,
        copies=copies,
    )
    info.write(folder)
    return info, matches, other_files


def _read(config: IngestConfig, scratch: Path, bars: "_Bars") -> RawRelease:
    names = {field.name for field in fields(ReadOptions) if hasattr(config, field.name)}
    group = None if config.group in _NO_COLUMN else config.group
    options = ReadOptions(
        scratch=scratch, progress=bars.new, group=group, **settings_of(config, *names - {"group"})
    )
    return read_release(config.release, config.sources, options)


def _refuse_unused_settings(config: IngestConfig, release: RawRelease) -> None:
    """Refuse a setting that does not apply to this release: it was given in error."""
    columns = {name for part in release.parts.values() for name in part.extra}
    if config.group not in {*_NO_COLUMN, *columns}:
        raise ConfigError(
            f"--group {config.group}: {release.name} has no such column"
            f"{suggest(config.group, columns)}; give {', '.join(sorted(columns | _NO_COLUMN))}"
        )
    if config.group not in _NO_COLUMN and "val" in release.splits:
        raise ConfigError(
            f"--group {config.group}: the release has a validation part of its own, so no rows are "
            "drawn; leave it out"
        )
    unused = {
        "--class-order": bool(config.class_order) and release.name not in ("folder", "table"),
        "--allow-outside": config.allow_outside and release.name in _WITHOUT_PATHS,
        "--allow-empty-classes": config.allow_empty_classes and release.name != "folder",
        "--labels shares": config.labels == "shares" and release.name != "ferplus",
    }
    for flag, wrong in unused.items():
        if wrong:
            raise ConfigError(
                f"{flag} does not apply to {release.name}, which the sources are; leave it out"
            )


def _select(
    config: IngestConfig, release: RawRelease, left: Mapping[str, NDArray[np.bool_]]
) -> tuple[Selection, int]:
    """Choose the rows of the release's own splits from those `left` in each part.

    Also returns how many rows the class cap left out.
    """
    rows = {name: np.flatnonzero(left[part]) for name, part in release.splits.items()}
    own = {name: release.parts[part] for name, part in release.splits.items()}
    left_out = 0
    if "train" in own:
        train = own["train"]
        capped = cap_per_class(train.ids, train.expression, config.max_per_class, config.seed)
        left_out = int((~capped[rows["train"]]).sum())
        rows["train"] = rows["train"][capped[rows["train"]]]
    return {name: (own[name], rows[name]) for name in SPLITS if name in own}, left_out


def _divide(config: IngestConfig, own: Selection, sets: NDArray[np.int64] | None) -> Selection:
    """Take the validation split from the training part where the release has none."""
    if "train" not in own or "val" in own:
        return own
    train, rows = own["train"]
    groups = None if sets is None else sets[: len(rows)]
    if groups is not None and config.group not in _NO_COLUMN:
        values = train.extra[config.group].take(pa.array(rows)).to_pylist()
        groups = join_values(groups, [None if value is None else str(value) for value in values])
    for_validation = stratified_split(
        [train.ids[row] for row in rows.tolist()],
        train.expression[rows],
        config.val_fraction,
        config.seed,
        groups,
    )
    divided = {"train": rows[~for_validation]}
    if for_validation.any():
        divided["val"] = rows[for_validation]
    return {name: (train, chosen) for name, chosen in divided.items()} | {
        name: pair for name, pair in own.items() if name != "train"
    }


def _count(labels: NDArray[np.int8], without_contempt: bool) -> dict[str, int]:
    counts = np.bincount(labels[labels >= 0], minlength=len(EXPRESSIONS)).tolist()
    named = dict(zip(classes_for(without_contempt), counts, strict=False))
    missing = int((labels < 0).sum())
    return named | ({"unlabelled": missing} if missing else {})


def _write_dropped(path: Path, dropped: Sequence[Dropped]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Dropped._fields)
        writer.writerows(dropped)


class _Bars:
    """One progress bar per source; silent outside a terminal."""

    def __init__(self) -> None:
        self._bar: tqdm[Never] | None = None

    def new(self, name: str) -> "_Bars":
        self.__exit__()
        desc = f"reading {Path(name).name}"
        self._bar = tqdm(desc=desc, unit="", unit_scale=True, disable=None)
        return self

    def __call__(self, done: int, total: int) -> None:
        if self._bar is not None and not self._bar.disable:
            self._bar.total = total
            self._bar.update(done - self._bar.n)

    def __enter__(self) -> "_Bars":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _print(
    config: IngestConfig, info: DatasetInfo, matches: Sequence[SoftMatch], other_files: int
) -> None:
    console = Console()
    faces = grid("Faces by expression and split", ["expression", *info.counts, "all"])
    splits = info.counts.values()
    unlabelled = ["unlabelled"] * any("unlabelled" in counts for counts in splits)
    rows = {n: [counts.get(n, 0) for counts in splits] for n in (*info.classes, *unlabelled)}
    for name, row in (rows | {"all": [sum(counts.values()) for counts in splits]}).items():
        if name == "all":
            faces.add_section()
        faces.add_row(name, *(f"{n:,}" for n in (*row, sum(row))))
    console.print(faces)
    if info.dropped:
        drops = grid("Dropped rows", ("reason", "rows"))
        for reason, count in info.dropped.items():
            drops.add_row(reason, f"{count:,}")
        console.print(drops)
        console.print(f"all dropped rows: {escape(f'{config.out}/{DROPPED_NAME}')}")
    else:
        console.print("dropped: none")
    left_out = info.settings["left_out_by_cap"]
    if left_out:
        console.print(f"left out by --max-per-class {config.max_per_class}: {left_out:,} faces")
    turned = info.settings["turned"]
    if turned:
        console.print(f"turned upright by their EXIF orientation: {counted(turned, 'image')}")
    for name, n in (info.copies or {}).items():
        if n:
            total = sum(info.counts[name].values())
            earlier = " or ".join(SPLITS[: SPLITS.index(name)])
            console.print(
                f"duplicates: {n:,} of {total:,} {name} faces are also in {earlier}, exactly or "
                "nearly; `affectnet train --leaks drop` leaves them out of training"
            )
    if other_files:
        console.print(f"skipped: {other_files:,} files that belong to no part of the release")
    for match in matches:
        lost = f"; {counted(match.unmatched, 'id')} not found" if match.unmatched else ""
        console.print(
            f"soft labels: {match.matched:,} faces of {match.part}{lost} ({escape(match.name)})"
        )
    console.print(f"dataset: {escape(str(config.out))}")
    console.print(f"content hash {info.content_hash[:16]}")
