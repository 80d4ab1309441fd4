"""Video files by PyAV (FFmpeg): true times, upright frames, damage skipped and reported."""

import math
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import av
import numpy as np

from affectnet.data.file_kinds import START, media_kind, size_of_file
from affectnet.data.images import Pixels
from affectnet.errors import DataError

MAX_FRAME_PIXELS: Final = 36_000_000
"""8K is 33 million; larger frames are refused."""
_FORMATS: Final = "mov,matroska,avi,mpeg,mpegvideo,mpegts,flv,ogg,asf"
"""FFmpeg's names of the formats that `media_kind` recognises. Playlists are none of them."""
_HIDES_FRAMES: Final = frozenset({"vp8", "vp9"})
"""Codecs with packets of frames that are only referred to, and never shown."""
_DEFAULT_FPS: Final = 25.0
_MISSING: Final = 0.05
_MISSING_SECONDS: Final = 0.3
_MAX_ERRORS: Final = 100
_MAX_SENT: Final = 500


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What the header of a stream states.

    Attributes:
        fps: frames per second on average; 25 where the stream does not state it.
        seconds: length; None where it is not stated, as for a camera or a browser's recording.
        width, height: in pixels, as stored; those of a frame may be swapped by its rotation.
    """

    fps: float
    seconds: float | None
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: its number from 0, its time in seconds from 0, its upright RGB pixels."""

    number: int
    time: float
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Lost:
    """A stretch that cannot be decoded: the number and time of its first frame, and the reason."""

    number: int
    time: float
    reason: str


class Thinning:
    """Selects every `stride`-th frame, and at most `fps` frames per second."""

    def __init__(self, stride: int = 1, fps: float | None = None) -> None:
        self._stride, self._fps, self._due = stride, fps, -math.inf

    def __call__(self, number: int, time: float) -> bool:
        """Whether to use this frame; frames come in order."""
        if number % self._stride or time < self._due - 1e-6:
            return False
        if self._fps is not None:
            # Counted from the last due time, so that rounding errors do not add up; after a gap
            # in the stream, missed frames are not made up for.
            self._due = max((self._due if self._due > -math.inf else time) + 1 / self._fps, time)
        return True


