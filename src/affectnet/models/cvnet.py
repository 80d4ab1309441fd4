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
# depthwise ones, so at equal time they buy more accuracy. The widths keep the arithmetic of a block
# about equal from stage to stage. Only the stem works at full resolution: what is dear there is
# not arithmetic but memory. From the second stage on all is there twice: two networks averaged
# gained more than anything done to one (docs/cvnet.md).
_STEM: Final = 16
_WIDTHS: Final = (48, 96, 160)
_BLOCKS: Final = (1, 3, 2)
_BRANCHES: Final = 2

_LUMA: Final = (0.2989, 0.587, 0.114)
"""ITU-R BT.601, as a grey copy of a photo is made."""
_LEAST_VARIANCE: Final = 0.02
"""Of a normalised face: a picture flatter than 3.5% of the range is not stretched to noise."""


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


class Block(nn.Module):
    """Residual block: conv, norm, ReLU, conv, norm, gate, plus the shortcut, ReLU.

    The last norm starts at one, not at zero as in deep networks (Goyal et al. 2017): a network of
    so few blocks learns much faster so (after one epoch on FER+ 63% of the validation faces were
    right, against 45%).
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
    """Networks side by side on the same input, whose features stand side by side.

    All of them see every face, unless they take `turns` in training. Then each sees its own part of
    the batch (the first of two every even row), the features of the others are zero to the heads,
    and its own are multiplied by the number of branches: a linear head is trained on each branch by
    itself, and gives the mean of the branches' logits in evaluation. So the branches learn as if
    each were alone and stay different, which is what an ensemble lives on, and a step costs as much
    as with one branch; but each sees only its part of an epoch. (Branches behind shared early
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
        # A batch too small to be shared out is seen by all.
        if not (self.training and self.turns and len(x) >= count):
            return torch.cat([branch(x) for branch in self.branches], dim=1)
        parts: list[Tensor] = [
            count * branch(x[place::count]) for place, branch in enumerate(self.branches)
        ]
        features = parts[0].new_zeros(len(x), count, *parts[0].shape[1:])
        for place, own in enumerate(parts):
            features[place::count, place] = own
        return features.flatten(1, 2)


class CVNet(nn.Module):
    """Compact residual network: any face of 48 to 224 px, grey (three equal channels) or RGB.

    Three things are done to a face before the first convolution, none of them learned:

    - It is brought to a grid of 48 to 95 px by averaging whole squares of pixels: sides of 96 and
      more are halved, of 192 and more quartered (96 to 48, 112 to 56, 224 to 56). A face fills its
      picture, so the network meets it at much the same scale whatever the size of the picture,
      which is what lets one set of weights serve every size; and 112 and 224 cost no more than 56.
      Detail finer than that grid is lost: the price of a network this small.
    - It becomes grey, by its luma, so that a photo and its grey copy are the same to it.
    - Its mean is taken off and it is divided by its standard deviation, so that light and contrast
      of the whole picture drop out.

    Args:
        drop_path: probability of skipping the last block; earlier ones rise to it linearly.
        stem: channels of the first convolution, which keeps the resolution.
        widths: channels of the stages, each of which halves it.
        blocks: blocks of the stages.
        branches: how often the stages after the first are there, side by side (`Branches`).
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
        rates = torch.linspace(0, drop_path, sum(blocks)).tolist()
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
        """Let the branches take turns in training, or all see every face (`Branches`)."""
        for module in self.modules():
            if isinstance(module, Branches):
                module.turns = turns

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Tell timm which weights belong to the stem and to each block."""
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
        features: Tensor = self.stages(self.stem(even_light(x)))
        return features


def _chain(
    inputs: int, widths: Sequence[int], blocks: Sequence[int], rates: Sequence[float]
) -> Iterator[Block]:
    """The blocks of some stages, each stage halving the resolution."""
    drop_path = iter(rates)
    for width, count in zip(widths, blocks, strict=True):
        for block in range(count):
            yield Block(inputs, width, 2 if block == 0 else 1, next(drop_path))
            inputs = width


def even_light(faces: Tensor) -> Tensor:
    """Grey copies (B, 1, H, W) of normalised faces (B, 3, H, W), of mean 0 and variance 1 each."""
    red, green, blue = faces.unbind(dim=1)
    grey = (_LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue).unsqueeze(1)
    grey = grey - grey.mean((1, 2, 3), keepdim=True)
    variance = grey.square().mean((1, 2, 3), keepdim=True)
    return grey * torch.rsqrt(variance + _LEAST_VARIANCE)
