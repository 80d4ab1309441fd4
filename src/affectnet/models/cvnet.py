"""CVNet: a compact residual network for small faces, made to train on two CPU cores."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST: Final = 48
LARGEST: Final = 224
DEFAULT_SIZE: Final = 112
MEAN: Final = (0.5, 0.5, 0.5)
STD: Final = (0.25, 0.25, 0.25)

# Full 3x3 convolutions throughout: on a CPU they reach several times the arithmetic rate of
# depthwise ones, so they give more accuracy in the same time. The widths keep the arithmetic of a
# block about equal from stage to stage. Only the stem works at full resolution, where memory is the
# limit. From the second stage on there are two branches: averaging two networks gained more than
# any change to one (docs/cvnet.md).
_STEM: Final = 16
_WIDTHS: Final = (48, 96, 160)
_BLOCKS: Final = (1, 3, 2)
_BRANCHES: Final = 2

_LUMA: Final = (0.2989, 0.587, 0.114)  # ITU-R BT.601, the usual conversion to grey
# Of a normalised face: an image flatter than 3.5% of the range is not amplified to noise.
_LEAST_VARIANCE: Final = 0.02


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate computed from all channel means (Hu et al. 2018)."""

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, channels // reduction)
        self.expand = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Gate `x` (B, C, H, W)."""
        gate = torch.sigmoid(self.expand(F.relu(self.reduce(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class ResidualBlock(nn.Module):
    """Residual block: conv, norm, ReLU, conv, norm, gate, plus the shortcut, ReLU.

    The last norm starts at one, not at zero as in deep networks (Goyal et al. 2017): a network with
    so few blocks then learns much faster (validation accuracy on FER+ after one epoch: 63% instead
    of 45%).
    `drop_path` is the probability that a training sample skips the block (Huang et al. 2016).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, drop_path: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.gate = SqueezeExcitation(outputs)
        self.drop_path = drop_path
        # The shortcut averages before its 1x1 convolution, so that no pixel is skipped.
        self.shortcut = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(
                nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity(),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, outputs, ceil(H / stride), ceil(W / stride))."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.gate(self.norm2(self.conv2(y)))
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            y = y * (torch.rand(len(y), 1, 1, 1, device=y.device) < keep).to(y.dtype) / keep
        return F.relu(y + self.shortcut(x), inplace=True)


class Branches(nn.Module):
    """Parallel networks on the same input; their features are concatenated.

    Each branch is trained on every face, unless the branches take `turns`. Then each is trained on
    its own rows of the batch (the first of two on the even rows): the features of the others are
    zero and its own are multiplied by the number of branches, so that a linear head is trained on
    each branch by itself and gives the mean of the branches' logits in evaluation. The branches
    then learn independently and stay different, as an ensemble needs, and a step costs as much as
    with one branch; but each branch sees only its part of an epoch. (Branches behind shared early
    layers: Siqueira et al. 2020, arXiv:2001.06338, who train all of them on every face.)

    Args:
        branches: each maps (B, inputs, H, W) to (B, outputs, h, w) of one shape.
    """

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.turns = False

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, inputs, H, W) to (B, branches * outputs, h, w)."""
        count = len(self.branches)
        # A batch with fewer rows than branches goes through all of them.
        if not (self.training and self.turns and len(x) >= count):
            return torch.cat([branch(x) for branch in self.branches], dim=1)
        outputs: list[Tensor] = [
            count * branch(x[number::count]) for number, branch in enumerate(self.branches)
        ]
        features = outputs[0].new_zeros(len(x), count, *outputs[0].shape[1:])
        for number, output in enumerate(outputs):
            features[number::count, number] = output
        return features.flatten(1, 2)


class CVNet(nn.Module):
    """Compact residual network: any face of 48 to 224 px, grey (three equal channels) or RGB.

    Three fixed steps prepare a face for the first convolution:

    - Squares of pixels are averaged to a grid of 48 to 95 px: sides of 96 and more are halved, of
      192 and more quartered (96 to 48, 112 to 56, 224 to 56). A face fills its image, so that its
      scale is about the same for every image size: one set of weights serves all sizes, and 112
      and 224 cost no more than 56. Detail finer than the grid is lost.
    - Colours become grey (luma), so that a photo and its grey copy give the same result.
    - The mean is subtracted and the result divided by the standard deviation, which removes the
      light and contrast of the whole image.

    Args:
        drop_path: probability of skipping the last block; earlier ones rise to it linearly.
        stem: channels of the first convolution, which keeps the resolution.
        widths: channels of the stages, each of which halves it.
        blocks: blocks of the stages.
        branches: number of parallel copies of the stages after the first (`Branches`).
    """

    def __init__(
        self,
        drop_path: float = 0.0,
        stem: int = _STEM,
        widths: Sequence[int] = _WIDTHS,
        blocks: Sequence[int] = _BLOCKS,
        branches: int = _BRANCHES,
    ) -> None:
        super().__init__()
        self.num_features = branches * widths[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(1, stem, 3, 1, 1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
        )
        rates = torch.linspace(0, drop_path, sum(blocks), device="cpu").tolist()
        shared = blocks[0]
        self.stages = nn.Sequential(
            *_chain(stem, widths[:1], blocks[:1], rates[:shared]),
            Branches(
                [
                    nn.Sequential(*_chain(widths[0], widths[1:], blocks[1:], rates[shared:]))
                    for _ in range(branches)
                ]
            ),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def take_turns(self, turns: bool = True) -> None:
        """Let the branches take turns in training, or train all on every face (`Branches`)."""
        for module in self.modules():
            if isinstance(module, Branches):
                module.turns = turns

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The patterns by which timm assigns weights to the stem and to each block."""
        branched = r"^stages\.(\d+)\.branches\.\d+\.(\d+)"
        return {"stem": r"^stem", "blocks": [(branched, None), (r"^stages\.(\d+)", None)]}

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised faces (B, 3, S, S), S from 48 to 224, to features (B, num_features)."""
        return self.forward_features(x).mean((2, 3))

    def forward_features(self, x: Tensor) -> Tensor:
        """Map normalised faces to the last stage's features, (B, num_features, S' / 8, S' / 8).

        S' is the side of the grid, 48 to 95; its eighth is rounded up.
        """
        side = min(x.shape[-2:])
        factor = 4 if side >= 4 * SMALLEST else 2 if side >= 2 * SMALLEST else 1
        if factor > 1:
            x = F.avg_pool2d(x, factor)
        features: Tensor = self.stages(self.stem(standardise_grey(x)))
        return features


def _chain(
    inputs: int, widths: Sequence[int], blocks: Sequence[int], rates: Sequence[float]
) -> Iterator[ResidualBlock]:
    """The blocks of consecutive stages, each of which halves the resolution."""
    drop_path = iter(rates)
    for width, count in zip(widths, blocks, strict=True):
        for block in range(count):
            yield ResidualBlock(inputs, width, 2 if block == 0 else 1, next(drop_path))
            inputs = width


def standardise_grey(faces: Tensor) -> Tensor:
    """Map normalised faces (B, 3, H, W) to grey, each of mean 0 and variance 1, (B, 1, H, W)."""
    red, green, blue = faces.unbind(dim=1)
    grey = (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(1)
    grey = grey - grey.mean((1, 2, 3), keepdim=True)
    variance = grey.square().mean((1, 2, 3), keepdim=True)
    return grey * torch.rsqrt(variance + _LEAST_VARIANCE)
