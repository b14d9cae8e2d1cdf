"""Stage 1 learns from pairs, continues after a kill as if nothing had been, and says clearly what it lacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from worldmodel import checkpoint, geometry
from worldmodel.api import Camera, Clip, WorldModelError
from worldmodel.splat import splat
from worldmodel.stage1 import Stage1, Stage1Config, train_stage1
from worldmodel.stage1_model import Scene
from worldmodel.stage1_steps import Lesson

SIZE = 40


class Source:
    """Clips of coloured blobs over a plane, seen by a fixed anchor and a moving wrist camera with a red marker."""

    def __init__(self, count: int = 3, frames: int = 5) -> None:
        self.clips = [_clip(seed, frames) for seed in range(count)]

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip:
        return self.clips[index]

    def __iter__(self) -> Iterator[Clip]:
        return iter(self.clips)


def _camera(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    world_from_camera = np.eye(4)
    world_from_camera[:3, :3] = np.stack([right, np.cross(forward, right), forward], axis=1)
    world_from_camera[:3, 3] = position
    return np.linalg.inv(world_from_camera)


def _clip(seed: int, frames: int) -> Clip:
    random = np.random.default_rng(seed)
    plane = np.stack(np.meshgrid(np.linspace(-1, 1, 120), np.linspace(-1, 1, 120)), axis=-1).reshape(-1, 2)
    table = np.concatenate([plane, 0.05 * np.sin(6 * plane[:, :1])], axis=1)
    paint = np.stack([90 + 80 * np.sin(5 * plane[:, 0]), 90 + 80 * np.cos(4 * plane[:, 1]), 0 * plane[:, 0]], axis=1)
    fov = torch.tensor([[0.7, 0.7]])
    intrinsics = geometry.intrinsics_from_fov(fov[0].double(), (SIZE, SIZE)).numpy()
    poses: dict[str, list[np.ndarray]] = {"anchor": [], "wrist": []}
    images: dict[str, list[np.ndarray]] = {"anchor": [], "wrist": []}
    depths: dict[str, list[np.ndarray]] = {"anchor": [], "wrist": []}
    for _ in range(frames):
        hand = np.array([random.uniform(-0.4, 0.4), random.uniform(-0.4, 0.4), 1.0])
        marker = hand + random.normal(size=(400, 3)) * 0.06 - [0, 0, 0.4]
        points = torch.from_numpy(np.concatenate([table, marker])).float()[None]
        colours = np.concatenate([paint, np.tile([255.0, 0, 0], (400, 1))]).astype(np.uint8)
        views = {"anchor": _camera(np.array([0, -3.0, 2.0]), np.zeros(3)), "wrist": _camera(hand, hand - [0, -0.2, 1])}
        for name, pose in views.items():
            drawn, depth = splat(
                points, torch.from_numpy(colours)[None], torch.from_numpy(pose)[None], fov, (SIZE, SIZE), radius=1.5
            )
            images[name].append(drawn[0].numpy())
            depths[name].append(torch.where(torch.isinf(depth[0]), 0.0, depth[0]).numpy())
            poses[name].append(pose)
    return Clip(
        views={name: np.stack(value) for name, value in images.items()},
        cameras={name: Camera(intrinsics, np.stack(value)) for name, value in poses.items()},
        depth={name: np.stack(value) for name, value in depths.items()},
        episode=f"synthetic-{seed}",
    )


CONFIG = Stage1Config.named(
    "tiny",
    vggt=dataclasses.replace(Stage1Config.tiny().vggt, image_size=32, width=16, dense_features=8),
    tracks_grid=8, tracks_per_frame=16, geometry_steps=6, steps=14, batch=4, tracks_tolerance_m=0.1, start_pose=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def source() -> Source:
    torch.set_num_threads(1)
    return Source()


@pytest.fixture(scope="module")
def trained(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stage1") / "done"
    train_stage1(source, CONFIG, folder, progress=False)
    return folder


def test_a_finished_stage_is_complete_and_repeatable(trained: Path, source: Source, tmp_path: Path) -> None:
    stage = Stage1.load(trained)
    assert stage.extra["provenance"]["tracks"] == "simulator"
    assert {entry["phase"] for entry in stage.extra["history"]} == {"geometry", "wrist"}
    assert not (trained / "training").exists()
    train_stage1(source, CONFIG, tmp_path / "again", progress=False)
    assert checkpoint.weights_hash(tmp_path / "again") == checkpoint.weights_hash(trained)
    train_stage1(source, CONFIG, tmp_path / "other", seed=1, progress=False)
    assert checkpoint.weights_hash(tmp_path / "other") != checkpoint.weights_hash(trained)


@pytest.mark.parametrize("stop", [3, 13])
def test_a_killed_run_ends_with_the_same_weights(
    stop: int, trained: Path, source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldmodel.stage1.SAVE_SECONDS", 0.0)
    seen = 0
    original = Lesson.total

    def dies(self: Lesson, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        nonlocal seen
        seen += 1
        if seen == stop:
            raise KeyboardInterrupt
        return original(self, losses)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Lesson, "total", dies)
        train_stage1(source, CONFIG, tmp_path / "run", progress=False)
    with pytest.raises(WorldModelError, match="another configuration"):
        train_stage1(source, dataclasses.replace(CONFIG, jitter=0.3), tmp_path / "run", progress=False)
    train_stage1(source, CONFIG, tmp_path / "run", progress=False)
    assert checkpoint.weights_hash(tmp_path / "run") == checkpoint.weights_hash(trained)


def test_a_finished_stage_is_not_trained_again(trained: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Lesson, "total", None)
    again = train_stage1(source, CONFIG, trained, progress=False)
    assert again.extra["seconds"] == Stage1.load(trained).extra["seconds"]
    with pytest.raises(WorldModelError, match="another configuration"):
        train_stage1(source, CONFIG, trained, seed=5, progress=False)


def test_predictions_have_the_promised_shapes(trained: Path, source: Source) -> None:
    stage, clip = Stage1.load(trained), source[0].without("wrist")
    by_name = stage.predict(clip.views, {"anchor": clip.cameras["anchor"].intrinsics})
    assert by_name.wrist_from_anchor.shape == (5, 4, 4)
    assert by_name.fov.shape == (5, 2)
    assert by_name.points.shape == (5, 1, 32, 32, 3)
    stacked = stage.predict(clip.views["anchor"][:, None], clip.cameras["anchor"].intrinsics[None], batch=2)
    np.testing.assert_allclose(stacked.wrist_from_anchor, by_name.wrist_from_anchor, atol=1e-5)
    maps = by_name.condition(clip, (24, 30))
    assert maps.shape == (5, 24, 30, 3)
    assert maps.dtype == np.uint8
    assert np.isfinite(stage.predict(clip.views).points).all()
    with pytest.raises(WorldModelError, match="intrinsics of 1 anchors"):
        stage.predict(clip.views, np.zeros((2, 3, 3)))


def test_more_steps_bring_the_points_nearer_to_their_pixels(source: Source, tmp_path: Path) -> None:
    longer = dataclasses.replace(
        CONFIG, geometry_steps=20, steps=80, batch=8, geometry_every=4, learning_rate=1e-3, start_pose=True
    )
    history = train_stage1(source, longer, tmp_path, progress=False).extra["history"]
    depth = [entry["depth"] for entry in history if "depth" in entry]
    pixels = [entry["px"] for entry in history if entry["phase"] == "wrist"]
    assert np.mean(depth[-4:]) < np.mean(depth[:3])
    assert np.mean(pixels[-3:]) < 0.6 * pixels[0]


def test_a_time_limit_ends_both_phases(source: Source, tmp_path: Path) -> None:
    slow = dataclasses.replace(CONFIG, geometry_steps=1000, steps=100_000)
    stage = train_stage1(source, slow, tmp_path, time_limit_s=1.0, progress=False)
    assert stage.extra["seconds"] < 20
    assert {entry["phase"] for entry in stage.extra["history"]} >= {"wrist"}


def test_what_clips_lack_is_named(source: Source, tmp_path: Path) -> None:
    clip = source[0]
    no_depth = dataclasses.replace(clip, depth={"wrist": clip.depth["wrist"]})
    for lacking, message in (
        ([], "no clips"),
        ([clip.without("wrist")], "no 'wrist' view"),
        ([no_depth], "no depth for view 'anchor'"),
        ([clip, clip.without("wrist")], "clips differ"),
    ):
        with pytest.raises(WorldModelError, match=message):
            train_stage1(lacking, CONFIG, tmp_path, progress=False)  # type: ignore[arg-type]
    with pytest.raises(WorldModelError, match="scale 'tiny' learns depth"):
        unsupervised = dataclasses.replace(CONFIG, spc_weight=0.0, pose_supervision=True, recorded_points=False)
        train_stage1([no_depth], unsupervised, tmp_path, progress=False)  # type: ignore[arg-type]
    assert not any(tmp_path.iterdir())


def test_the_ablation_with_true_poses_needs_true_poses(source: Source, tmp_path: Path) -> None:
    with pytest.raises(WorldModelError, match="without any supervision"):
        dataclasses.replace(CONFIG, spc_weight=0.0)
    ablation = dataclasses.replace(CONFIG, spc_weight=0.0, pose_supervision=True)
    clip = source[0]
    blind = dataclasses.replace(clip, cameras={**clip.cameras, "wrist": Camera(clip.cameras["wrist"].intrinsics)})
    with pytest.raises(WorldModelError, match="needs true wrist poses"):
        train_stage1([blind], ablation, tmp_path / "blind", progress=False)  # type: ignore[arg-type]
    history = train_stage1(source, ablation, tmp_path / "seen", progress=False).extra["history"]
    assert "pose" in history[-1]
    assert "spc" not in history[-1]


def test_the_network_without_pretrained_depth_must_learn_it() -> None:
    with pytest.raises(WorldModelError, match="geometry_steps"):
        dataclasses.replace(CONFIG, geometry_steps=0)
    with pytest.raises(WorldModelError, match="unknown scale"):
        Stage1Config.named("huge")
    for scale in ("tiny", "small", "paper"):
        config = Stage1Config.named(scale)
        assert Stage1Config.from_json(config.to_json()) == config


def test_scene_and_anchor_frames_are_one_similarity() -> None:
    scene = Scene(depth_m=4.0, scale_m=0.3)
    rotation = torch.from_numpy(Rotation.random(6, rng=np.random.default_rng(0)).as_matrix())
    pose = geometry.compose(rotation, torch.randn(6, 3, dtype=torch.float64))
    points = torch.randn(6, 9, 3, dtype=torch.float64)
    torch.testing.assert_close(scene.points_to_anchor(scene.points_to_scene(points)), points)
    torch.testing.assert_close(scene.pose_to_scene(scene.pose_to_anchor(pose)), pose)
    # A camera sees the same picture whichever frame is used, at another scale of depth.
    by_scene = geometry.transform(pose, scene.points_to_scene(points)) * 0.3
    torch.testing.assert_close(by_scene, geometry.transform(scene.pose_to_anchor(pose), points))


def test_a_folder_of_another_stage_is_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {}, {"a": torch.zeros(1)}, {})
    with pytest.raises(WorldModelError, match="no stage 1 checkpoint"):
        Stage1.load(tmp_path)
