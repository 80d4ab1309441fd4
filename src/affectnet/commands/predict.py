"""`affectnet predict`: images, folders, videos and cameras to a table and annotated copies."""

import math
import sys
import time
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from affectnet.config import PredictConfig, settings_of
from affectnet.data.images import Pixels
from affectnet.errors import (
    FULL_DISK,
    ConfigError,
    DataError,
    Faults,
    Limit,
    Stopped,
    counted,
)
from affectnet.inference.detector import IMAGE_SIZE, VIDEO_SIZE, FaceDetector
from affectnet.inference.drawing import annotate, expression_text
from affectnet.inference.predictor import Predictor, load
from affectnet.inference.result_files import ResultWriter, check_format, plain
from affectnet.inference.results import PictureResult, columns
from affectnet.inference.sources import InputSource, find_sources, unique_names
from affectnet.inference.tracks import OverTime
from affectnet.models.model_config import untrained_note
from affectnet.run import (
    locked,
    plain_settings,
    refuse_existing,
    remove_leftovers,
    scratch_folder,
    write_beside,
)
from affectnet.threads import Background

if TYPE_CHECKING:
    from affectnet.inference.annotated_video import AnnotatedVideo
    from affectnet.inference.video_reader import VideoReader

_MAX_ROWS = 40
_PATH_LENGTH = 28
_JPEG_QUALITY = 90
_FREE_TO_CHANGE = (
    *("inputs", "out", "annotate", "video", "overwrite", "resume"),
    *("device", "provider", "batch_size", "workers"),
)
"""Settings that --resume may change: faces have the same results with each."""
_LIMITS: tuple[Limit, ...] = (
    (("stride", "batch_size"), lambda value: value >= 1, "at least 1"),
    (("fps", "seconds"), lambda value: value > 0, "above 0"),
    (("workers",), lambda value: 1 <= value <= 256, "1 to 256"),
)


def predict(config: PredictConfig) -> int:
    """Predict as `config` specifies; return 0, or 1 where no input could be read.

    Raises `ConfigError`, `RunError`, `WeightsError` or `DataError` before anything is written; an
    input that cannot be read afterwards becomes a row with the reason.
    """
    # Pillow's warnings about odd tags would break the progress bar; an unreadable image gets a row.
    warnings.filterwarnings("ignore", module=r"PIL\..*")
    _check(config)
    try:
        sources = find_sources(config.inputs)
    except DataError as error:
        raise ConfigError(str(error)) from None
    if config.show:
        from affectnet.inference.window import check_display

        if all(source.kind == "image" for source in sources):
            raise ConfigError(
                "--show needs a camera or a video, and all inputs are images; leave it out, or see "
                "them with --annotate DIR"
            )
        check_display()
    settings = settings_of(config, "device", "provider", "margin", "min_score", "detect_size")
    settings |= settings_of(config, "without_contempt", "flip", "prior", "prior_tau", "embedding")
    predictor = load(config.model, **settings)
    if note := untrained_note(predictor.targets):
        print(note)
    summary = _Summary(show=config.out is None)
    with ExitStack() as stack:
        writer = None
        if config.out is not None:
            stack.enter_context(locked(config.out))
            if not config.resume:
                otherwise = ", or continue it with --resume"
                refuse_existing(config.out, config.overwrite, otherwise)
        targets = _targets(config, sources)
        if config.out is not None:
            film = any(source.kind != "image" for source in sources)
            writer = ResultWriter(
                config.out,
                config.resume,
                summary.add,
                config.escape_formulas,
                columns(film, embedding=config.embedding),
                _settings(config),
            )
            sources = _unfinished(sources, targets, writer.finished)
            summary.before = len(writer.finished)
        # After Ctrl-C and errors, too.
        stack.callback(lambda: summary.print(config, writer.where if writer else None))
        _write_all(_predict_all(config, predictor, sources, targets), sources, writer, summary)
    return 1 if summary.all_unreadable else 0


