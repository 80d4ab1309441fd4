"""`affectnet predict`: images, folders, videos and cameras to a table and annotated copies."""

import math
import sys
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
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
)
from affectnet.inference.baseline import Baseline
from affectnet.inference.detector import IMAGE_SIZE, VIDEO_SIZE, FaceDetector
from affectnet.inference.drawing import annotate
from affectnet.inference.film_summary import episodes_path, write_summaries
from affectnet.inference.people import MAX_PEOPLE
from affectnet.inference.predictor import Predictor, load
from affectnet.inference.result_files import ResultWriter, check_format, plain
from affectnet.inference.results import PictureResult, columns
from affectnet.inference.sources import InputSource, find_sources, unique_names
from affectnet.inference.terminal_summary import TerminalSummary
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
    from affectnet.inference.film import Film
    from affectnet.inference.video_reader import VideoReader

_JPEG_QUALITY = 90
_FREE_TO_CHANGE = (
    *("inputs", "out", "annotate", "video", "overwrite", "resume", "show"),
    *("summary", "report", "min_episode"),
    *("device", "provider", "batch_size", "workers"),
)
"""Settings that --resume may change: faces have the same results with each."""
_LIMITS: tuple[Limit, ...] = (
    (("stride", "batch_size"), lambda value: value >= 1, "at least 1"),
    (("fps", "seconds"), lambda value: value > 0, "above 0"),
    (("min_episode",), lambda value: 0 < value <= 60, "above 0, up to 60 seconds"),
    (("people",), lambda value: 1 <= value <= MAX_PEOPLE, f"1 to {MAX_PEOPLE}"),
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
    _check_films(config, predictor, sources)
    summary = TerminalSummary(show=config.out is None)
    films: list[Film] = []
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
                columns(film, config.baseline is not None, config.embedding),
                _settings(config),
            )
            sources = _unfinished(sources, targets, writer.finished)
            summary.before = len(writer.finished)
        written: list[Path] = []
        # After Ctrl-C and errors, too.
        stack.callback(
            lambda: summary.print([writer.where if writer else None, *written, config.annotate])
        )
        stack.callback(lambda: written.extend(_write_films(config, films)))
        results = _predict_all(config, predictor, sources, targets, films)
        _write_all(results, sources, writer, summary)
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
    summary: TerminalSummary,
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
    if config.resume and (config.summary or config.report):
        faults.append("--summary and --report need the whole film; leave out --resume")
    if config.summary is not None and config.summary.suffix.lower() != ".csv":
        faults.append(f"--summary {config.summary}: give a name that ends in .csv")
    if config.report is not None and config.report.suffix.lower() != ".html":
        faults.append(f"--report {config.report}: give a name that ends in .html")
    outputs = {"--out": config.out, "--summary": config.summary, "--report": config.report}
    if config.summary is not None:
        outputs["the episodes of --summary"] = episodes_path(config.summary)
    places: dict[Path, str] = {}
    for flag, path in outputs.items():
        if path is not None and (other := places.setdefault(path.resolve(), flag)) != flag:
            faults.append(f"{other} and {flag} are the same file, {path}; give two names")
    if config.resume and config.overwrite:
        faults.append("--resume and --overwrite are both given; leave one out")
    if config.annotate is not None and config.annotate.is_file():
        faults.append(f"--annotate {config.annotate} is a file; give a folder")
    faults.raise_all()


def _check_films(config: PredictConfig, predictor: Predictor, sources: list[InputSource]) -> None:
    """Raise where what is asked of films cannot be done, or would replace a file."""
    if config.baseline is not None:
        waits = Baseline(config.baseline, predictor).waits
        if waits and any(source.kind == "camera" for source in sources):
            raise ConfigError(
                f"--baseline {config.baseline} is known at the end of a film, and a camera has "
                "none; give a picture of the neutral face"
            )
    if config.people is not None:
        if any(source.kind == "camera" for source in sources):
            raise ConfigError("--people joins numbers at the end of a film, and a camera has none")
        if config.annotate is not None or config.show:
            raise ConfigError(
                "--people joins numbers at the end of a film, and films are annotated before that; "
                "leave out --annotate and --show, or --people"
            )
    films = [source for source in sources if source.kind != "image"]
    for flag, path in (("--summary", config.summary), ("--report", config.report)):
        if path is not None and not films:
            raise ConfigError(f"{flag} is for videos and cameras; none is among the inputs")
        if path is not None:
            refuse_existing(path, config.overwrite)
    if config.summary is not None:
        refuse_existing(episodes_path(config.summary), config.overwrite)
    if config.report is not None and len(films) > 1:
        raise ConfigError(f"--report makes the page of one film, and {len(films)} are given")


