"""CVNet: its size, its inputs, and its initial weights."""

import pytest
import torch

from affectnet.data.image_ops import to_grey
from affectnet.models.cvnet import (
    LARGEST,
    SMALLEST,
    Branches,
    CVNet,
    ResidualBlock,
    standardise_grey,
)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return CVNet().eval()


def test_at_most_three_million_parameters(net):
    assert sum(p.numel() for p in net.parameters()) <= 3_000_000


@pytest.mark.parametrize("size", [SMALLEST, 50, 64, 95, 96, 112, 191, 192, LARGEST])
def test_any_size_gives_one_feature_vector(net, size):
    with torch.no_grad():
        features = net(torch.randn(2, 3, size, size))
    assert features.shape == (2, net.num_features)
    assert features.isfinite().all()


@pytest.mark.parametrize(("size", "factor"), [(96, 2), (112, 2), (191, 2), (192, 4), (224, 4)])
def test_large_faces_are_averaged_down(net, size, factor):
    """A large face has the features of its averaged copy: one set of weights serves both."""
    faces = torch.randn(1, 3, size, size)
    side = size // factor
    squares = faces[..., : side * factor, : side * factor].reshape(1, 3, side, factor, side, factor)
    with torch.no_grad():
        torch.testing.assert_close(net(faces), net(squares.mean((3, 5))))


def test_every_pixel_of_a_small_face_counts(net):
    """Below twice the smallest size no pixels are averaged."""
    faces = torch.randn(1, 3, 95, 95, requires_grad=True)
    net(faces).sum().backward()
    assert (faces.grad.abs().sum(dim=1) > 0).all()


def test_a_face_and_its_grey_copy_have_the_same_features(net):
    faces = torch.rand(3, 3, 48, 48)
    grey = to_grey(faces.clone())
    assert not torch.equal(faces, grey)
    with torch.no_grad():
        torch.testing.assert_close(net(faces), net(grey), atol=1e-4, rtol=1e-4)


def test_light_and_contrast_do_not_matter(net):
    """A brighter image of half the contrast has the same features, but for the floor under the
    variance."""
    faces = 2 * torch.randn(3, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(net(faces), net(faces / 2 + 0.7), atol=0.02, rtol=0.02)


def test_standardise_grey_gives_mean_zero_and_variance_one():
    faces = torch.randn(5, 3, 60, 48) * torch.tensor([0.5, 1, 2, 4, 8]).view(-1, 1, 1, 1) + 1
    even = standardise_grey(faces)
    assert even.shape == (5, 1, 60, 48)
    torch.testing.assert_close(even.mean((1, 2, 3)), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(even.var((1, 2, 3)), torch.ones(5), atol=0.2, rtol=0)


def test_a_flat_face_is_not_amplified_to_noise():
    noise = 0.01 * torch.randn(1, 3, 48, 48)
    assert standardise_grey(noise).abs().max() < 0.5
    assert not standardise_grey(torch.full((1, 3, 48, 48), 0.3)).abs().gt(1e-5).any()


def test_features_do_not_depend_on_the_rest_of_the_batch(net):
    faces = torch.randn(3, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(net(faces)[1:2], net(faces[1:2]), atol=1e-5, rtol=1e-5)


def test_drop_path_skips_whole_faces_in_training_only():
    torch.manual_seed(0)
    block = ResidualBlock(8, 8, 1, drop_path=0.5)
    x = torch.rand(64, 8, 6, 6)
    skipped = (block(x) == x).flatten(1).all(dim=1)
    assert 0 < skipped.sum() < len(x)
    block.eval()
    assert not (block(x) == x).flatten(1).all(dim=1).any()


def test_drop_path_rises_towards_the_end():
    shared, branches = CVNet(drop_path=0.2).stages
    for branch in branches.branches:
        rates = [shared.drop_path, *(block.drop_path for block in branch)]
        assert rates[0] == 0
        assert rates[-1] == pytest.approx(0.2)
        assert rates == sorted(rates)


def _two_and_three_times(turns: bool = False) -> Branches:
    branches = Branches([torch.nn.Conv2d(1, 1, 1, bias=False) for _ in range(2)])
    with torch.no_grad():
        for factor, conv in zip((2.0, 3.0), branches.branches, strict=True):
            conv.weight.fill_(factor)
    branches.turns = turns
    return branches


@pytest.mark.parametrize(("turns", "training"), [(False, True), (False, False), (True, False)])
def test_every_branch_gets_every_face(turns, training):
    x = torch.rand(5, 1, 2, 2)
    branches = _two_and_three_times(turns).train(training)
    assert torch.equal(branches(x), torch.cat([2 * x, 3 * x], dim=1))


def test_by_turns_a_branch_gets_its_part_of_a_batch():
    x = torch.rand(5, 1, 2, 2)
    first, second = _two_and_three_times(turns=True)(x).unbind(dim=1)
    even = torch.tensor([1.0, 0, 1, 0, 1])[:, None, None]
    assert torch.equal(first, 2 * 2 * x[:, 0] * even)
    assert torch.equal(second, 2 * 3 * x[:, 0] * (1 - even))


def test_a_batch_smaller_than_the_branches_goes_through_all():
    x = torch.rand(1, 1, 2, 2)
    assert torch.equal(_two_and_three_times(turns=True)(x), torch.cat([2 * x, 3 * x], dim=1))


def test_a_linear_head_gives_the_mean_of_the_branches():
    """The mean of the head's outputs for each branch alone, as by turns, is its output for all of
    them, as in evaluation."""
    head, x = torch.nn.Linear(2, 4), torch.rand(1, 1, 2, 2)
    branches = _two_and_three_times(turns=True)
    alone = head(branches(torch.cat([x, x])).mean((2, 3)))
    together = head(branches.eval()(x).mean((2, 3)))
    torch.testing.assert_close(alone.mean(dim=0), together[0])


@pytest.mark.parametrize("turns", [False, True])
def test_every_parameter_has_a_gradient(turns):
    torch.manual_seed(0)
    net = CVNet()
    net.take_turns(turns)
    net(torch.randn(4, 3, 48, 48)).square().sum().backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []
