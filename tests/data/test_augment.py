import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as reference

from affectnet.data.augment import augment, normalise, step_generator, to_float
from affectnet.data.augmentation import AUGMENTATIONS, Augmentation, named_augmentation
from affectnet.errors import ConfigError


def faces(n: int, size: int = 32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return (smooth * 255).round().to(torch.uint8)


def varied(images: torch.Tensor, name: str | Augmentation, seed: int = 0) -> torch.Tensor:
    use = AUGMENTATIONS[name] if isinstance(name, str) else name
    return augment(images, use, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["uint8", "float", "channels_last"])
def test_none_gives_the_pixels(kind):
    images = faces(5)
    given = {
        "uint8": images,
        "float": images / 255,
        "channels_last": images.contiguous(memory_format=torch.channels_last),
    }[kind]
    result = varied(given, "none")
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    assert torch.equal(result, images / 255)
    assert torch.equal((result * 255).round().to(torch.uint8), images)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_function_of_the_generator_alone(name):
    images = faces(6)
    before = images.clone()
    torch.manual_seed(1)
    first = varied(images, name, seed=5)
    torch.manual_seed(2)
    assert torch.equal(first, varied(images, name, seed=5))
    assert torch.equal(images, before)
    if name != "none":
        assert not torch.equal(first, varied(images, name, seed=6))


@pytest.mark.parametrize("name", ["notebook", "standard", "photos", "strong"])
def test_each_image_has_its_own_draw(name):
    copies = faces(1).expand(16, 3, 32, 32)
    results = varied(copies, name).flatten(1)
    apart = torch.cdist(results, results) + torch.eye(16)
    assert apart.min() > 1e-3


@pytest.mark.parametrize("name", ["notebook", "photos", "strong"])
def test_processes_that_share_a_batch_augment_as_one(name):
    images = faces(160, size=48)  # more than go through at once
    whole = varied(images, name)
    parts = [
        augment(
            images[first : first + 40],
            AUGMENTATIONS[name],
            torch.Generator().manual_seed(0),
            first=first,
            of=160,
        )
        for first in range(0, 160, 40)
    ]
    assert torch.equal(torch.cat(parts), whole)


def test_result_goes_where_it_is_told():
    images, place = faces(4), torch.rand(4, 3, 32, 32)
    result = augment(images, AUGMENTATIONS["strong"], step_generator(1), out=place)
    assert result is place
    assert torch.equal(place, augment(images, AUGMENTATIONS["strong"], step_generator(1)))
    for wrong in (place[:3], place.double()):
        with pytest.raises(ConfigError, match=r"float32 \(4, 3, 32, 32\) on cpu"):
            augment(images, AUGMENTATIONS["none"], step_generator(1), out=wrong)


def test_whole_flips_move_pixels_exactly():
    images = faces(8)
    assert torch.equal(varied(images, Augmentation(hflip=1)), (images / 255).flip(-1))
    assert torch.equal(varied(images, Augmentation(vflip=1)), (images / 255).flip(-2))
    both = varied(images, Augmentation(hflip=1, vflip=1))
    assert torch.equal(both, (images / 255).flip(-1, -2))


@pytest.mark.parametrize("warped", [False, True])
def test_share_of_flips(warped):
    images = torch.zeros(1000, 3, 16, 16, dtype=torch.uint8)
    images[..., :8] = 255
    use = Augmentation(hflip=0.3, rotation=1e-6 if warped else 0)
    flipped = varied(images, use)[:, 0, 8, 12] > 0.5
    assert abs(float(flipped.float().mean()) - 0.3) < 0.05


def test_the_notebooks_set_is_mirror_rotation_and_blur_and_never_upside_down():
    notebook = AUGMENTATIONS["notebook"]
    assert notebook == Augmentation(hflip=0.5, rotation=45, blur=1.0)
    # Where a bright dot below the centre goes shows the rotation, and which way is up.
    images = torch.zeros(400, 3, 65, 65, dtype=torch.uint8)
    images[:, :, 50:55, 30:35] = 255
    degrees = dot_from_straight_down(varied(images, notebook))
    assert degrees.min() >= -45.01
    assert degrees.max() <= 45.01
    assert degrees.min() < -43
    assert degrees.max() > 43
    upside_down = dot_from_straight_down(varied(images, notebook.with_overrides(vflip=1.0)))
    assert upside_down.abs().min() >= 134.99


def dot_from_straight_down(images: torch.Tensor) -> torch.Tensor:
    """Return the angle of each image's centre of mass about its middle, in degrees."""
    mass = images[:, 0]
    offsets = torch.arange(65) - 32.0
    down = (mass.sum(dim=2) * offsets).sum(dim=1)
    right = (mass.sum(dim=1) * offsets).sum(dim=1)
    return torch.rad2deg(torch.atan2(right, down))


def test_draws_of_one_step_do_not_depend_on_the_others():
    images = faces(64)
    plain = varied(images, Augmentation(hflip=0.5, brightness=0.3))
    erased = varied(images, Augmentation(hflip=0.5, brightness=0.3, erasing=0.5))
    changed = (plain != erased).flatten(1).any(dim=1)
    assert 0.25 < float(changed.float().mean()) < 0.75
    share = (plain != erased).any(dim=1).float().mean(dim=(1, 2))[changed]
    assert share.max() < 0.2  # a rectangle of at most 15% of the image, the rest untouched


def test_erased_area_keeps_its_range():
    images = torch.zeros(300, 3, 64, 64)
    erased = varied(images, Augmentation(erasing=1, erasing_area=(0.1, 0.3))) > 0
    share = erased.any(dim=1).float().mean(dim=(1, 2))
    assert 0.09 < float(share.min()) < 0.13
    assert 0.27 < float(share.max()) < 0.31


def test_brightness_keeps_its_range():
    grey = torch.full((500, 3, 8, 8), 0.5)
    factors = varied(grey, Augmentation(brightness=0.4))[:, 0, 0, 0] / 0.5
    assert 0.6 <= float(factors.min()) < 0.65
    assert 1.35 < float(factors.max()) <= 1.4


def test_exposure_darkens_as_often_as_its_range_says():
    grey = torch.full((500, 3, 8, 8), 0.5)
    changed = varied(grey, Augmentation(exposure=1, exposure_gamma=(0.5, 2.0)))[:, 0, 0, 0]
    exponents = torch.log(changed) / math.log(0.5)
    assert 0.5 <= float(exponents.min()) < 0.55
    assert 1.9 < float(exponents.max()) <= 2.0001
    assert abs(float((exponents > 1).float().mean()) - 0.5) < 0.08


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_autocast_changes_nothing(name):
    images = faces(40)
    plain = varied(images, name)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(varied(images, name), plain)


def test_no_gradient_is_kept():
    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    assert not varied(images, "strong").requires_grad


SHARE = st.floats(0, 1)
SETTINGS = st.builds(
    Augmentation,
    glasses=SHARE,
    hflip=SHARE,
    vflip=SHARE,
    rotation=st.floats(0, 180),
    scale=st.floats(0, 0.9),
    shift=SHARE,
    fill=st.sampled_from(["black", "edge", "mirror"]),
    low_resolution=SHARE,
    low_resolution_side=st.floats(0.01, 1),
    motion=SHARE,
    motion_length=st.tuples(st.floats(0.001, 0.1), st.floats(0.1, 0.5)),
    blur=SHARE,
    blur_sigma=st.tuples(st.floats(0.01, 3), st.floats(3, 100)),
    exposure=SHARE,
    exposure_gamma=st.tuples(st.floats(0.1, 1), st.floats(1, 10)),
    brightness=SHARE,
    contrast=SHARE,
    saturation=SHARE,
    grey=SHARE,
    noise=SHARE,
    noise_std=SHARE,
    jpeg=SHARE,
    jpeg_quality=st.tuples(st.integers(1, 50), st.integers(50, 100)),
    erasing=SHARE,
    erasing_area=st.tuples(st.floats(0.001, 0.3), st.floats(0.3, 0.9)),
)


@settings(max_examples=60, deadline=None)
@given(
    use=SETTINGS,
    seed=st.integers(0, 2**40),
    n=st.integers(0, 5),
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    whole=st.sampled_from([0, 255]) | st.none(),
)
def test_any_settings_keep_shape_and_range(use, seed, n, height, width, whole):
    random = torch.Generator().manual_seed(seed % 100)
    images = torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=random)
    if whole is not None:
        images.fill_(whole)
    result = augment(images, use, step_generator(seed, 1, 2))
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert bool(((result >= 0) & (result <= 1)).all())  # NaN is not


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((name, bad) for name in ("glasses", "hflip", "vflip", "blur") for bad in (-0.1, 1.1)),
        *((name, bad) for name in ("motion", "jpeg", "erasing") for bad in (-0.1, 1.1)),
        ("rotation", 181),
        ("rotation", -5),
        ("scale", 1.0),
        ("shift", float("nan")),
        ("fill", "white"),
        ("blur_sigma", (2.0, 0.1)),
        ("blur_sigma", (0.0, 1.0)),
        ("blur_sigma", (1.0,)),
        ("erasing_area", (0.1, 1.0)),
        ("motion_length", (0.2, 0.1)),
        ("jpeg_quality", (0, 50)),
    ],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(ConfigError, match=field):
        replace(Augmentation(), **{field: value})


