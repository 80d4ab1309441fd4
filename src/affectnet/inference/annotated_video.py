"""Annotated videos, by PyAV (FFmpeg): the frames at their own times, with the original sound."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import av
import cv2
import numpy as np

from affectnet.data.images import Pixels
from affectnet.errors import ConfigError, DataError
from affectnet.inference.drawing import annotate
from affectnet.inference.panels import DrawnImage, Traces
from affectnet.inference.video_reader import VideoReader, demux, open_media
from affectnet.threads import Background

CODECS: Final = {
    ".mp4": {
        # Frames out of order would make the stated length too short where the frame rate varies.
        "libx264": {"preset": "veryfast", "crf": "20", "bf": "0"},
        "libopenh264": {"b": "4000000"},
    },
    ".webm": {
        "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "row-mt": "1", "crf": "32"},
        "libvpx": {"deadline": "realtime", "cpu-used": "8", "crf": "12", "b": "4000000"},
    },
}
"""Encoders by extension, the best first, with their settings: H.264, VP9 and VP8. All browsers play
them."""
VIDEO_SIDE: Final = 2048
"""Long side of the frames at most, in pixels."""
_KEPT_SOUND: Final = {
    ".mp4": ("aac", "mp3", "opus", "flac", "alac", "ac3", "eac3"),
    ".webm": ("opus", "vorbis"),
}
_SOUND_ENCODER: Final = {".mp4": "aac", ".webm": "libopus"}
_CLOCK: Final = Fraction(1, 90_000)
_DEPTH = 4


def _encoder(suffix: str) -> str | None:
    """Return the best encoder of a video with this extension that FFmpeg has, or None."""
    for name in CODECS[suffix]:
        with suppress(ValueError, av.FFmpegError):
            av.codec.Codec(name, "w")
            return name
    return None


def video_suffix(kind: str = "auto") -> str:
    """Return the extension of annotated videos: `.mp4` where FFmpeg encodes H.264, else `.webm`.

    Raises `ConfigError` where FFmpeg does not encode the given kind (`mp4` or `webm`).
    """
    suffixes = tuple(CODECS) if kind == "auto" else (f".{kind}",)
    for suffix in suffixes:
        if _encoder(suffix):
            return suffix
    raise ConfigError(
        f"this FFmpeg does not encode {' or '.join(s[1:] for s in suffixes)} videos; install the "
        "`av` package from PyPI, or choose another format with --video"
    )


def encoder_of(suffix: str) -> str:
    """Return the best encoder of a video with this extension; raises as `video_suffix`."""
    return _encoder(video_suffix(suffix[1:])) or ""


class AnnotatedVideo:
    """Writes a video with the faces drawn in, in its own thread; a context manager.

    Every frame is shown at its own time. The sound of the original is copied; where the format does
    not hold its codec, it is encoded again, as AAC or Opus.

    Args:
        path: the file, which ends in one of `CODECS`.
        fps: frames per second on average, for the encoder.
        sound: the reader of the original; None where there is none, as for a camera.

    Attributes:
        fault: what is missing of the sound; None where nothing is. Known at the end.

    Raises `ConfigError` for another extension, or where FFmpeg does not encode it.
    """

    def __init__(self, path: Path, fps: float, sound: VideoReader | None = None) -> None:
        suffix = path.suffix.lower()
        if suffix not in CODECS:
            raise ConfigError(f"{path}: an annotated video must end in {' or '.join(CODECS)}")
        self._encoder = encoder_of(suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.fps, self._source = path, fps, sound
        self.fault: str | None = None
        self._traces = Traces()
        self._output: Any = None
        self._stream: Any = None
        self._sound: Iterator[tuple[float, Any]] = iter(())
        self._waiting: tuple[float, Any] | None = None
        self._start: float | None = None
        self._ticks = -1
        self._background = Background(self._draw, _DEPTH)

    def write(self, result: DrawnImage, pixels: Pixels) -> None:
        """Hand over the next frame; waits while several wait already."""
        self._background.submit((result, pixels))

    def __enter__(self) -> "AnnotatedVideo":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._background.__exit__(*error)
        finally:
            if self._output is not None:
                with self._reported():
                    try:
                        self._output.mux(self._stream.encode(None))
                        self._copy_sound(float(self._ticks * _CLOCK) + 1 / self.fps)
                    finally:
                        self._output.close()

    def _draw(self, item: tuple[DrawnImage, Pixels]) -> None:
        result, pixels = item
        self._traces.add(result)
        annotated: Any = annotate(pixels, result, self._traces, largest=VIDEO_SIDE)
        time = result.time or 0.0
        with self._reported():
            if self._output is None:
                self._start = time
                self._open(annotated.shape[1], annotated.shape[0])
            size = (self._stream.width, self._stream.height)
            if annotated.shape[1::-1] != size:
                annotated = cv2.resize(annotated, size, interpolation=cv2.INTER_AREA)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(annotated), format="rgb24")
            self._ticks = max(self._ticks + 1, round((time - (self._start or 0.0)) / _CLOCK))
            frame.pts, frame.time_base = self._ticks, _CLOCK
            self._output.mux(self._stream.encode(frame))
            self._copy_sound(float(self._ticks * _CLOCK))

    def _open(self, width: int, height: int) -> None:
        suffix = self.path.suffix.lower()
        fast = {"movflags": "faststart"} if suffix == ".mp4" else {}
        name = f"file:{self.path.absolute()}"  # a name may contain a colon
        self._output = av.open(name, "w", format=suffix[1:], container_options=fast)
        self._stream = self._output.add_stream(
            self._encoder, rate=Fraction(self.fps).limit_denominator(1001), time_base=_CLOCK
        )
        # 4:2:0 encoders need even sides.
        self._stream.width, self._stream.height = max(2, width // 2 * 2), max(2, height // 2 * 2)
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = CODECS[suffix][self._encoder]
        if self._source is not None:
            try:
                self._sound = _sound(self._source, self._output, suffix, self._start or 0.0)
            except (av.FFmpegError, ValueError, DataError) as error:
                self.fault = f"its sound is left out, because it cannot be read: {error}"

    def _copy_sound(self, end: float) -> None:
        """Write the sound up to this time, in seconds, so that both streams are interleaved."""
        while True:
            try:
                self._waiting = self._waiting or next(self._sound, None)
                if self._waiting is None or self._waiting[0] >= end:
                    return
                (_, packet), self._waiting = self._waiting, None
                self._output.mux(packet)
            except (DataError, av.FFmpegError, ValueError) as error:
                if isinstance(error, OSError):  # the disk, not the packet
                    raise
                self.fault = "parts of its sound are damaged and left out"

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"the annotated video {self.path} cannot be written: {reason}"
            ) from error


def _sound(
    source: VideoReader, output: Any, suffix: str, start: float
) -> Iterator[tuple[float, Any]]:
    """Add the original's sound to an output, and return its packets with their times in seconds.

    Args:
        source: the original.
        output: the container.
        suffix: of the output.
        start: time of the first frame; sound before it is left out.
    """
    given = open_media(source.path)
    old = next((s for s in given.streams.audio if s.codec_context is not None), None)
    if old is None:
        given.close()
        return iter(())
    if not old.codec_context.sample_rate or not old.codec_context.channels:
        raise DataError("its header is damaged")
    kept = old.codec_context.name in _KEPT_SOUND[suffix]
    if kept:
        new = output.add_stream_from_template(old)
    else:
        new = output.add_stream(_SOUND_ENCODER[suffix], rate=48_000)
        new.layout = "mono" if old.codec_context.channels == 1 else "stereo"
    offset = round((source.start + start) / old.time_base)

    def packets() -> Iterator[tuple[float, Any]]:
        time = 0.0
        with given:
            for packet in demux(given, old):
                if packet.pts is None or packet.pts < offset:
                    continue
                time = float((packet.pts - offset) * old.time_base)
                if kept:
                    packet.pts, packet.dts, packet.stream = (
                        packet.pts - offset,
                        packet.pts - offset,
                        new,
                    )
                    yield time, packet
                    continue
                with suppress(av.FFmpegError, ValueError):
                    for frame in packet.decode():
                        if frame.pts is not None:
                            frame.pts -= offset
                            yield time, new.encode(frame)
            if not kept:
                yield time, new.encode(None)

    return packets()
