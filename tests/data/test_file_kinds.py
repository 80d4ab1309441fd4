"""Images and videos by their first bytes."""

from pathlib import Path

from affectnet.data.file_kinds import media_kind


def test_images_and_videos_are_told_apart_by_content(photo_file: Path, walk: Path) -> None:
    assert media_kind(photo_file.read_bytes()[:200]) == "image"
    assert media_kind(walk.read_bytes()[:200]) == "video"
    assert media_kind(b"RIFF\0\0\0\0WEBPVP8 ") == "image"
    assert media_kind(b"RIFF\0\0\0\0WAVEfmt ") is None
    assert media_kind(b"\0\0\0\x1cftypheic") == "image"
    assert media_kind(b"BMI is a number, P1 a name") is None
    assert media_kind(b"P1 is a name") == "image"  # as the format has it: reading decides
    assert media_kind(b"#EXTM3U\nhttp://127.0.0.1/a.ts") is None
    assert media_kind(b"ffconcat version 1.0\nfile /etc/passwd") is None
    assert media_kind(b"") is None