def test_overrides():
    use = AUGMENTATIONS["standard"].with_overrides(rotation=30.0, blur=None, vflip=0.5)
    assert use == replace(AUGMENTATIONS["standard"], rotation=30.0, vflip=0.5)
    with pytest.raises(ConfigError, match="did you mean 'rotation'"):
        use.with_overrides(rotatoin=3)
    with pytest.raises(ConfigError, match="hflip is 2"):
        use.with_overrides(hflip=2)
    with pytest.raises(ConfigError, match="did you mean 'standard'"):
        named_augmentation("standart")
    assert named_augmentation("strong") is AUGMENTATIONS["strong"]


def test_no_set_turns_faces_upside_down():
    assert {use.vflip for use in AUGMENTATIONS.values()} == {0.0}
    assert "vflip" in {field.name for field in fields(Augmentation)}


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 1, 32, 32), (2, 3, 7, 32)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(ConfigError, match="shape"):
        varied(torch.zeros(shape), "none")


def test_step_generator():
    def draw(*key: int) -> list[float]:
        return torch.rand(4, generator=step_generator(*key)).tolist()

    keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0), (2**40, 1, 1)]
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)
    assert draw(3, 4, 5) == draw(3, 4, 5)


def test_to_float_and_normalise_equal_the_reference():
    images = faces(3)
    floats = to_float(images)
    np.testing.assert_array_equal(floats.numpy(), images.numpy().astype(np.float32) / 255)
    last = to_float(images.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous()
    assert torch.equal(last, floats)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = reference.normalize(floats, mean, std)
    torch.testing.assert_close(normalise(floats, mean, std), expected)
    assert torch.equal(floats, to_float(images))
    torch.testing.assert_close(normalise(floats, torch.tensor(mean), std, inplace=True), expected)
    torch.testing.assert_close(floats, expected)


@pytest.mark.parametrize("warn_only", [False, True])
def test_deterministic_algorithms_stay_as_they_were(warn_only: bool) -> None:
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        augment(torch.zeros(2, 3, 16, 16), AUGMENTATIONS["strong"], step_generator(0))
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warn_only
    finally:
        torch.use_deterministic_algorithms(False)