class VideoReader:
    """Reads a video file frame by frame; a context manager.

    Args:
        path: of the file.

    Raises `DataError` with the reason where it cannot be opened. A file is recognised as a video by
    its first bytes; playlists and stream addresses are refused, since they make the reader open
    other files or addresses.

    Attributes:
        path: of the file.
        info: what the header states.
        packets: number of packets of the video that are read so far.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_video_file(self.path)
        self._container = open_media(path)
        try:
            streams = [
                s for s in self._container.streams.video if s.codec_context and not _is_cover(s)
            ]
            if not streams:
                raise DataError("the file has no video stream")
            self._stream = streams[0]
            width, height = self._stream.codec_context.width, self._stream.codec_context.height
            if not 0 < width * height <= MAX_FRAME_PIXELS:
                size = f"{width}x{height}" if width else "an unknown or too large number of"
                raise DataError(
                    f"the video has frames of {size} pixels; at most {MAX_FRAME_PIXELS:,} "
                    "pixels are read"
                )
            # Larger frames than the header states are errors of their packets.
            self._stream.codec_context.options = {"max_pixels": str(MAX_FRAME_PIXELS)}
        except BaseException:
            self._container.close()
            raise
        self._start = self._place(self._stream.start_time or 0)
        self._sent: set[int] = set()
        self._read = self._damaged = False
        self.packets = 0
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        self.info = VideoInfo(
            rate if 0.1 <= rate <= 1000 else _DEFAULT_FPS,
            _length(self._container, self._stream),
            width,
            height,
        )

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(
        self,
        *,
        stride: int = 1,
        fps: float | None = None,
        seconds: float | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> Generator[Frame | Lost, None, None]:
        """Yield the frames in order, and in between the stretches that are damaged.

        Times are those of the stream, from 0; where they are missing or do not increase, they are
        computed from the frame rate. A frame that is lost keeps its number. Raises `DataError`
        where no frame can be read.

        Args:
            stride, fps, seconds: see `predict_video`.
            stop: asked at every packet, whether it holds a frame that is wanted or not.
        """
        selected, number, last, read = Thinning(stride, fps), 0, -1 / self.info.fps, False
        gone: list[float] = []  # times of the frames lost since the last one
        for given, frame in self._decode(stop):
            after = last + (1 + len(gone)) / self.info.fps
            if frame is None:
                gone.append(after if given is None else given)
                continue
            time = given if given is not None and (given > last or not read) else after
            if gone and (seconds is None or gone[0] < seconds):
                # Packets can be lost, too; how many frames they had is not known.
                hole = time - gone[-1] > 2 / self.info.fps
                yield _lost(number, gone, f"; the next is at {time:.2f} s" if hole else "")
            number += len(gone)
            gone = []
            if seconds is not None and time >= seconds:
                return
            last, read = time, True
            if selected(number, time):
                yield Frame(number, time, _upright(frame))
            number += 1
        if stop():
            return
        if not read:
            raise DataError("no frame can be read")
        if gone:
            yield _lost(number, gone)
        if self._cut is not None:
            yield Lost(number + len(gone), last + 1 / self.info.fps, self._cut)

    def _decode(
        self, stop: Callable[[], bool]
    ) -> Iterator[tuple[float | None, av.VideoFrame | None]]:
        """Yield the times and frames in order; None in place of a frame that is damaged."""
        end = 0.0
        self._cut: str | None = None
        try:
            for packet in demux(self._container):
                if stop():
                    return
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream is self._stream:
                    yield from self._frames_of(packet)
            yield from self._lost_before(math.inf)
        except DataError as error:
            self._cut = str(error)
        length = self.info.seconds
        if self._cut is None and length is not None:
            end -= (self._container.start_time or 0) / av.time_base
            if length - end > max(_MISSING_SECONDS, _MISSING * length):
                self._cut = f"the file ends at {end:.1f} s of {length:.1f} s: the rest is missing"

    def _frames_of(self, packet: Any) -> Iterator[tuple[float | None, av.VideoFrame | None]]:
        """Yield the frames that a packet completes, and None for those lost before each of them.

        Decoders drop the frames that refer to a damaged one without an error. So from the first
        error on, each packet is expected to give a frame.
        """
        self.packets += 1
        expected = packet.size > 0 and not packet.is_discard  # not one before the start of a trim
        counted = packet.pts is not None and self._stream.codec_context.name not in _HIDES_FRAMES
        if expected and counted:
            if len(self._sent) == _MAX_SENT:  # far more than a decoder holds back
                yield from self._lost_before(math.inf)
            self._sent.add(packet.pts)
        try:
            frames = packet.decode()
        except (av.FFmpegError, ValueError):
            self._damaged = self._damaged or expected
            if expected and not counted:
                yield self._since_start(packet.dts if packet.pts is None else packet.pts), None
            return
        for frame in frames:
            if frame.is_corrupt or frame.width * frame.height > MAX_FRAME_PIXELS:
                self._damaged = True
                if frame.pts not in self._sent:
                    yield self._since_start(frame.pts), None
                continue
            if frame.pts is not None:
                if not (self._read or self._damaged):
                    self._start = self._place(frame.pts)  # where the header is not exact
                self._sent.discard(frame.pts)
                yield from self._lost_before(frame.pts)
            self._read = True
            yield self._since_start(frame.pts), frame

    def _lost_before(self, pts: float) -> Iterator[tuple[float | None, None]]:
        """Yield the times of the packets before this one that gave no frame."""
        gone = sorted(sent for sent in self._sent if sent < pts)
        self._sent.difference_update(gone)
        if self._damaged:
            yield from ((self._since_start(sent), None) for sent in gone)

    def _since_start(self, pts: int | None) -> float | None:
        return None if pts is None else max(0.0, self._place(pts) - self._start)

    def _place(self, pts: int) -> float:
        return float(pts * (self._stream.time_base or 0))

    @property
    def start(self) -> float:
        """Time in the file of the first frame, in seconds; `Frame.time` counts from it."""
        return self._start


def open_media(path: str | Path) -> Any:
    """Open a file for reading, such that it makes FFmpeg open no other file and no address.

    Raises `DataError` where FFmpeg cannot read it.
    """
    try:
        return av.open(
            f"file:{Path(path).absolute()}",  # a name may contain a colon
            options={
                **{"protocol_whitelist": "file", "format_whitelist": _FORMATS},
                "max_pixels": str(MAX_FRAME_PIXELS),  # for the frames that are decoded on opening
            },
            metadata_errors="replace",
        )
    except (av.FFmpegError, ValueError, OSError) as error:
        raise DataError(
            "the video cannot be opened: it is damaged, or FFmpeg does not know its format"
        ) from error


def demux(container: Any, *streams: Any) -> Iterator[Any]:
    """Yield the packets of these streams, or of all, past stretches in which none can be found.

    Raises `DataError` where there is no end to such a stretch.
    """
    errors = 0
    packets = container.demux(*streams)
    while True:
        try:
            yield next(packets)
            errors = 0
        except StopIteration:
            return
        except (av.FFmpegError, ValueError) as error:
            errors += 1
            if errors == _MAX_ERRORS:
                raise DataError("the rest of the file is damaged") from error
            packets = container.demux(*streams)


def check_video_file(path: Path) -> None:
    """Raise `DataError` where this is not a regular file that starts as a video does."""
    try:
        size_of_file(path)
        with path.open("rb") as file:
            head = file.read(START)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"the file cannot be read: {reason}") from error
    if media_kind(head) != "video":
        raise DataError(
            "it is not a video in MP4, MOV, MKV, WebM, AVI, MPEG, FLV, Ogg or WMV format"
        )


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _length(container: Any, stream: Any) -> float | None:
    """Return the length in seconds that the header states; FFmpeg's own estimates do not count."""
    kind, start = container.format.name.split(",")[0], (container.start_time or 0) / av.time_base
    length = (container.duration or 0) / av.time_base
    if kind == "avi":  # its duration is a guess by the size of the file
        length = float(stream.frames / (stream.average_rate or _DEFAULT_FPS))
    elif kind == "matroska":  # counts from 0, not from the first frame
        length -= max(0.0, start)
    elif kind not in ("mov", "flv", "asf"):
        return None
    return length if length > 0 else None


def _lost(number: int, times: list[float], then: str = "") -> Lost:
    first, last = min(times), max(times)
    if len(times) == 1:
        reason = f"frame {number} ({first:.2f} s) is damaged"
    else:
        to = number + len(times) - 1
        reason = f"frames {number} to {to} ({first:.2f} to {last:.2f} s) are damaged"
    return Lost(number, first, reason + then)


def _upright(frame: av.VideoFrame) -> Pixels:
    """Return RGB pixels, rotated and mirrored as the display matrix of the stream says."""
    pixels: Any = frame.to_ndarray(format="rgb24")
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is not None:
        # x' = a x + c y, y' = b x + d y, to the nearest quarter turn.
        a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].astype(float)
        if abs(a) + abs(d) < abs(b) + abs(c):
            pixels, a, d = pixels.transpose(1, 0, 2), c, b
        pixels = pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(pixels, np.uint8)
