"""The video predictor: what a camera is expected to see next, given what it sees now and the sentence.

A diffusion model on latents with diffusers' ``UNetSpatioTemporalConditionModel`` and the noise and preconditioning of
Stable Video Diffusion (arXiv 2311.15127; Karras et al., arXiv 2206.00364): data of deviation 1, x0 = noisy / (σ² + 1) −
σ / √(σ² + 1) · network.  The policy never draws a video: it takes the maps of the up-sampling blocks in one pass over
pure noise, always the same, so that features are a function of image and sentence.

A predictor that is trained here predicts the change from the current frame, in units of its own deviation: one that
knows nothing repeats the frame.  Training it is in :mod:`policies.vpp.train`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from policies.api import PolicyError
from policies.encoders import CHANNELS_PER_GROUP
from policies.vpp.config import GROUPS, VideoPolicyConfig
from policies.vpp.latents import PatchLatents, VaeLatents

NOISE_SEED = 0
TIME_IDS = 3
"""Frame rate, motion bucket and noise on the image: what Stable Video Diffusion's UNet is told besides the time."""

TIME_ID_DIM = 32
LOG_SIGMA_MEAN, LOG_SIGMA_STD = 0.7, 1.6
"""Noise levels of the training samples; VPP's ``step1_train_svd.py`` has Stable Video Diffusion's."""


