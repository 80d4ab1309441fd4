"""Drawn faces with known expression, valence, arousal and landmarks, also as AffectNet tars.

They replace real faces where none may be shipped: in the demo, the tests and trials of full-size
runs. They are not suitable for evaluating models of real faces.
"""

import csv
import io
import math
import tarfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from tqdm import tqdm

from affectnet.data.drawn.shape import Identity, Muscles, Pose, Traits, landmarks
from affectnet.data.drawn.sketch import background, cover, photograph, sketch_face
from affectnet.data.store import Face
from affectnet.errors import ConfigError
from affectnet.labels import CIRCUMPLEX, EXPRESSIONS, N_EXPRESSIONS
from affectnet.run import write_beside

SMALLEST = 32
"""Below this side, in pixels, expressions are not recognisable."""

LARGEST = 2048

JPEG_QUALITY = 90

SPREAD = 0.15
"""Standard deviation of valence and arousal around the typical values of an expression."""


def render(
    expression: int,
    valence: float,
    arousal: float,
    rng: np.random.Generator,
    size: int = 224,
    *,
    variety: float = 1.0,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Draw one face.

    The expression sets action units of the face by `shape.PROTOTYPES`; valence lifts the corners of
    the mouth, arousal opens eyes and mouth. Identity, pose, light, background, covering objects and
    noise are drawn from `rng`, and depend only on its state, not on the expression, valence and
    arousal.

    Args:
        expression: 0-7 in the order of `labels.EXPRESSIONS`.
        valence: in [-1, 1].
        arousal: in [-1, 1].
        rng: the only source of randomness.
        size: side of the square image in pixels, 32-2048.
        variety: in [0, 1]; 1 is the full range of people and conditions, 0 the average person,
            upright, evenly lit, without noise and uncovered.

    Returns:
        uint8 RGB (size, size, 3), and its landmarks, float32 (68, 2), x first, in pixels with
        centres at integers; all are inside the image.

    Raises:
        ConfigError: an argument outside its range.
    """
    _check_face(expression, valence, arousal)
    _check_image(size, variety)
    person = Identity.draw(rng, variety)
    traits = Traits.draw(rng, variety)
    muscles = Muscles.draw(expression, valence, arousal, rng, variety)
    pose = Pose.draw(person, size, rng, variety)
    marks = landmarks(person, muscles)

    zoom = max(2, math.ceil(192 / size))
    canvas = Image.new("RGB", (zoom * size, zoom * size))
    draw = ImageDraw.Draw(canvas)
    background(draw, canvas.width, rng)
    sketch_face(person, traits, muscles, marks).paint(draw, pose, zoom)
    cover(draw, canvas.width, pose, zoom, traits, rng, variety)
    image = photograph(canvas.reduce(zoom), pose, rng, variety)
    return image, pose.project(marks).astype(np.float32)


def draw_faces(
    per_class: int | Sequence[int],
    seed: int | Sequence[int] = 0,
    size: int = 224,
    *,
    soft: bool = False,
    variety: float = 1.0,
) -> Iterator[Face]:
    """Draw faces of all expressions in random order, each of a different person.

    Valence and arousal are normal around `labels.CIRCUMPLEX` with standard deviation `SPREAD`,
    clipped to [-1, 1]. Face i depends only on `seed`, i and its expression. Ids count from '0'.

    Args:
        per_class: faces of each expression, or eight numbers in the order of `labels.EXPRESSIONS`.
        seed: one or several integers, at least 0; the same seed draws the same faces.
        size: side of the square images in pixels, 32-2048.
        soft: also give soft labels: the shares of ten votes, six for the expression and four for it
            or others with similar valence and arousal.
        variety: as in `render`.

    Returns:
        An iterator over faces with JPEG images (quality 90) and landmarks, float32 (68, 2).

    Raises:
        ConfigError: an argument outside its range.
    """
    counts, seeds = _check_counts(per_class), _check_seed(seed)
    _check_image(size, variety)
    return _draw_faces(counts, seeds, size, soft, variety)


def _draw_faces(
    counts: list[int], seeds: list[int], size: int, soft: bool, variety: float
) -> Iterator[Face]:
    for index, expression in enumerate(_mixed(counts, seeds)):
        rng = np.random.default_rng([*seeds, index])
        typical = CIRCUMPLEX[EXPRESSIONS[expression]]
        near = np.clip(rng.normal(typical, SPREAD), -1, 1).tolist()
        valence, arousal = (round(value, 6) for value in near)
        votes = rng.random(4)
        pixels, points = render(expression, valence, arousal, rng, size, variety=variety)
        yield Face(
            id=str(index),
            image=_jpeg(pixels),
            expression=expression,
            valence=valence,
            arousal=arousal,
            landmarks=points,
            soft=_vote(expression, valence, arousal, votes) if soft else None,
        )


def _mixed(counts: list[int], seeds: list[int]) -> list[int]:
    """Return the expression of each face, `counts` of each, in an order shuffled by `seeds`."""
    ordered = np.repeat(np.arange(N_EXPRESSIONS), counts)
    # The length makes this stream differ from those of the faces.
    mixed: list[int] = np.random.default_rng([*seeds, 0, 0]).permutation(ordered).tolist()
    return mixed


def _jpeg(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def _vote(
    expression: int, valence: float, arousal: float, draws: NDArray[np.float64]
) -> NDArray[np.float32]:
    typical = np.array([CIRCUMPLEX[name] for name in EXPRESSIONS])
    distance = ((typical - (valence, arousal)) ** 2).sum(axis=1)
    chances = np.exp(-distance / 0.1)
    others = np.searchsorted(np.cumsum(chances) / chances.sum(), draws).clip(0, N_EXPRESSIONS - 1)
    votes = np.bincount(others, minlength=N_EXPRESSIONS)
    votes[expression] += 6
    return (votes / 10).astype(np.float32)


def write_affectnet_tars(
    out: Path | str,
    train_per_class: int | Sequence[int] = 200,
    test_per_class: int | Sequence[int] = 50,
    size: int = 224,
    seed: int = 0,
    *,
    landmarks: bool = True,
    soft: bool = False,
    distinct: int | None = None,
    variety: float = 1.0,
) -> tuple[Path, Path]:
    """Write drawn faces as AffectNet's eight-class release: two tar files with its layout.

    `train_and_val_set.tar` holds `train_set/images/ID.jpg` and `train_set/annotations/` with
    `ID_exp.npy`, `ID_val.npy`, `ID_aro.npy` (0-d unicode arrays) and `ID_lnd.npy` (136 numbers, x
    and y interleaved, pixels); `test_set.tar` the same under `val_set/`. The ids of both count from
    0. The same arguments write the same bytes with the same Pillow. Existing files are replaced
    once the new ones are complete.

    Args:
        out: the folder to write to; created if missing.
        train_per_class: faces of each expression, or eight numbers.
        test_per_class: the same for the test part.
        size: side of the square images in pixels, 32-2048.
        seed: at least 0.
        landmarks: whether to write `ID_lnd.npy`, which some copies of AffectNet lack.
        soft: also write the vote shares to `train_and_val_soft.csv` and `test_soft.csv` next to the
            tars: `id`, then one column per expression.
        distinct: draw only about this many images per part, at least one per expression; further
            faces repeat one of them, with its annotations, under new ids. For trials at the size of
            the real release, which would take an hour to draw; results of training on such a set
            are meaningless.
        variety: as in `render`.

    Returns:
        The paths of the training and of the test tar.

    Raises:
        ConfigError: an argument outside its range.
    """
    parts = (
        ("train_and_val", "train_set", _check_counts(train_per_class)),
        ("test", "val_set", _check_counts(test_per_class)),
    )
    _check_seed(seed)
    _check_image(size, variety)
    if distinct is not None and distinct < 1:
        raise ConfigError(f"distinct is {distinct}; choose at least 1, or None for all")
    written = []
    for part, (name, folder, counts) in enumerate(parts):
        seeds, total = [seed, part], sum(counts)
        draw = partial(_draw_faces, seeds=seeds, size=size, soft=soft, variety=variety)
        faces = draw(counts)
        if distinct is not None and distinct < total:
            faces = _repeat(draw, counts, seeds, distinct)
        bar = tqdm(faces, desc=name, total=total, unit="face", disable=None)
        with write_beside(Path(out) / f"{name}_set.tar") as path:
            shares = _write_tar(path, folder, bar, landmarks)
        if soft:
            with (
                write_beside(Path(out) / f"{name}_soft.csv") as path,
                path.open("w", encoding="utf-8", newline="") as file,
            ):
                csv.writer(file, lineterminator="\n").writerows(
                    [("id", *EXPRESSIONS), *((id_, *row) for id_, row in shares)]
                )
        written.append(Path(out) / f"{name}_set.tar")
    return written[0], written[1]


def _repeat(
    draw: Callable[[list[int]], Iterator[Face]], counts: list[int], seeds: list[int], distinct: int
) -> Iterator[Face]:
    """Yield `counts` faces, repeating about `distinct` drawn ones."""
    total = sum(counts)
    drawn = [min(count, max(1, round(distinct * count / total))) for count in counts]
    pool: list[list[Face]] = [[] for _ in counts]
    for expression, face in zip(_mixed(drawn, seeds), draw(drawn), strict=True):
        pool[expression].append(face)
    used = [0] * len(counts)
    for index, expression in enumerate(_mixed(counts, seeds)):
        faces = pool[expression]
        yield replace(faces[used[expression] % len(faces)], id=str(index))
        used[expression] += 1


def _write_tar(
    path: Path, folder: str, faces: Iterable[Face], landmarks: bool
) -> list[tuple[str, list[str]]]:
    """Write one part; return the ids and vote shares of faces that have them."""
    shares = []
    with path.open("wb") as file:
        for name in ("", "/images", "/annotations"):
            entry = tarfile.TarInfo(f"{folder}{name}/")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            file.write(entry.tobuf(tarfile.USTAR_FORMAT))
        for face in faces:
            annotation = f"{folder}/annotations/{face.id}"
            members = {
                f"{folder}/images/{face.id}.jpg": face.image,
                f"{annotation}_exp.npy": _npy_text(str(face.expression)),
                f"{annotation}_val.npy": _npy_text(str(face.valence)),
                f"{annotation}_aro.npy": _npy_text(str(face.arousal)),
            }
            if landmarks and face.landmarks is not None:
                interleaved = face.landmarks.astype(np.float64).ravel()
                members[f"{annotation}_lnd.npy"] = _npy(interleaved)
            for name, content in members.items():
                # TarFile.addfile would keep every entry in memory: 1.4 million in a full release.
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                padding = bytes(-len(content) % tarfile.BLOCKSIZE)
                file.write(entry.tobuf(tarfile.USTAR_FORMAT) + content + padding)
            if face.soft is not None:
                shares.append((face.id, [f"{share:.4f}" for share in face.soft]))
        file.write(bytes(2 * tarfile.BLOCKSIZE))
    return shares


@lru_cache(maxsize=20_000)
def _npy_text(text: str) -> bytes:
    return _npy(np.array(text))


def _npy(array: NDArray[np.float64] | NDArray[np.str_]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _check_face(expression: int, valence: float, arousal: float) -> None:
    if not 0 <= expression < N_EXPRESSIONS:
        raise ConfigError(
            f"expression is {expression}; choose 0-7 ({', '.join(EXPRESSIONS)}, in this order)"
        )
    for name, value in (("valence", valence), ("arousal", arousal)):
        if not -1 <= value <= 1:  # also refuses NaN
            raise ConfigError(f"{name} is {value}; choose a number from -1 to 1")


def _check_image(size: int, variety: float) -> None:
    if not SMALLEST <= size <= LARGEST:
        raise ConfigError(f"size is {size} pixels; choose {SMALLEST} to {LARGEST}")
    if not 0 <= variety <= 1:
        raise ConfigError(f"variety is {variety}; choose a number from 0 to 1")


def _check_counts(per_class: int | Sequence[int]) -> list[int]:
    if isinstance(per_class, int | np.integer):
        counts = [int(per_class)] * N_EXPRESSIONS
    else:
        counts = [int(count) for count in per_class]
    if len(counts) != N_EXPRESSIONS or min(counts) < 0 or sum(counts) == 0:
        raise ConfigError(
            f"the number of faces is {per_class}; give one number above 0, or {N_EXPRESSIONS} "
            f"numbers from 0 up, one per expression ({', '.join(EXPRESSIONS)})"
        )
    return counts


def _check_seed(seed: int | Sequence[int]) -> list[int]:
    seeds = [int(seed)] if isinstance(seed, int | np.integer) else [int(part) for part in seed]
    if not seeds or min(seeds) < 0:
        raise ConfigError(f"seed is {seed}; choose an integer from 0 up, or several")
    return seeds
