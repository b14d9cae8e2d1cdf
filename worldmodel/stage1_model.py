"""Stage 1 when it is done: from anchor images to points, the wrist camera's pose and condition maps.

Not here: training (``stage1.py``).  The network speaks of a *scene*: the first anchor's camera frame, moved and scaled
so that what matters lies around 0 and measures about 1.  :class:`Scene` keeps that similarity, so what leaves this
file is in the first anchor's frame, in metres (or in VGGT's own unit where its published weights are used as they
are: condition maps do not depend on the unit).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from worldmodel import checkpoint, geometry
from worldmodel.api import Clip, WorldModelError
from worldmodel.splat import splat
from worldmodel.stage1_config import Stage1Config
from worldmodel.stage1_data import resize_images
from worldmodel.vggt.model import Vggt, VggtOutput


@dataclass(frozen=True)
class Scene:
    """The similarity between the first anchor's frame (metres) and the scene (about unit size, around 0).

    Attributes:
        depth_m: distance of the scene's middle along the first anchor's optical axis.
        scale_m: metres of one scene unit.
    """

    depth_m: float = 0.0
    scale_m: float = 1.0

    def points_to_scene(self, points: Tensor) -> Tensor:
        """Map points (..., 3) of the anchor's frame into the scene."""
        return (points - self._middle(points)) / self.scale_m

    def points_to_anchor(self, points: Tensor) -> Tensor:
        """Map points (..., 3) of the scene into the anchor's frame."""
        return points * self.scale_m + self._middle(points)

    def pose_to_anchor(self, camera_from_scene: Tensor) -> Tensor:
        """Turn a camera's pose (..., 4, 4) relative to the scene into ``camera_from_anchor``, in metres."""
        rotation = camera_from_scene[..., :3, :3]
        shift = rotation @ self._middle(camera_from_scene)
        return geometry.compose(rotation, camera_from_scene[..., :3, 3] * self.scale_m - shift)

    def pose_to_scene(self, camera_from_anchor: Tensor) -> Tensor:
        """Undo :meth:`pose_to_anchor`."""
        rotation = camera_from_anchor[..., :3, :3]
        shift = rotation @ self._middle(camera_from_anchor)
        return geometry.compose(rotation, (camera_from_anchor[..., :3, 3] + shift) / self.scale_m)

    def _middle(self, like: Tensor) -> Tensor:
        return torch.tensor([0.0, 0.0, self.depth_m], dtype=like.dtype, device=like.device)


@dataclass(frozen=True)
class Stage1Prediction:
    """What stage 1 sees in a clip of T frames and V anchors.

    Attributes:
        wrist_from_anchor: (T, 4, 4) float64, the wrist camera's pose relative to the first anchor.
        fov: (T, 2) float32, its vertical and horizontal field of view in radians.
        points: (T, V, h, w, 3) float32, a point for every pixel of the resized anchors, in the first anchor's frame.
        disc: radius of a drawn point as a share of the map's width.
    """

    wrist_from_anchor: NDArray[np.float64]
    fov: NDArray[np.float32]
    points: NDArray[np.float32]
    disc: float

    def condition(self, clip: Clip, size: int | tuple[int, int], device: str = "cpu") -> NDArray[np.uint8]:
        """Draw the coloured points as the wrist camera would see them.

        Args:
            clip: the clip that was predicted from; its anchors give the colours, at their full resolution.
            size: side, or height and width, of the maps in pixels.
            device: where to draw.

        Returns:
            uint8 (T, H, W, 3), black where no point falls.
        """
        shape = (size, size) if isinstance(size, int) else size
        maps = []
        for t in range(len(self.points)):
            points, colours = [], []
            for index, view in enumerate(clip.anchors):
                image = torch.from_numpy(clip.views[view][t]).to(device)
                coarse = torch.from_numpy(self.points[t, index]).to(device).permute(2, 0, 1)[None]
                fine = F.interpolate(coarse, size=image.shape[:2], mode="bilinear", align_corners=False)
                points.append(fine[0].flatten(1).T)
                colours.append(image.flatten(0, 1))
            picture, _ = splat(
                torch.cat(points)[None],
                torch.cat(colours)[None],
                torch.from_numpy(self.wrist_from_anchor[t : t + 1]).to(device),
                torch.from_numpy(self.fov[t : t + 1]).to(device),
                shape,
                radius=self.disc * shape[1],
            )
            maps.append(picture[0].cpu().numpy())
        return np.stack(maps)