def _write_films(config: PredictConfig, films: "list[Film]") -> list[Path]:
    """Write the summary and the page of the films that ended; return their paths."""
    written = []
    summaries = [film.summary() for film in films]
    for one in summaries:
        if one.note and (config.summary or config.report):
            print(f"{one.source}: {one.note}")
    if config.summary is not None and films:
        write_summaries(config.summary, summaries, config.escape_formulas)
        written += [config.summary, episodes_path(config.summary)]
    if config.report is not None and films:
        from affectnet.report.film_page import write_film_page

        write_film_page(config.report, summaries[0], films[0].over_time)
        written.append(config.report)
    return written


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
    films: "list[Film]",
) -> Generator[PictureResult, None, None]:
    """Predict consecutive images together, and videos one by one, in the order given.

    `films` gets the videos that were predicted to their end.
    """
    bar: tqdm[Any]
    with tqdm(total=len(sources), unit="file", disable=None) as bar:
        for are_images, group in groupby(sources, lambda source: source.kind == "image"):
            if are_images:
                yield from _predict_images(config, predictor, group, targets, bar)
                continue
            for source in group:
                target = targets.get(source.path)
                yield from _predict_stream(config, predictor, source, target, films)
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
    config: PredictConfig,
    predictor: Predictor,
    source: InputSource,
    target: Path | None,
    films: "list[Film]",
) -> Iterator[PictureResult]:
    """Predict a video or a camera; with `target`, write the annotated video and the figure."""
    # PyAV is imported only where there is a video.
    from affectnet.inference.camera import Camera
    from affectnet.inference.film import Film
    from affectnet.inference.video import predict_video
    from affectnet.inference.video_reader import VideoReader
    from affectnet.inference.window import Window

    camera = source.kind == "camera"
    name = _name(source)
    video = None

    def frames() -> Iterator[tuple[PictureResult, Pixels | None]]:
        for result, pixels in results:
            named = replace(result, source=name)
            if video is not None and pixels is not None:
                video.write(named, pixels)
            bar.update()
            yield named, pixels
            if window is not None and pixels is not None:
                window.show(named, pixels)
                if window.closed:
                    return

    try:
        with ExitStack() as stack:
            reader = Camera(int(source.path)) if camera else VideoReader(source.path)
            stack.enter_context(reader)
            rate = reader.info.fps / config.stride
            rate = min(rate, config.fps) if config.fps else rate
            baseline = None if config.baseline is None else Baseline(config.baseline, predictor)
            pictures = config.report is not None
            film = Film(
                frames(), name, baseline, config.min_episode, pictures, people=config.people
            )
            if target is not None:
                affect = film if {"valence", "arousal"} & set(predictor.targets) else None
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
                keep_pixels=bool(video or pictures or window or config.people),
            )
            stack.enter_context(closing(results))
            ended = camera
            try:
                yield from film
                ended = True
            finally:
                film.close()
                if ended:
                    films.append(film)
    except DataError as error:
        yield PictureResult(name, None, None, reason=str(error))
    if video is not None and video.fault is not None:
        tqdm.write(f"{target}: {video.fault}", file=sys.stderr)


@contextmanager
def _annotated_video(
    target: Path, rate: float, sound: "VideoReader | None", film: "Film | None"
) -> "Iterator[AnnotatedVideo]":
    """Write an annotated video with its sound and, with `film`, its figure.

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
                if film is not None:
                    _save_over_time(film, target)


def _save_over_time(film: "Film", video: Path) -> None:
    """Write the figure of valence and arousal over time next to the annotated video."""
    from affectnet.figures.style import save_figure
    from affectnet.report.film_page import courses_figures

    (figure, *_) = courses_figures(film.over_time, 1)
    save_figure(figure, video.parent, f"{video.stem}_over_time", dpi=200)
