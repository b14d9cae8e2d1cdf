"""What stage 1 does in one step of either phase, and what lies between the phases.

Not here: schedules, checkpoints, progress (``stage1.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from worldmodel import geometry, spc
from worldmodel.stage1_config import Stage1Config
from worldmodel.stage1_data import Frames
from worldmodel.stage1_model import Scene, scene_points
from worldmodel.start_pose import central_pose, solve_poses
from worldmodel.vggt.model import Vggt, VggtOutput

START_MOMENTS = 8
START_PAIRS = 64


@dataclass
class Lesson:
    """What a step reads: network, data, units, randomness.

    Attributes:
        config: of the run.
        model: the network.
        frames: the data, on the CPU.
        scene: the similarity of metres and scene units.
        device: where the network is.
        random: the only source of randomness besides torch's global one.
        points: (P, 3) scene points of all pairs, fixed during the second phase.
    """

    config: Stage1Config
    model: Vggt
    frames: Frames
    scene: Scene
    device: str
    random: np.random.Generator
    points: Tensor | None = None

    def images(self, chosen: Tensor, jitter: bool = True) -> Tensor:
        """Return the anchors of these frames (B,) as (B, V, 3, H, W) in [0, 1], brightness and contrast changed."""
        images = self.frames.anchors[chosen].to(self.device).float() / 255
        if not jitter or self.config.jitter == 0:
            return images
        strength = self.config.jitter
        change = torch.from_numpy(self.random.uniform(1 - strength, 1 + strength, (2, len(chosen)))).float()
        gain, contrast = change.to(self.device)[:, :, None, None, None, None]
        mean = images.mean(dim=(2, 3, 4), keepdim=True)
        return (((images - mean) * contrast + mean) * gain).clamp(0, 1)

    def geometry_step(self) -> dict[str, Tensor]:
        """Return the losses of a batch of the first phase: depth and the anchors' cameras."""
        chosen = torch.from_numpy(self.random.integers(len(self.frames), size=self.config.batch))
        output = self.model(self.images(chosen))
        return {"depth": self.depth_loss(output, chosen), "camera": self.camera_loss(output, chosen)}

    def wrist_step(self, step: int, done: float) -> dict[str, Tensor]:
        """Return the losses of a batch of the second phase: SPC, fields of view, cameras, now and then depth.

        Args:
            step: its number.
            done: how much of the phase is over, 0 to 1.
        """
        config, frames = self.config, self.frames
        paired = frames.paired if config.spc_weight > 0 else torch.arange(len(frames))
        chosen = paired[torch.from_numpy(self.random.integers(len(paired), size=config.batch))]
        rehearse = config.geometry_every > 0 and step % config.geometry_every == 0
        output = self.model(self.images(chosen), dense=rehearse, frozen=not config.train_aggregator)
        losses = {"camera": self.camera_loss(output, chosen), "fov": self.fov_loss(output, chosen)}
        if rehearse:
            losses["depth"] = self.depth_loss(output, chosen)
        if config.spc_weight > 0:
            losses |= self.spc_loss(output, chosen, done)
        if config.pose_supervision:
            losses["pose"] = self.pose_loss(output, chosen)
        return losses

    def depth_loss(self, output: VggtOutput, chosen: Tensor) -> Tensor:
        """Return the mean absolute error of depth in scene units, bounded for what is far behind the scene."""
        assert output.depth is not None, "dense maps were asked for"
        assert self.frames.depth is not None, "checked before training"
        metres = self.frames.depth[chosen].to(self.device)
        true = (metres - self.scene.depth_m) / self.scene.scale_m
        error = (output.depth - true).abs()
        known = metres > 0
        bounded = torch.where(error < 4, error, 4 + 0.1 * (error - 4))
        return (bounded * known).sum() / known.sum().clamp_min(1)

    def camera_loss(self, output: VggtOutput, chosen: Tensor) -> Tensor:
        """Return the L1 loss of the anchors' poses (weight 1) and fields of view (weight 0.5) over all rounds."""
        frames = self.frames
        if frames.intrinsics is None or frames.poses is None:
            return output.cameras[-1].new_zeros(())
        size = (frames.anchors.shape[-2], frames.anchors.shape[-1])
        fov = geometry.fov_from_intrinsics(frames.intrinsics[chosen], size)
        true = geometry.encode_pose(self.scene.pose_to_scene(frames.poses[chosen]), fov).to(self.device)
        weights = torch.tensor([1.0] * 7 + [0.5] * 2, device=self.device)
        return self._rounds([((pose - true).abs() * weights).mean() for pose in output.cameras])

    def fov_loss(self, output: VggtOutput, chosen: Tensor) -> Tensor:
        """Return the L1 loss of the wrist's field of view over all rounds."""
        true = geometry.fov_from_intrinsics(self.frames.wrist_intrinsics[chosen], self.frames.wrist_size)
        true = true.to(self.device)
        return self._rounds([(encoding[:, 7:] - true).abs().mean() for encoding in output.wrist])

    def pose_loss(self, output: VggtOutput, chosen: Tensor) -> Tensor:
        """Return the L1 loss of translation and quaternion against true wrist poses: the ablation."""
        assert self.frames.wrist_poses is not None, "checked before training"
        pose = self.scene.pose_to_scene(self.frames.wrist_poses[chosen])
        true = geometry.encode_pose(pose, pose.new_zeros(len(chosen), 2))[:, :7].to(self.device)
        # Both signs of a quaternion are the same rotation: the label takes the sign of the prediction.
        sign = (output.wrist[-1][:, 3:7].detach() * true[:, 3:]).sum(dim=1, keepdim=True).sign()
        true = torch.cat([true[:, :3], torch.where(sign == 0, 1.0, sign) * true[:, 3:]], dim=1)
        return self._rounds([(encoding[:, :7] - true).abs().mean() for encoding in output.wrist])

    def spc_loss(self, output: VggtOutput, chosen: Tensor, done: float) -> dict[str, Tensor]:
        """Return the SPC loss of the last round, with the true wrist intrinsics, and the median error in pixels.

        From scratch the distance from the rays comes first and gives way to the pixel error.
        """
        assert self.points is not None, "the second phase has fixed them"
        pairs, real = self.frames.draw_pairs(chosen, self.config.tracks_per_frame, self.random)
        points, real = self.points[pairs].to(self.device), real.to(self.device)
        pixels = self.frames.pair_wrist[pairs].to(self.device)
        intrinsics = self.frames.wrist_intrinsics[chosen].to(self.device)
        pose, _ = geometry.decode_pose(output.wrist[-1])
        matched = (points, pixels, real, pose, intrinsics)
        config, losses = self.config, {}
        rays = max(0.0, 1 - done / config.ray_share) if config.ray_share > 0 else 0.0
        if rays > 0:
            losses["ray"] = rays * config.ray_weight * spc.ray_loss(*matched)
        if rays < 1:
            pixel_error = spc.spc_loss(
                *matched, self.frames.wrist_size, behind_weight=config.behind_weight, robust=config.robust
            )
            losses["spc"] = (1 - rays) * pixel_error
        with torch.no_grad():
            losses["px"] = spc.median_pixels(*matched)
        return losses

    def _rounds(self, losses: list[Tensor]) -> Tensor:
        """Weight the rounds of a refinement, later ones more, as VGGT does."""
        last = len(losses) - 1
        return sum(
            (self.config.iteration_decay ** (last - index) * loss for index, loss in enumerate(losses)),
            start=torch.zeros((), device=losses[0].device),
        ) / len(losses)

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum that is minimised."""
        config = self.config
        weights = {"spc": config.spc_weight, "fov": config.fov_weight, "camera": config.camera_weight}
        kept = [weights.get(name, 1.0) * loss for name, loss in losses.items() if name != "px"]
        return torch.stack(kept).sum()

    def pair_points(self) -> Tensor:
        """Return the scene point (P, 3) of every pair: recorded, or as the network sees it now."""
        return self._recorded_points() if self.config.recorded_points else self._predicted_points()

    def _recorded_points(self) -> Tensor:
        frames = self.frames
        assert frames.intrinsics is not None, "checked before training"
        assert frames.poses is not None, "checked before training"
        frame = torch.repeat_interleave(torch.arange(len(frames)), frames.offsets.diff())
        intrinsics, pose = frames.intrinsics[frame, frames.pair_view], frames.poses[frame, frames.pair_view]
        points = geometry.unproject(frames.pair_anchor[:, None], frames.pair_depth[:, None], intrinsics)
        return self.scene.points_to_scene(geometry.transform(geometry.invert(pose), points)[:, 0])

    @torch.no_grad()
    def _predicted_points(self) -> Tensor:
        frames = self.frames
        self.model.eval()
        found = torch.zeros(len(frames.pair_view), 3)
        for start in range(0, len(frames), self.config.batch):
            chosen = torch.arange(start, min(start + self.config.batch, len(frames)))
            output = self.model(self.images(chosen, jitter=False))
            intrinsics = None if frames.intrinsics is None else frames.intrinsics[chosen].to(self.device)
            maps = self.scene.points_to_scene(scene_points(output, self.scene, intrinsics)).cpu()
            for row, frame in enumerate(chosen.tolist()):
                own = slice(int(frames.offsets[frame]), int(frames.offsets[frame + 1]))
                for view in range(maps.shape[1]):
                    here = torch.arange(own.start, own.stop)[frames.pair_view[own] == view]
                    found[here] = geometry.sample_map(maps[row, view][None], frames.pair_anchor[here][None])[0]
        self.model.train()
        return found

    def start_pose(self) -> Tensor:
        """Return the encoding (9,) of the pose that the wrist head starts from."""
        assert self.points is not None, "the second phase has fixed them"
        frames = self.frames
        counts = frames.offsets[1:] - frames.offsets[:-1]
        # Frames with few pairs are badly determined, so only the better half is asked.
        rich = (counts >= counts[frames.paired].float().median()).nonzero()[:, 0]
        chosen = rich[torch.linspace(0, len(rich) - 1, min(START_MOMENTS, len(rich))).round().long()]
        pairs, _ = frames.draw_pairs(chosen, START_PAIRS, self.random)
        intrinsics = frames.wrist_intrinsics[chosen]
        poses, _ = solve_poses(self.points[pairs], frames.pair_wrist[pairs], intrinsics, frames.wrist_size)
        fov = geometry.fov_from_intrinsics(frames.wrist_intrinsics, frames.wrist_size).mean(dim=0)
        return geometry.encode_pose(central_pose(poses), fov)


def optimizer_of(model: Vggt, config: Stage1Config) -> torch.optim.AdamW:
    """Return AdamW over what may learn: the camera head at its own rate, decay on matrices only."""
    frozen: list[nn.Module] = [] if config.train_aggregator else [model.aggregator, model.depth_head]
    frozen += [head for head in (model.point_head,) if head is not None and not config.train_aggregator]
    frozen += [model.track_head] if model.track_head is not None else []
    for module in frozen:
        module.requires_grad_(False)
    camera = {id(parameter) for parameter in model.camera_head.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((id(parameter) in camera, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.camera_learning_rate if is_camera else config.learning_rate,
                "weight_decay": config.weight_decay if decays else 0.0,
                "peak": config.camera_learning_rate if is_camera else config.learning_rate,
            }
            for (is_camera, decays), parameters in sorted(groups.items())
        ]
    )


def clip_gradients(model: Vggt, norm: float) -> None:
    """Clip the gradient of each part of the network to its own norm, as WristWorld does."""
    for part in model.children():
        nn.utils.clip_grad_norm_(part.parameters(), norm)
