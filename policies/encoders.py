"""Images to tokens: a small GroupNorm residual network per camera, every cell of its last map one token.

The shape is ResNet's; GroupNorm instead of BatchNorm because averaged (EMA) weights and batch statistics do not mix
(Diffusion Policy, arXiv 2303.04137, section 3.2).  One more token says where some learned features are, as the spatial
softmax does there: relative actions hang on where the hand and the handle are, and cells alone learn that late.  The
sentence reaches into the convolutions (FiLM, arXiv 1709.07871, as in RT-1, arXiv 2212.06817), because which of three
blocks is meant must be known where blocks are still told apart.  Nothing here knows about actions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS_PER_GROUP = 16
POSITION_SCALE = 0.3
"""Of the positions that training begins with: large enough to be seen beside the features, which are about 0.5."""


def resize_images(images: Tensor, size: int) -> Tensor:
    """Resize uint8 (B, H, W, 3) to uint8 (B, size, size, 3), antialiased.

    Training data and test observations pass through this one function, so that they are resized alike.
    """
    if images.shape[1] == images.shape[2] == size:
        return images
    planes = images.permute(0, 3, 1, 2).float()  # (B, 3, H, W)
    planes = F.interpolate(planes, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return planes.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()  # (B, size, size, 3)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(1, channels // CHANNELS_PER_GROUP), channels)


def _side(size: int, strides: tuple[int, ...]) -> int:
    """Return how many cells a side an image of ``size`` pixels a side has after convolutions with these strides."""
    for stride in strides:
        size = -(-size // stride)
    return size


def grid_positions(side: int, dim: int) -> Tensor:
    """Return sines and cosines of each cell's row and column, (side², dim), from half a wave a side to one a cell."""
    waves = torch.exp(torch.linspace(math.log(math.pi), math.log(math.pi * side), dim // 4)) / side
    angles = (torch.arange(side) + 0.5)[:, None] * waves  # (side, dim / 4)
    one = torch.cat([angles.sin(), angles.cos()], dim=-1)  # (side, dim / 2)
    both = torch.cat([one[:, None].expand(-1, side, -1), one[None].expand(side, -1, -1)], dim=-1)  # (side, side, dim)
    return both.reshape(side * side, dim)


class Keypoints(nn.Module):
    """Where K learned features are in a map, on average, as one token."""

    def __init__(self, channels: int, points: int, dim: int) -> None:
        super().__init__()
        self.maps = nn.Conv2d(channels, points, 1)
        self.out = nn.Sequential(nn.Linear(2 * points, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 1, D)."""
        h, w = x.shape[-2:]
        share = self.maps(x).flatten(2).float().softmax(-1)  # (B, K, h w)
        row = torch.linspace(-1, 1, h, device=x.device).repeat_interleave(w)  # (h w,)
        column = torch.linspace(-1, 1, w, device=x.device).repeat(h)  # (h w,)
        places = torch.cat([(share * row).sum(-1), (share * column).sum(-1)], dim=-1)  # (B, 2 K)
        return self.out(places.to(x.dtype)).unsqueeze(1)


class Stem(nn.Conv2d):
    """The first convolution: 2 s − 1 pixels a side, stride s, computed as one of 2×2 cells of s × s pixels.

    Libraries have fast kernels only for many channels, so the pixels of a cell become its channels: the same sums, and
    a training step on a GPU is a tenth shorter.
    """

    def __init__(self, width: int, stride: int) -> None:
        super().__init__(3, width, 2 * stride - 1, stride, stride - 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        """Uint8 (B, H, W, 3), sides multiples of s -> (B, width, H / s, W / s)."""
        B, H, W, _ = images.shape
        s = self.stride[0]
        x = images.view(B, H // s, s, W // s, s, 3).transpose(2, 3)  # (B, H / s, W / s, s, s, 3)
        x = x.reshape(B, H // s, W // s, -1).permute(0, 3, 1, 2)  # (B, 3 s², H / s, W / s), channels last in memory
        x = F.pad(x.to(self.weight.dtype) / 127.5 - 1, (1, 0, 1, 0))
        weight = F.pad(self.weight, (1, 0, 1, 0)).unflatten(3, (2, s)).unflatten(2, (2, s))  # (width, 3, 2, s, 2, s)
        return F.conv2d(x, weight.permute(0, 3, 5, 1, 2, 4).flatten(1, 3))  # kernel (width, 3 s², 2, 2)


def film_layer(sentence_dim: int, channels: int) -> nn.Linear:
    """Return what makes a sentence scales and shifts of so many channels; it begins as if there were none."""
    layer = nn.Linear(sentence_dim, 2 * channels)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; the sentence scales and shifts every channel before the sum (FiLM)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, sentence_dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = _norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = _norm(channels_out)
        changes = stride != 1 or channels_in != channels_out
        self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False) if changes else nn.Identity()
        self.film = film_layer(sentence_dim, channels_out)

    def forward(self, x: Tensor, sentence: Tensor) -> Tensor:
        """(B, C_in, H, W) and (B, sentence_dim) -> (B, C_out, H / stride, W / stride)."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        scale, shift = self.film(sentence)[:, :, None, None].chunk(2, dim=1)  # (B, C_out, 1, 1) each
        y = y * (1 + scale) + shift
        return F.relu(y + self.shortcut(x), inplace=True)


class ViewEncoder(nn.Module):
    """One camera's image to tokens, with a learned position for each cell and a learned mark for the camera.

    A view that is absent is replaced as a whole by one learned token: the output has N tokens (the cells, and the
    keypoints' if there are any) and one absent-view token, and the mask says which of them count.  So a policy without
    a wrist view is the same network.
    """

    def __init__(
        self,
        size: int,
        width: int,
        blocks: int,
        stem_stride: int,
        strides: tuple[int, ...],
        dim: int,
        keypoints: int,
        sentence_dim: int,
    ) -> None:
        super().__init__()
        self.size = size
        self.stem = Stem(width, stem_stride)
        self.stem_norm = _norm(width)
        stages: list[nn.Module] = []
        channels = width
        for stage, stride in enumerate(strides):
            wider = width * 2**stage
            for block in range(blocks):
                stages.append(ResidualBlock(channels, wider, stride if block == 0 else 1, sentence_dim))
                channels = wider
        self.stages = nn.ModuleList(stages)
        side = _side(size, (stem_stride, *strides))
        self.project = nn.Linear(channels, dim)
        self.position = nn.Parameter(grid_positions(side, dim) * POSITION_SCALE)
        self.keypoints = Keypoints(channels, keypoints, dim) if keypoints else None
        self.camera = nn.Parameter(torch.randn(dim) * 0.02)
        self.absent = nn.Parameter(torch.randn(dim) * 0.02)

    def forward(self, images: Tensor | None, present: Tensor, sentence: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (B, N, D) and mask (B, N), true where a token counts.

        Args:
            images: uint8 (B, H, W, 3), or None if no sample of the batch has this view: then only the absent-view
                token is returned (N = 1), and the convolutions are not run at all.
            present: bool (B,), whether each sample has this view.
            sentence: float (B, sentence_dim), components of about 1.
        """
        absent = self.absent.expand(present.shape[0], 1, -1)  # (B, 1, D)
        if images is None:
            return absent, torch.ones_like(present).unsqueeze(1)
        x = self.stem(resize_images(images, self.size))  # (B, width, H / s, W / s)
        x = F.relu(self.stem_norm(x), inplace=True)
        for block in self.stages:
            x = block(x, sentence)  # (B, C, h, w)
        seen = self.project(x.flatten(2).transpose(1, 2)) + self.position  # (B, cells, D)
        if self.keypoints is not None:
            seen = torch.cat([seen, self.keypoints(x).to(seen.dtype)], dim=1)  # (B, N, D)
        tokens = torch.cat([seen + self.camera, absent.to(seen.dtype)], dim=1)  # (B, N + 1, D)
        here = present.unsqueeze(1)
        return tokens, torch.cat([here.expand(-1, seen.shape[1]), ~here], dim=1)