class Stage1:
    """A trained stage 1."""

    def __init__(
        self, config: Stage1Config, model: Vggt, scene: Scene, extra: Mapping[str, Any], device: str = "cpu"
    ) -> None:
        """Wrap a network.

        Args:
            config: of the network and its training.
            model: the network, with its weights.
            scene: the similarity that it was trained in.
            extra: provenance and history.
            device: where it runs.
        """
        self.config, self.scene, self.extra, self.device = config, scene, dict(extra), device
        self.model = model.to(device).eval()

    @classmethod
    def load(cls, directory: Path | str, device: str = "cpu") -> Stage1:
        """Read a finished stage 1.

        Raises:
            WorldModelError: there is none in ``directory``, or it is damaged.
        """
        config_data, tensors, extra = checkpoint.load(directory)
        if "scene" not in extra:
            raise WorldModelError(f"{directory} is no stage 1 checkpoint (it has no scene): name the stage 1 folder")
        config = Stage1Config.from_json(config_data)
        model = Vggt(config.vggt)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise WorldModelError(f"{directory} does not fit its own configuration: {reason}; train anew") from error
        return cls(config, model, Scene(**extra["scene"]), extra, device)

    def save(self, directory: Path | str) -> None:
        """Write a folder that :meth:`load` reads."""
        extra = {**self.extra, "scene": {"depth_m": self.scene.depth_m, "scale_m": self.scene.scale_m}}
        checkpoint.save(directory, self.config.to_json(), self.model.state_dict(), extra)

    def predict(
        self,
        anchors: Mapping[str, NDArray[np.uint8]] | NDArray[np.uint8],
        intrinsics: Mapping[str, NDArray[np.float64]] | NDArray[np.float64] | None = None,
        *,
        batch: int = 16,
    ) -> Stage1Prediction:
        """Find points and the wrist camera.

        Args:
            anchors: view name to uint8 (T, H, W, 3), or one array (T, V, H, W, 3).
            intrinsics: of the anchors in pixels of these images, by name or (V, 3, 3); None lets the camera head say.
            batch: frames at a time.
        """
        if isinstance(anchors, Mapping):
            names = sorted(anchors)
            views = [anchors[name] for name in names]
            known = [intrinsics[name] for name in names] if isinstance(intrinsics, Mapping) else intrinsics
        else:
            views = list(np.moveaxis(anchors, 1, 0))
            known = None if isinstance(intrinsics, Mapping) else intrinsics
        shape = self.model.image_shape(*views[0].shape[1:3])
        matrices = self._resized(known, [view.shape[1:3] for view in views], shape)
        poses, fovs, points = [], [], []
        for start in range(0, len(views[0]), batch):
            part = [torch.from_numpy(np.ascontiguousarray(view[start : start + batch])) for view in views]
            images = torch.stack([resize_images(one.permute(0, 3, 1, 2), shape) for one in part], dim=1)
            with torch.inference_mode():
                output = self.model(images.to(self.device).float() / 255)
                pose, fov = geometry.decode_pose(output.wrist[-1].double())
                points.append(scene_points(output, self.scene, matrices).float().cpu().numpy())
                poses.append(self.scene.pose_to_anchor(pose).cpu().numpy())
                fovs.append(fov.float().cpu().numpy())
        return Stage1Prediction(
            wrist_from_anchor=np.concatenate(poses),
            fov=np.concatenate(fovs),
            points=np.concatenate(points),
            disc=self.config.disc,
        )

    def _resized(
        self, known: Sequence[Any] | NDArray[np.float64] | None, sizes: list[tuple[int, int]], shape: tuple[int, int]
    ) -> Tensor | None:
        if known is None:
            return None
        if len(known) != len(sizes):
            raise WorldModelError(f"expected intrinsics of {len(sizes)} anchors, got {len(known)}")
        matrices = [torch.as_tensor(np.asarray(matrix)).float() for matrix in known]
        resized = [geometry.resize_intrinsics(one, old, shape) for one, old in zip(matrices, sizes, strict=True)]
        return torch.stack(resized).to(self.device)


def scene_points(output: VggtOutput, scene: Scene, intrinsics: Tensor | None) -> Tensor:
    """Return the points (B, V, h, w, 3) in the first anchor's frame, in metres.

    Args:
        output: what it said, with dense maps.
        scene: its similarity.
        intrinsics: (V, 3, 3) or (B, V, 3, 3) of the resized anchors; None takes what the camera head says.
    """
    if output.points is not None:
        return scene.points_to_anchor(output.points)
    assert output.depth is not None, "dense maps were not asked for"
    depth = output.depth * scene.scale_m + scene.depth_m
    view_from_scene, fov = geometry.decode_pose(output.cameras[-1])  # (B, V, 4, 4)
    if intrinsics is None:
        intrinsics = geometry.intrinsics_from_fov(fov, (depth.shape[2], depth.shape[3]))
    points = geometry.unproject_map(depth, intrinsics.expand(*depth.shape[:2], 3, 3))
    # The first anchor's frame is the reference, so only the others are moved.
    first_from_view = geometry.invert(scene.pose_to_anchor(view_from_scene[:, 1:]))
    others = geometry.transform(first_from_view, points[:, 1:].flatten(2, 3)).view_as(points[:, 1:])
    return torch.cat([points[:, :1], others], dim=1)