def _settings(config: PredictConfig) -> dict[str, Any]:
    """Return the settings on which results depend, for the comparison with those of --resume."""
    settings = plain_settings(config)
    if Path(config.model).exists():
        settings["model"] = str(Path(config.model).resolve())
    return {name: value for name, value in settings.items() if name not in _FREE_TO_CHANGE}


def _write_all(
    results: Generator[PictureResult, None, None],
    sources: list[InputSource],
    writer: ResultWriter | None,
    summary: "_Summary",
) -> None:
    """Write the results as they come; without a writer they are only counted and shown."""
    if writer is None:
        with closing(results):
            for result in results:
                summary.add(result)
        return
    try:
        with writer, closing(results):
            try:
                for result in results:
                    # An input of before may be here again for its annotated copy.
                    if plain(str(result.source)) not in writer.finished:
                        writer.write(result)
            except (KeyboardInterrupt, Stopped):
                if [source.kind for source in sources] == ["camera"]:
                    writer.complete()  # a camera has no other end
                raise
            writer.complete()
    except OSError as error:
        if error.errno in FULL_DISK:
            raise DataError(
                f"the disk is full; free some space, then continue with --resume: {writer.where}"
            ) from error
        raise


def _check(config: PredictConfig) -> None:
    """Raise `ConfigError` that lists every wrong setting."""
    faults = Faults(config, _LIMITS)
    with faults.caught():
        FaceDetector(config.min_score, config.detect_size or IMAGE_SIZE)
    if config.out is not None:
        with faults.caught():
            check_format(config.out)
    if config.embedding and (config.out is None or config.out.suffix.lower() != ".parquet"):
        faults.append("--embedding writes to Parquet; give an --out that ends in .parquet")
    if config.resume and config.out is None:
        faults.append("--resume continues the file of --out; give --out")
    if config.resume and config.overwrite:
        faults.append("--resume and --overwrite are both given; leave one out")
    if config.annotate is not None and config.annotate.is_file():
        faults.append(f"--annotate {config.annotate} is a file; give a folder")
    faults.raise_all()


def _targets(config: PredictConfig, sources: list[InputSource]) -> dict[str, Path]:
    """Return the path of each source's annotated copy; empty where none are requested."""
    if config.annotate is None:
        return {}
    video = ""
    if any(source.kind != "image" for source in sources):
        from affectnet.inference.annotated_video import video_suffix

        video = video_suffix(config.video)
    extensions = {"image": ".jpg", "video": video, "camera": video}
    targets = {
        source.path: config.annotate / f"{name}{extensions[source.kind]}"
        for source, name in zip(sources, unique_names(sources), strict=True)
    }
    remove_leftovers(config.annotate, deep=True)
    if not config.resume:
        for path in targets.values():
            refuse_existing(path, config.overwrite)
    return targets


def _unfinished(
    sources: list[InputSource], targets: dict[str, Path], finished: set[str]
) -> list[InputSource]:
    """Return the sources that have no results yet, or whose annotated copy is missing."""
    return [
        source
        for source in sources
        if plain(_name(source)) not in finished
        or (source.path in targets and not targets[source.path].exists())
    ]


def _name(source: InputSource) -> str:
    """Return how results name a source."""
    return source.name if source.kind == "camera" else source.path


def _predict_all(
    config: PredictConfig,
    predictor: Predictor,
    sources: list[InputSource],
    targets: dict[str, Path],
) -> Generator[PictureResult, None, None]:
    """Predict consecutive images together, and videos one by one, in the order given."""
    bar: tqdm[Any]
    with tqdm(total=len(sources), unit="file", disable=None) as bar:
        for are_images, group in groupby(sources, lambda source: source.kind == "image"):
            if are_images:
                yield from _predict_images(config, predictor, group, targets, bar)
                continue
            for source in group:
                yield from _predict_stream(config, predictor, source, targets.get(source.path))
                bar.update()