class VideoPredictor(nn.Module):
    """Predicts the latents of F future frames of one view.

    Args:
        config: frames, noise level, what is told besides.
        unet: a ``UNetSpatioTemporalConditionModel`` that is given noisy latents and those of the current frame.
        latents: images to latents.
        frame_change: whether it predicts the change from the current frame instead of the frame.

    Attributes:
        training_record: what happened in its training, or which released weights it has, as plain JSON data.
    """

    noise: Tensor
    change: Tensor
    buckets: Tensor

    def __init__(
        self, config: VideoPolicyConfig, unet: Any, latents: PatchLatents | VaeLatents, *, frame_change: bool
    ) -> None:
        super().__init__()
        self.config, self.unet, self.latents, self.frame_change = config, unet, latents, frame_change
        self.training_record: dict[str, Any] = {}
        side = config.anchor_size // config.stem_stride
        generator = torch.Generator().manual_seed(NOISE_SEED)
        noise = torch.randn(config.frames, latents.channels, side, side, generator=generator)
        self.register_buffer("noise", noise, persistent=False)
        self.register_buffer("buckets", torch.tensor(config.motion_buckets, dtype=torch.float32), persistent=False)
        self.register_buffer("change", torch.ones(()))

    @property
    def channels(self) -> int:
        """Number of feature channels: those of all blocks that are read."""
        widths = list(reversed(self.unet.config.block_out_channels))
        return int(sum(widths[: self.config.up_blocks]))

    def parameters_count(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.parameters())

    def targets(self, frame: Tensor, future: Tensor) -> Tensor:
        """Return what is predicted: (B, F, C, h, w), of deviation about 1.

        Args:
            frame: latents of the current frame (B, C, h, w).
            future: latents of the frames to come (B, F, C, h, w).
        """
        if self.frame_change:
            return (future - frame[:, None]) / self.change
        return future * self.latents.scale

    def loss(
        self, image: Tensor, future: Tensor, sentence: Tensor, view: Tensor, noise: Tensor, sigma: Tensor
    ) -> Tensor:
        """Return the training loss, a scalar: 1 for a network that says 0 at a high noise level.

        Args:
            image: the current frame, uint8 (B, H, W, 3).
            future: the frames to come, uint8 (B, F, H, W, 3).
            sentence: float (B, text_dim).
            view: 0 for the anchor view, 1 for the wrist view (B,).
            noise: standard normal, as :meth:`targets`' shape.
            sigma: noise level (B,).
        """
        with torch.no_grad():
            frame = self.latents(image)
            x = self.targets(frame, self.latents(future.flatten(0, 1)).unflatten(0, future.shape[:2]))
        level = sigma.view(-1, 1, 1, 1, 1)
        noisy = x + level * noise
        norm = (level**2 + 1).sqrt()
        wanted = (noisy / norm**2 - x) * norm / level
        return F.mse_loss(self._network(noisy / norm, sigma, frame, sentence, view).float(), wanted)

    def expected(self, image: Tensor, sentence: Tensor, view: Tensor) -> Tensor:
        """Return the prediction of one pass over noise, as :meth:`targets`' shape."""
        level = self.config.noise_level
        network = self._at_noise_level(self.latents(image), sentence, view).float()
        return self.noise * level / (level**2 + 1) - network * level / (level**2 + 1) ** 0.5

    @torch.no_grad()
    def features(self, image: Tensor, sentence: Tensor, view: Tensor) -> Tensor:
        """Return the features of every predicted frame (B, F, N, C) of one pass over noise; N = grid²."""
        maps: list[Tensor] = []
        blocks = self.unet.up_blocks[: self.config.up_blocks]
        handles = [block.register_forward_hook(lambda _block, _given, made: maps.append(made)) for block in blocks]
        try:
            self._at_noise_level(self.latents(image), sentence, view)
        finally:
            for handle in handles:
                handle.remove()
        joined = torch.cat([_resized(made, self.config.grid) for made in maps], dim=1)  # (B × F, C, grid, grid)
        return joined.float().flatten(2).transpose(1, 2).unflatten(0, (len(image), self.config.frames))

    def halve(self) -> None:
        """Keep the weights in bf16: VPP, too, reads its video model at half precision."""
        self.unet.to(torch.bfloat16)
        self.latents.to(torch.bfloat16)

    def _at_noise_level(self, frame: Tensor, sentence: Tensor, view: Tensor) -> Tensor:
        level = self.config.noise_level
        sigma = torch.full((len(frame),), level, device=frame.device)
        pure = self.noise.expand(len(frame), -1, -1, -1, -1) * (level / (level**2 + 1) ** 0.5)
        return self._network(pure, sigma, frame, sentence, view)

    def _network(self, noisy: Tensor, sigma: Tensor, frame: Tensor, sentence: Tensor, view: Tensor) -> Tensor:
        """Run the UNet on noisy latents of deviation 1 (B, F, C, h, w)."""
        B, frames = noisy.shape[:2]
        dtype = self.unet.dtype
        given = torch.cat([noisy.to(dtype), frame[:, None].expand(-1, frames, -1, -1, -1).to(dtype)], dim=2)
        zero = torch.zeros(B, device=frame.device)
        ids = torch.stack([zero + self.config.fps, self.buckets[view], zero], dim=1)
        text = sentence.unflatten(1, (self.config.text_tokens, -1))  # (B, L, D)
        if self.frame_change:  # one of ours; a released one was trained on the vectors as they are
            text = F.rms_norm(text, text.shape[-1:])
        text = text.repeat(1, 1, int(self.unet.config.cross_attention_dim) // text.shape[-1])  # VPP: CLIP's 512 twice
        made: Tensor = self.unet(
            given, sigma.log() / 4, encoder_hidden_states=text.to(dtype), added_time_ids=ids, return_dict=False
        )[0]
        return made


class Frozen:
    """A predictor that a network reads but does not own: neither trained, nor copied, nor among its weights.

    So the averaged weights, the optimiser, and the state that a training continues from hold the policy's own alone.
    """

    def __init__(self, predictor: VideoPredictor) -> None:
        self.predictor = predictor.eval().requires_grad_(False)

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        return self

    def on(self, device: torch.device) -> VideoPredictor:
        """Return the predictor, moved to ``device``; released weights are halved on a GPU."""
        if self.predictor.noise.device != device:
            self.predictor.to(device)
            if self.predictor.config.weights and device.type == "cuda":
                self.predictor.halve()
        return self.predictor


def _resized(maps: Tensor, grid: int) -> Tensor:
    if maps.shape[-1] == grid:
        return maps
    if maps.shape[-1] > grid:
        return F.adaptive_avg_pool2d(maps, grid)
    return F.interpolate(maps, size=(grid, grid), mode="bilinear", align_corners=False)


def new_predictor(config: VideoPolicyConfig) -> VideoPredictor:
    """Return an untrained predictor of the configuration's size; it repeats the current frame."""
    from diffusers import UNetSpatioTemporalConditionModel

    latents = PatchLatents(config.stem_stride)
    widths = tuple(config.width * 2**level for level in range(config.levels))
    attends = config.levels - 1
    # The finest level does without attention to text and space: it costs most there and says least.
    unet = UNetSpatioTemporalConditionModel(
        sample_size=config.anchor_size // config.stem_stride,
        in_channels=2 * latents.channels,
        out_channels=latents.channels,
        down_block_types=("DownBlockSpatioTemporal",) + ("CrossAttnDownBlockSpatioTemporal",) * attends,
        up_block_types=("CrossAttnUpBlockSpatioTemporal",) * attends + ("UpBlockSpatioTemporal",),
        block_out_channels=widths,
        addition_time_embed_dim=TIME_ID_DIM,
        projection_class_embeddings_input_dim=TIME_IDS * TIME_ID_DIM,
        layers_per_block=config.blocks,
        cross_attention_dim=config.text_dim // config.text_tokens,
        num_attention_heads=tuple(width // GROUPS for width in widths),
        num_frames=config.frames,
    )
    # Diffusers' 32 groups are meant for 320 channels.  With one channel a group, the norm after the time embedding
    # (which is added to whole channels) would take it away again, and with it the camera.
    for module in unet.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = max(1, module.num_channels // CHANNELS_PER_GROUP)
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return VideoPredictor(config, unet, latents, frame_change=True)


def check_text(config: VideoPolicyConfig, unet: Any) -> None:
    """Refuse sentence vectors that do not fit the UNet's attention to text."""
    wanted, given = int(unet.config.cross_attention_dim), config.text_dim // config.text_tokens
    if wanted % given:
        raise PolicyError(
            f"text {config.text!r} gives vectors of length {given}, the video model attends to vectors of {wanted}; "
            "choose the text encoder that it was trained with"
        )
