"""Video files: true times, rotation, trims, damage, and files that are no video."""

import os
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from affectnet.errors import DataError
from affectnet.inference.camera import Camera
from affectnet.inference.video_reader import Frame, Lost, VideoReader

CASES = Path(__file__).parents[3] / "shared" / "cases"


def read(path: Path, **settings) -> list[Frame | Lost]:
    with VideoReader(path) as reader:
        return list(reader.frames(**settings))


def times(frames: list[Frame | Lost]) -> list[float]:
    return [frame.time for frame in frames if isinstance(frame, Frame)]


def case(name: str) -> Path:
    if not (CASES / name).is_file():
        pytest.skip(f"{CASES / name} is not there")
    return CASES / name


def levels(count: int, size: tuple[int, int] = (64, 48)) -> list[np.ndarray]:
    """Grey frames, each a little brighter than the one before."""
    return [np.full((size[1], size[0], 3), 20 + 200 * i // count, np.uint8) for i in range(count)]


@pytest.mark.parametrize(
    ("settings", "frames"),
    [
        ({"stride": 3}, [0, 3, 6, 9, 12, 15, 18]),
        ({"fps": 5}, list(range(0, 20, 2))),
        ({"fps": 4}, [0, 3, 5, 8, 10, 13, 15, 18]),
        ({"fps": 100}, list(range(20))),
        ({"seconds": 0.5}, [0, 1, 2, 3, 4]),
        ({"stride": 5, "seconds": 1.2}, [0, 5, 10]),
    ],
)
def test_a_video_can_be_thinned(walk: Path, settings: dict[str, float], frames: list[int]) -> None:
    assert [frame.number for frame in read(walk, **settings)] == frames


@pytest.mark.parametrize("name", ["a.webm", "a.mkv", "a.mp4"])
def test_times_are_those_of_the_stream(write_video, tmp_path: Path, name: str) -> None:
    codec = "libvpx" if name == "a.webm" else "libx264"
    # One second at 60 frames per second, then nine at 5; late, as parts of a recording are.
    given = [i / 60 for i in range(60)] + [1 + i / 5 for i in range(45)]
    late = [7.25 + time for time in given] if name == "a.mkv" else given
    path = write_video(tmp_path / name, levels(105), 30, codec, times=late)
    frames = read(path)
    np.testing.assert_allclose(times(frames), given, atol=6e-4)
    assert [frame.number for frame in frames] == list(range(105))
    assert times(frames)[0] == 0
    np.testing.assert_allclose(
        [frame.pixels.mean() for frame in frames], [f.mean() for f in levels(105)], atol=4
    )
    with VideoReader(path) as reader:
        list(reader.frames())
        assert reader.start == pytest.approx(late[0])


def test_an_avi_with_frames_out_of_order_starts_at_0(write_video, tmp_path: Path) -> None:
    frames = read(write_video(tmp_path / "a.avi", levels(20), 25, "mpeg4", bf="2"))
    np.testing.assert_allclose(times(frames), np.arange(20) / 25, atol=1e-3)


def test_a_variable_frame_rate_whose_count_is_an_estimate() -> None:
    frames = read(case("vfr.webm"))
    expected = [round(i / 60, 3) for i in range(60)] + [1 + i / 5 for i in range(45)]
    np.testing.assert_allclose(times(frames), expected, atol=1e-3)
    assert len(frames) == 105


def test_a_trim_without_encoding_is_read_to_its_end(write_video, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", levels(50), 25, "libx264", g="50")
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12  # of the first entry: length, start, rate
    start = int.from_bytes(data[at + 4 : at + 8], "big")
    data[at : at + 4] = (37 * 1000 // 25).to_bytes(4, "big")
    data[at + 4 : at + 8] = (start + 13 * 512).to_bytes(4, "big")
    path.write_bytes(data)
    frames = read(path)
    np.testing.assert_allclose(times(frames), np.arange(37) / 25, atol=1e-3)
    np.testing.assert_allclose(
        [frame.pixels.mean() for frame in frames], [f.mean() for f in levels(50)[13:]], atol=4
    )


def test_the_trim_of_the_cases() -> None:
    frames = read(case("cutcopy.mp4"))
    np.testing.assert_allclose(times(frames), np.arange(37) / 25, atol=1e-6)


def damage(path: Path, packets: range) -> None:
    """Overwrite the packets of these frames with noise."""
    with av.open(str(path)) as container:
        places = {p.pts: (p.pos, p.size) for p in container.demux(video=0) if p.pts is not None}
    data, noise = bytearray(path.read_bytes()), np.random.default_rng(0)
    for number in packets:
        at, size = sorted(places.items())[number][1]
        data[at : at + size] = noise.bytes(size)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("packets", "reason"),
    [
        (range(12, 13), "frame 12 (0.48 s) is damaged"),
        (range(12, 15), "frames 12 to 14 (0.48 to 0.56 s) are damaged"),
        (range(28, 30), "frames 28 to 29 (1.12 to 1.16 s) are damaged"),
        (range(1), "frame 0 (0.00 s) is damaged"),
    ],
)
def test_a_damaged_stretch_is_skipped_and_reported(
    write_video, tmp_path: Path, packets: range, reason: str
) -> None:
    path = write_video(tmp_path / "a.mp4", levels(30), 25, "libx264", bf="0", g="1")
    damage(path, packets)
    frames = read(path)
    assert [frame for frame in frames if isinstance(frame, Lost)] == [
        Lost(packets[0], pytest.approx(packets[0] / 25), reason)
    ]
    kept = [i for i in range(30) if i not in packets]
    assert [f.number for f in frames if isinstance(f, Frame)] == kept
    np.testing.assert_allclose(times(frames), np.array(kept) / 25, atol=1e-3)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4", "libvpx", "libvpx-vp9"])
def test_no_frame_goes_missing_unsaid(write_video, tmp_path: Path, codec: str) -> None:
    # HEVC decoders drop everything up to the next key frame, at 20, without an error.
    rng = np.random.default_rng(0)
    texture = cv2.resize(rng.integers(0, 255, (12, 16, 3), np.uint8), (128, 96))
    moving = [np.roll(texture, 2 * i, axis=1) for i in range(30)]
    name = "a.webm" if codec.startswith("libvpx") else "a.mp4"
    settings = {"x265-params": "keyint=20:log-level=none"} if codec == "libx265" else {"g": "20"}
    path = write_video(tmp_path / name, moving, 25, codec, **settings)
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    data, at = path.read_bytes(), path.read_bytes().index(packets[8])
    noise = np.random.default_rng(1).bytes(len(packets[8]))
    path.write_bytes(data[:at] + noise + data[at + len(noise) :])
    frames = read(path)
    lost = [frame for frame in frames if isinstance(frame, Lost)]
    assert len(lost) == 1
    shown = [frame.number for frame in frames if isinstance(frame, Frame)]
    gone = sorted(set(range(30)) - set(shown))
    assert gone == list(range(lost[0].number, lost[0].number + len(gone)))
    assert 1 <= len(gone) <= (19 if codec == "libx265" else 1)
    np.testing.assert_allclose(times(frames), np.array(shown) / 25, atol=2e-3)


def test_the_end_of_a_stretch_without_packets_is_reported(write_video, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(30)]
    path = write_video(tmp_path / "a.webm", noise, 25, "libvpx", g="1")
    with av.open(str(path)) as container:
        packets = [bytes(p) for p in container.demux(video=0) if p.size]
    data = path.read_bytes()
    start, end = data.index(packets[8]), data.index(packets[14])
    path.write_bytes(data[:start] + rng.bytes(end - start) + data[end:])
    frames = read(path)
    (lost,) = (frame for frame in frames if isinstance(frame, Lost))
    after = frames[frames.index(lost) + 1].time
    assert after > 0.5
    assert lost.reason == f"frame 8 (0.32 s) is damaged; the next is at {after:.2f} s"


def test_the_damaged_packet_of_the_cases() -> None:
    frames = read(case("mid_noise.mp4"))
    assert len(frames) == 300
    assert frames[120] == Lost(120, 4.8, "frame 120 (4.80 s) is damaged")
    np.testing.assert_allclose(times(frames), np.delete(np.arange(300), 120) / 25, atol=1e-6)


@pytest.mark.parametrize("name", ["a.avi", "a.mkv", "a.mp4"])
def test_a_file_that_is_cut_short_gives_its_frames_and_says_so(
    write_video, tmp_path: Path, name: str
) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(40)]
    path = write_video(tmp_path / name, noise, 10, "mjpeg")
    data = path.read_bytes()
    if name == "a.mp4":  # its index is at the end; a film on the web has it first
        with (
            av.open(str(path)) as old,
            av.open(
                str(tmp_path / "b.mp4"), "w", container_options={"movflags": "faststart"}
            ) as new,
        ):
            stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
            for packet in old.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    new.mux(packet)
        data = (tmp_path / "b.mp4").read_bytes()
    path.write_bytes(data[: len(data) // 2])
    *frames, end = read(path)
    assert 15 < len(frames) < 22
    assert isinstance(end, Lost)
    assert "of 4.0 s: the rest is missing" in end.reason or "damaged" in end.reason


def test_a_recording_of_a_browser_has_no_length(write_video, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.webm", levels(20), 10, "libvpx")
    with (
        av.open(str(path)) as old,
        av.open(str(tmp_path / "b.webm"), "w", container_options={"live": "1"}) as new,
    ):
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    with VideoReader(tmp_path / "b.webm") as reader:
        assert reader.info.seconds is None
        np.testing.assert_allclose(times(list(reader.frames())), np.arange(20) / 10, atol=1e-3)


QUARTERS = {  # of the display matrix: a, b, c, d
    "as stored": (1, 0, 0, 1),
    "a quarter to the right": (0, 1, -1, 0),
    "upside down": (-1, 0, 0, -1),
    "a quarter to the left": (0, -1, 1, 0),
    "mirrored": (-1, 0, 0, 1),
}


@pytest.mark.parametrize("turn", QUARTERS)
def test_frames_are_upright(write_video, tmp_path: Path, turn: str) -> None:
    image = np.full((48, 64, 3), 128, np.uint8)
    image[:24, :32], image[:24, 32:], image[24:, :32] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    path = write_video(tmp_path / "a.mp4", [image] * 3, 10, "libx264", crf="1")
    data = bytearray(path.read_bytes())
    one = (1 << 16).to_bytes(4, "big")
    identity = one + bytes(12) + one + bytes(12) + (1 << 30).to_bytes(4, "big")
    at = data.index(identity, data.index(b"tkhd"))
    a, b, c, d = ((value << 16).to_bytes(4, "big", signed=True) for value in QUARTERS[turn])
    data[at : at + 36] = a + b + bytes(4) + c + d + bytes(12) + (1 << 30).to_bytes(4, "big")
    path.write_bytes(data)
    expected = {
        "as stored": image,
        "a quarter to the right": cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
        "upside down": cv2.rotate(image, cv2.ROTATE_180),
        "a quarter to the left": cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
        "mirrored": cv2.flip(image, 1),
    }[turn]
    shown = read(path)[0].pixels
    assert shown.shape == expected.shape
    assert np.abs(shown.astype(int) - expected).mean() < 6


@pytest.mark.parametrize("name", ["film:1.avi", "concat:a.avi|b.avi", "http:film", "%03d.avi"])
def test_a_name_is_never_an_address(walk: Path, tmp_path: Path, name: str, monkeypatch) -> None:
    (tmp_path / name).write_bytes(walk.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(read(Path(name))) == 20


def test_a_file_that_is_not_a_video_is_refused_with_the_reason(
    tmp_path: Path, photo_file: Path
) -> None:
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n")
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    (tmp_path / "hollow.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(500))
    for path, message in (
        (tmp_path / "empty.mp4", "empty"),
        (tmp_path / "pipe.mp4", "not a regular file"),
        (tmp_path / "list.mp4", "not a video"),
        (tmp_path / "concat.mp4", "not a video"),
        (tmp_path / "hollow.mp4", "cannot be opened"),
        (tmp_path / "missing.mp4", "No such file"),
        (photo_file, "not a video"),
    ):
        with pytest.raises(DataError, match=message):
            VideoReader(path)
    with pytest.raises(DataError, match="no camera 99"):
        Camera(99)


def test_sound_alone_is_not_a_video(write_video, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", levels(2), 10, "libx264", sound=0.5)
    with av.open(str(path)) as old, av.open(str(tmp_path / "b.mp4"), "w") as new:
        stream = new.add_stream_from_template(old.streams.audio[0])
        for packet in old.demux(audio=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    with pytest.raises(DataError, match="no video stream"):
        VideoReader(tmp_path / "b.mp4")


def test_every_packet_asks_whether_to_stop(write_video, tmp_path: Path) -> None:
    # The clock moves a few microseconds per frame, so that `fps=1` wants the first frame only.
    path = write_video(tmp_path / "a.mkv", levels(300), 25, "mjpeg")
    data = path.read_bytes()
    scale = b"\x2a\xd7\xb1\x83"
    assert data.count(scale + b"\x0f\x42\x40") == 1
    path.write_bytes(data.replace(scale + b"\x0f\x42\x40", scale + b"\x00\x03\xe8"))
    with VideoReader(path) as reader:
        assert [frame.number for frame in reader.frames(fps=1)] == [0]
        assert reader.packets >= 300
    with VideoReader(path) as reader:
        assert len(list(reader.frames(fps=1, stop=lambda: reader.packets >= 50))) == 1
        assert reader.packets == 50


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 30)):
        at = int(rng.integers(0, max(1, min(len(changed), 4000 if rng.random() < 0.5 else 10**9))))
        kind = rng.integers(0, 4)
        if kind == 0:
            changed[at : at + 4] = rng.bytes(4)
        elif kind == 1:
            del changed[at : at + int(rng.integers(1, 300))]
        elif kind == 2:
            changed[at:at] = changed[at : at + int(rng.integers(1, 300))]
        elif rng.random() < 0.1:
            del changed[at:]
    return bytes(changed)


@pytest.mark.parametrize(
    ("count", "seed"), [(60, 1), pytest.param(3_000, 2, marks=pytest.mark.slow)]
)
def test_mutated_videos_are_read_or_refused(
    photo, write_video, shifted, tmp_path: Path, count: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    frames = [shifted(photo, 8 * i, (160, 240)) for i in range(6)]
    kinds = (("a.avi", "mjpeg"), ("b.mp4", "mpeg4"), ("c.mkv", "libx264"), ("d.avi", "mpeg4"))
    whole = [write_video(tmp_path / n, frames, codec=c).read_bytes() for n, c in kinds]
    outcomes = set()
    for i in range(count):
        path = tmp_path / "mutant"
        path.write_bytes(mutated(whole[i % len(whole)], rng))
        try:
            with VideoReader(path) as reader:
                last, torn = -1.0, False
                for frame in reader.frames():
                    assert frame.number < 100
                    torn = torn or isinstance(frame, Lost)
                    if isinstance(frame, Frame):
                        assert frame.pixels.ndim == 3
                        assert frame.time > last
                        last = frame.time
            outcomes.add("torn" if torn else "read")
        except DataError:
            outcomes.add("refused")
    assert outcomes == {"read", "torn", "refused"}


def test_frames_of_an_odd_size_are_read(write_video, tmp_path: Path) -> None:
    frames = [np.full((34, 66, 3), i * 20, np.uint8) for i in range(5)]
    shown = read(write_video(tmp_path / "tiny.mkv", frames, codec="ffv1"))
    assert len(shown) == 5
    assert shown[0].pixels.shape == (34, 66, 3)
    assert cv2.absdiff(shown[4].pixels, frames[4]).max() < 6


def test_frames_whose_size_changes(write_video, tmp_path: Path, monkeypatch) -> None:
    files = [
        write_video(tmp_path / f"{size[0]}.avi", levels(3, size), 10, "mjpeg")
        for size in ((64, 48), (128, 96))
    ]
    with av.open(str(tmp_path / "both.avi"), "w") as new:
        stream = None
        for part, path in enumerate(files):
            with av.open(str(path)) as old:
                stream = stream or new.add_stream_from_template(old.streams.video[0], opaque=True)
                for packet in old.demux(video=0):
                    if packet.size:
                        packet.pts = packet.dts = packet.dts + 3 * part
                        packet.stream = stream
                        new.mux(packet)
    shapes = [frame.pixels.shape[:2] for frame in read(tmp_path / "both.avi")]
    assert shapes == [(48, 64)] * 3 + [(96, 128)] * 3
    monkeypatch.setattr("affectnet.inference.video_reader.MAX_FRAME_PIXELS", 64 * 48)
    *frames, lost = read(tmp_path / "both.avi")
    assert len(frames) == 3
    assert lost.reason == "frames 3 to 5 (0.30 to 0.50 s) are damaged"
    with pytest.raises(DataError, match="too large number of pixels; at most 3,072"):
        VideoReader(files[1])