def _predict_images(
    config: PredictConfig,
    predictor: Predictor,
    images: Iterable[InputSource],
    targets: dict[str, Path],
    bar: "tqdm[Any]",
) -> Iterator[PictureResult]:
    with ExitStack() as stack:
        prepared = predictor.prepare_all(
            ((image.path, None) for image in images),
            faces=config.faces,
            workers=config.workers,
            keep_pixels=bool(targets),
        )
        stack.callback(prepared.close)
        annotation = stack.enter_context(Background(_save_annotated, 4)) if targets else None
        for result, pixels in predictor.classify_all(prepared, config.batch_size):
            if annotation is not None and pixels is not None and result.source is not None:
                annotation.submit((targets[result.source], result, pixels))
            bar.update()
            yield result


def _save_annotated(item: tuple[Path, PictureResult, Pixels]) -> None:
    path, result, pixels = item
    with write_beside(path) as new:
        Image.fromarray(annotate(pixels, result)).save(new, quality=_JPEG_QUALITY)


def _predict_stream(
    config: PredictConfig, predictor: Predictor, source: InputSource, target: Path | None
) -> Iterator[PictureResult]:
    """Predict a video or a camera; with `target`, write the annotated video and the figure."""
    # PyAV is imported only where there is a video.
    from affectnet.inference.camera import Camera
    from affectnet.inference.video import predict_video
    from affectnet.inference.video_reader import VideoReader
    from affectnet.inference.window import Window

    camera = source.kind == "camera"
    name = _name(source)
    over_time = OverTime()
    video = None
    try:
        with ExitStack() as stack:
            reader = Camera(int(source.path)) if camera else VideoReader(source.path)
            stack.enter_context(reader)
            rate = reader.info.fps / config.stride
            rate = min(rate, config.fps) if config.fps else rate
            if target is not None:
                affect = over_time if {"valence", "arousal"} & set(predictor.targets) else None
                sound = reader if isinstance(reader, VideoReader) else None
                video = stack.enter_context(_annotated_video(target, rate, sound, affect))
            length = min(reader.info.seconds or math.inf, config.seconds or math.inf)
            total = None if math.isinf(length) else round(length * rate)
            bar: tqdm[Any] = tqdm(
                total=total, unit="frame", desc=source.name[-40:], leave=False, disable=None
            )
            stack.enter_context(bar)
            window = stack.enter_context(Window(source.name)) if config.show else None
            results = predict_video(
                predictor,
                reader,
                **settings_of(config, "faces", "search", "smoothing", "stride", "fps", "seconds"),
                **settings_of(config, "batch_size", "workers"),
                detect_size=config.detect_size or VIDEO_SIZE,
                keep_pixels=video is not None or window is not None,
            )
            stack.enter_context(closing(results))
            for result, pixels in results:
                named = replace(result, source=name)
                over_time.add(named)
                if video is not None and pixels is not None:
                    video.write(named, pixels)
                bar.update()
                yield named
                if window is not None and pixels is not None:
                    window.show(named, pixels)
                    if window.closed:
                        break
    except DataError as error:
        yield PictureResult(name, None, None, reason=str(error))
    if video is not None and video.fault is not None:
        tqdm.write(f"{target}: {video.fault}", file=sys.stderr)


@contextmanager
def _annotated_video(
    target: Path, rate: float, sound: "VideoReader | None", over_time: OverTime | None
) -> "Iterator[AnnotatedVideo]":
    """Write an annotated video with its sound and, with `over_time`, its figure.

    What a command that was stopped has made of them is kept, unless it would replace older ones.
    """
    from affectnet.inference.annotated_video import AnnotatedVideo

    keep = not target.exists()
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target.parent, f".{target.name}.", ".tmp") as folder:
        new = folder / target.name
        try:
            with AnnotatedVideo(new, rate, sound) as video:
                yield video
            keep = True
        except DataError:  # the video ends here
            keep = True
            raise
        finally:
            if keep and new.exists():
                new.replace(target)
                if over_time is not None:
                    _save_over_time(over_time, target)


def _save_over_time(over_time: OverTime, video: Path) -> None:
    """Write the figure of valence and arousal over time next to the annotated video."""
    from affectnet.figures.curves import MOST_LINES, Line, affect_over_time
    from affectnet.figures.style import save_figure

    courses = over_time.courses()
    lines = [
        Line(f"face {c.track}", c.time, c.valence, c.arousal, c.expression, c.step)
        for c in sorted(courses[:MOST_LINES], key=lambda course: course.track)
    ]
    figure = affect_over_time(lines, over_time.end, left_out=len(courses) - len(lines))
    save_figure(figure, video.parent, f"{video.stem}_over_time", dpi=200)


class _Summary:
    """Counts the results, and stores the first ones for the terminal."""

    def __init__(self, show: bool) -> None:
        self.rows: list[PictureResult] = []
        self.show = show
        self.images = self.frames = self.faces = self.faceless = 0
        self.unreadable: list[PictureResult] = []
        self.n_unreadable = 0
        self.started = time.monotonic()
        self.before = 0

    def add(self, result: PictureResult) -> None:
        """Add one image or frame."""
        if result.reason is not None:
            self.n_unreadable += 1
            if len(self.unreadable) < _MAX_ROWS:
                self.unreadable.append(result)
            return
        if result.frame is None:
            self.images += 1
        else:
            self.frames += 1
        self.faces += len(result.faces)
        self.faceless += not result.faces
        if self.show and len(self.rows) < _MAX_ROWS:
            self.rows.append(result)

    @property
    def all_unreadable(self) -> bool:
        """Whether no input could be read."""
        return self.n_unreadable > 0 and self.images + self.frames + self.before == 0

    def print(self, config: PredictConfig, out: str | None) -> None:
        """Print the table, if there is no --out, and the summary; `out` describes that file."""
        console = Console()
        if self.rows:
            console.print(_table(self.rows))
            hidden = self.images + self.frames - len(self.rows)
            if hidden > 0:
                console.print(f"and {hidden:,} more; --out FILE writes all of them")
        lines = [f"{result.source}: {result.reason}" for result in self.unreadable]
        for line in (*lines, self._last_line(config, out)):
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _last_line(self, config: PredictConfig, out: str | None) -> str:
        read = ((self.images, "image"), (self.frames, "frame"))
        counts = [counted(number, noun) for number, noun in read if number]
        line = f"{' and '.join(counts) or 'nothing read'}: {counted(self.faces, 'face')}"
        if self.faceless:
            line += f", {self.faceless:,} without a face"
        if self.n_unreadable:
            line += f"; {self.n_unreadable:,} unreadable"
        if self.before:
            line += f"; {counted(self.before, 'input')} finished before"
        line += f"; {time.monotonic() - self.started:,.1f} s"
        outputs = [str(path) for path in (out, config.annotate) if path is not None]
        return f"{line} -> {', '.join(outputs)}" if outputs else line


def _short(path: str | None) -> str:
    path = path or ""
    return path if len(path) <= _PATH_LENGTH else f"…{path[-_PATH_LENGTH + 1 :]}"


def _table(results: Iterable[PictureResult]) -> Table:
    table = Table(box=None, pad_edge=False)
    results = list(results)
    film = any(result.time is not None for result in results)
    widths = {"source": 0, **({"time": 7} if film else {})}
    widths |= {"face": 4, "expression": 14, "valence": 7, "arousal": 7}
    for name, width in widths.items():
        side: Literal["left", "right"] = "left" if name in ("source", "expression") else "right"
        table.add_column(name, justify=side, no_wrap=True, min_width=width)
    for result in results:
        first = [_short(result.source)]
        if film:
            first.append("" if result.time is None else f"{result.time:.2f} s")
        if not result.faces:
            table.add_row(*first, "", "no face", "", "")
        for number, face in enumerate(result.faces, 1):
            table.add_row(
                *first,
                str(face.track or number),
                expression_text(face) if face.expression else "",
                *("" if math.isnan(v) else f"{v:+.2f}" for v in (face.valence, face.arousal)),
            )
    return table
