"""Stage 2: windows, the sampler, the store of frames, training that can be killed, checkpoints."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stage2_doubles import Clips, DiesAfter, FlippedAnchor, KilledError, scene, shaded, small_config, with_steps

from worldmodel import checkpoint
from worldmodel.api import Camera, Clip, WorldModelError
from worldmodel.flow import euler_sample, flow_loss, linear_guess, loss_weight, shifted, window_noise
from worldmodel.frame_store import FrameStore, resize
from worldmodel.stage2 import Stage2, train_stage2
from worldmodel.stage2_config import FlowConfig
from worldmodel.stage2_model import window_starts
from worldmodel.training_loop import TrainingLoop

CLIPS = Clips([scene(7, "a"), scene(5, "b")])


def train(folder: Path, clips: Any = CLIPS, **options: Any) -> Stage2:
    config = options.pop("config", small_config())
    return train_stage2(clips, options.pop("stage1", FlippedAnchor()), config, folder, progress=False, **options)


def weights(model: Stage2) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.denoiser.state_dict().items()}


def same(a: Stage2, b: Stage2) -> bool:
    first, second = weights(a), weights(b)
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Stage2:
    return train(tmp_path_factory.mktemp("stage2"))


def generate(model: Stage2, clip: Clip, seed: int = 0, **options: Any) -> np.ndarray:
    maps, _ = FlippedAnchor().condition(clip.without("wrist"), model.config.size)
    return model.generate(clip, maps, seed, (20, 20), **options)


# Windows


@pytest.mark.parametrize(
    ("length", "starts"), [(1, [0]), (3, [0]), (4, [0, 1]), (6, [0, 3]), (7, [0, 3, 4]), (9, [0, 3, 6])]
)
def test_windows_cover_a_clip_and_the_last_ends_with_it(length: int, starts: list[int]) -> None:
    assert window_starts(length, 3) == starts


@pytest.mark.parametrize("length", [1, 2, 3, 5, 7])
def test_generated_frames_stand_at_their_own_time(model: Stage2, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler that returns its condition map shows each frame's own map, in short clips too."""
    monkeypatch.setattr(model, "sample", lambda maps, anchors, noise: torch.from_numpy(maps).movedim(-1, 2) / 127.5 - 1)
    maps = np.arange(length, dtype=np.uint8)[:, None, None, None] * 20 + np.zeros((length, 16, 16, 3), np.uint8)
    for batch_size in (1, 8):
        out = model.generate(scene(length), maps, 0, (16, 16), batch_size)
        assert np.array_equal(out, maps)


def test_where_windows_overlap_the_earlier_one_stays(model: Stage2) -> None:
    clip = scene(7)
    first_six = dataclasses.replace(clip, views={name: view[:6] for name, view in clip.views.items()})
    assert np.array_equal(generate(model, clip)[:6], generate(model, first_six))


# Sampling


def test_sampling_is_the_same_for_the_same_seed_only(model: Stage2) -> None:
    clip = scene(7)
    assert np.array_equal(generate(model, clip, 3), generate(model, clip, 3))
    assert not np.array_equal(generate(model, clip, 3), generate(model, clip, 4))


def test_batches_do_not_change_a_window(model: Stage2) -> None:
    clip = scene(9)
    together, alone = generate(model, clip, batch_size=8), generate(model, clip, batch_size=1)
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_noise_belongs_to_seed_episode_and_frame() -> None:
    shape = (2, 3, 4, 4)
    known = window_noise(shape, 0, "a", 0)
    assert torch.equal(known, window_noise(shape, 0, "a", 0))
    for other in ((1, "a", 0), (0, "b", 0), (0, "a", 1)):
        assert not torch.equal(known, window_noise(shape, *other))


def test_euler_follows_a_straight_flow_exactly() -> None:
    target, noise = torch.randn(2, 1, 1, 2, 2), torch.randn(2, 1, 1, 2, 2)
    for steps in (1, 4):
        out = euler_sample(lambda x, s: noise - target, noise, FlowConfig(shift=5.0, steps=steps))
        assert torch.allclose(out, target, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "shift"),
    [(FlowConfig(shift=5.0, steps=4), 5.0), (FlowConfig(shift=5.0, sampling_shift=20.0, steps=4), 20.0)],
)
def test_the_sampler_visits_the_shifted_levels(config: FlowConfig, shift: float) -> None:
    seen: list[float] = []

    def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(float(sigma[0]))
        return torch.zeros_like(x)

    euler_sample(velocity, torch.zeros(1, 1, 1, 2, 2), config)
    assert seen == pytest.approx([shift * u / (1 + (shift - 1) * u) for u in (1.0, 0.75, 0.5, 0.25)], abs=1e-5)


def test_guidance_moves_away_from_the_null_context(tmp_path: Path) -> None:
    config = with_steps(small_config(), anchor_dropout=0.3)
    model = train(tmp_path, config=config, steps=30)
    plain = generate(model, scene(3))
    model.config = with_steps(config, guidance=4.0)
    assert not np.array_equal(plain, generate(model, scene(3)))


# The loss


def test_the_loss_of_a_perfect_prediction_is_zero() -> None:
    clean, noise, sigma = torch.randn(3, 2, 1, 2, 2), torch.randn(3, 2, 1, 2, 2), torch.rand(3)
    assert flow_loss(lambda x, s: noise - clean, clean, noise, sigma, FlowConfig()) == 0
    assert flow_loss(lambda x, s: torch.zeros_like(x), clean, noise, sigma, FlowConfig()) > 1


def test_the_bell_has_mean_one_and_no_weight_at_the_ends() -> None:
    config = FlowConfig(weighting="bell", shift=5.0)
    weight = loss_weight(shifted(torch.linspace(0.001, 1, 1000, dtype=torch.float64), 5.0), config)
    assert float(weight.mean()) == pytest.approx(1.0, abs=1e-3)
    assert float(weight[-1]) == pytest.approx(0.0, abs=1e-6)
    assert float(loss_weight(torch.tensor([0.5]), config)) > 1


def test_the_linear_guess_is_the_best_one() -> None:
    torch.manual_seed(0)
    spread, sigma = torch.tensor([0.3, 2.0]), torch.full((1,), 0.6)
    clean = torch.randn(1, 2, 1, 200, 200) * spread.view(1, 2, 1, 1, 1)
    noise = torch.randn_like(clean)
    noisy = 0.4 * clean + 0.6 * noise
    guess, missed = linear_guess(noisy, sigma, spread)
    rest = noise - clean - guess
    for channel in range(2):
        assert float((rest * noisy)[:, channel].mean()) == pytest.approx(0.0, abs=0.02)
        assert float(rest[:, channel].std()) == pytest.approx(float(missed[0, channel]), rel=0.02)


# The store of frames


def test_overlapping_clips_are_conditioned_once(tmp_path: Path) -> None:
    whole = scene(9)
    overlapping = [
        dataclasses.replace(whole, views={name: view[s : s + 4] for name, view in whole.views.items()}, start=s)
        for s in range(6)
    ]
    stage1 = FlippedAnchor()
    store = FrameStore.build(tmp_path / "a", Clips(overlapping), stage1, small_config())
    assert stage1.drawn == 9
    assert len(store) == 6 * 2
    batch = store.batch(range(len(store)))
    assert batch.wrist.shape == (12, 3, 16, 16, 3)
    assert batch.anchors.shape == (12, 3, 1, 16, 16, 3)
    truth = resize(whole.views["wrist"], (16, 16))
    for number, start in enumerate([0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]):
        assert np.array_equal(batch.wrist[number], truth[start : start + 3])


def test_a_short_clip_is_continued_with_its_last_frame(tmp_path: Path) -> None:
    store = FrameStore.build(tmp_path, Clips([scene(2)]), FlippedAnchor(), small_config())
    wrist = store.batch([0]).wrist[0]
    assert np.array_equal(wrist[1], wrist[2])
    assert not np.array_equal(wrist[0], wrist[1])


def test_an_interrupted_store_goes_on(tmp_path: Path) -> None:
    clips = Clips([scene(40, "a"), scene(40, "b"), scene(40, "c")])
    with pytest.raises(KilledError):
        FrameStore.build(tmp_path, clips, DiesAfter(85), small_config())
    rest = FlippedAnchor()
    store = FrameStore.build(tmp_path, clips, rest, small_config())
    assert 0 < rest.drawn < 120
    fresh = FrameStore.build(tmp_path / "fresh", clips, FlippedAnchor(), small_config())
    numbers = range(len(fresh))
    assert np.array_equal(store.batch(numbers).condition, fresh.batch(numbers).condition)


def test_another_conditioner_does_not_meet_old_maps(tmp_path: Path) -> None:
    class Other(FlippedAnchor):
        def provenance(self) -> dict[str, Any]:
            return {"name": "other"}

    FrameStore.build(tmp_path, CLIPS, FlippedAnchor(), small_config())
    other = Other()
    FrameStore.build(tmp_path, CLIPS, other, small_config())
    assert other.drawn == 12


def test_cameras_follow_their_frames(tmp_path: Path) -> None:
    poses = np.arange(9)[:, None, None] + np.zeros((9, 4, 4))
    camera = Camera(np.eye(3), poses)
    whole = dataclasses.replace(scene(9), cameras={"anchor": camera})
    parts = [
        dataclasses.replace(
            whole,
            views={name: view[s : s + 4] for name, view in whole.views.items()},
            cameras={"anchor": Camera(np.eye(3), poses[s : s + 4])},
            start=s,
        )
        for s in (0, 2, 5)
    ]

    class Watching(FlippedAnchor):
        def condition(self, clip: Clip, size: tuple[int, int]) -> Any:
            assert np.array_equal(clip.cameras["anchor"].camera_from_world, poses)
            assert np.array_equal(clip.views["anchor"], whole.views["anchor"])
            return super().condition(clip, size)

    FrameStore.build(tmp_path, Clips(parts), Watching(), small_config())


# Training


def test_training_repeats_itself(tmp_path: Path) -> None:
    assert same(train(tmp_path / "a"), train(tmp_path / "b"))
    assert not same(train(tmp_path / "a"), train(tmp_path / "c", seed=1))


def test_training_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_a_killed_run_continues_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = small_config(steps=60, save_every_s=0.0)
    whole = train(tmp_path / "whole", config=config)
    update = TrainingLoop._update

    def dying(self: TrainingLoop, loss: Any, done: float) -> float:
        if self.step == 45:
            raise KilledError
        return update(self, loss, done)

    monkeypatch.setattr(TrainingLoop, "_update", dying)
    with pytest.raises(KilledError):
        train(tmp_path / "killed", config=config)
    monkeypatch.setattr(TrainingLoop, "_update", update)
    assert not (tmp_path / "killed" / checkpoint.INDEX).exists()
    stage1 = FlippedAnchor()
    continued = train(tmp_path / "killed", config=config, stage1=stage1)
    assert stage1.drawn == 0, "condition maps were made before"
    assert same(whole, continued)
    assert [h["step"] for h in continued.extra["history"]] == [20, 40, 60]
    assert sorted(p.name for p in (tmp_path / "killed").iterdir())[0] == checkpoint.INDEX
    assert not (tmp_path / "killed" / "training").exists()


def test_a_finished_run_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = train(tmp_path)
    monkeypatch.setattr(TrainingLoop, "train", lambda *_: pytest.fail("trained twice"))
    assert same(first, train(tmp_path))


def test_a_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(WorldModelError, match="seed"):
        train(tmp_path, seed=1)


def test_a_time_limit_ends_the_run_early(tmp_path: Path) -> None:
    model = train(tmp_path, steps=1_000_000, time_limit_s=0.5)
    assert 0 < model.extra["steps_done"] < 1_000_000


def test_training_learns_what_the_condition_map_shows(tmp_path: Path) -> None:
    """After a few seconds the view is nearer to the truth than the mean image: position is read from the map."""
    clips, held_out = Clips([shaded(f"t{n}", n) for n in range(20)]), shaded("v", 99)
    model = train(tmp_path, clips, config=small_config(steps=250, batch_size=4, learning_rate=3e-3))
    truth = held_out.views["wrist"].astype(float)
    mean = np.mean([c.views["wrist"].mean(axis=0) for c in clips], axis=0)
    error = np.abs(generate(model, held_out) - truth).mean()
    assert error < 0.4 * np.abs(mean - truth).mean()
    losses = [h["loss"] for h in model.extra["history"]]
    assert losses[-1] < 0.6 * losses[0]


def test_clips_without_a_wrist_view_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WorldModelError, match="paired share"):
        train(tmp_path / "a", Clips([scene(5, wrist=False)]))
    with pytest.raises(WorldModelError, match="at least one training clip"):
        train(tmp_path / "b", Clips([]))


def test_clips_of_different_anchors_are_refused(tmp_path: Path) -> None:
    one = scene(5, "a")
    two = dataclasses.replace(scene(5, "b"), views={**scene(5, "b").views, "anchor2": one.views["anchor"]})
    with pytest.raises(WorldModelError, match="numbers of anchor views"):
        train(tmp_path, Clips([one, two]))


# Checkpoints


def test_a_checkpoint_samples_as_before(tmp_path: Path) -> None:
    before = train(tmp_path)
    after = Stage2.load(tmp_path)
    assert np.array_equal(generate(before, scene(5)), generate(after, scene(5)))
    assert after.provenance()["weights_sha256"] == checkpoint.weights_hash(tmp_path)
    json.dumps(after.provenance(), allow_nan=False)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    model = train(tmp_path / "a")
    other = dataclasses.replace(model.config, anchor=dataclasses.replace(model.config.anchor, hidden=8))
    config, tensors, extra = checkpoint.load(tmp_path / "a")
    checkpoint.save(tmp_path / "b", other.to_json(), tensors, extra)
    with pytest.raises(WorldModelError, match="not a stage-2 checkpoint"):
        Stage2.load(tmp_path / "b")
    tensors.pop(next(name for name in tensors if name.startswith("denoiser.transformer")))
    checkpoint.save(tmp_path / "c", config, tensors, extra)
    with pytest.raises(WorldModelError, match="1 weights missing"):
        Stage2.load(tmp_path / "c")


def test_the_papers_parts_fit_together_in_miniature(tmp_path: Path) -> None:
    """Trained transformer, Wan's autoencoder and a frozen CLIP from folders, in the shapes of a test."""
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    from worldmodel.anchor_encoder import make_clip
    from worldmodel.stage2_config import CodecConfig, TransformerConfig

    torch.manual_seed(0)
    AutoencoderKLWan(
        base_dim=3, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4
    ).save_pretrained(tmp_path / "wan" / "vae")
    WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4, text_dim=16, freq_dim=16,
        ffn_dim=32, num_layers=1,
    ).save_pretrained(tmp_path / "wan" / "transformer")  # fmt: skip
    base = small_config(steps=2, ema_decay=0.0)
    make_clip(dataclasses.replace(base.anchor, layers=2)).save_pretrained(tmp_path / "clip")
    config = dataclasses.replace(
        base,
        size=(16, 32),
        frames=5,
        codec=CodecConfig(kind="wan", source=str(tmp_path / "wan"), subfolder="vae"),
        anchor=dataclasses.replace(base.anchor, source=str(tmp_path / "clip")),
        transformer=TransformerConfig(source=str(tmp_path / "wan"), subfolder="transformer", text_tokens=12),
        flow=FlowConfig(steps=2, guidance=5.0, anchor_dropout=0.1, weighting="bell", precondition=False),
    )
    model = train(tmp_path / "stage2", config=config)
    again = Stage2.load(tmp_path / "stage2")
    maps, _ = FlippedAnchor().condition(scene(6).without("wrist"), config.size)
    frames = model.generate(scene(6), maps, 0, (20, 20))
    assert frames.shape == (6, 20, 20, 3)
    assert np.array_equal(frames, again.generate(scene(6), maps, 0, (20, 20)))
    stored = checkpoint.load(tmp_path / "stage2")[1]
    assert not any(".clip." in name for name in stored), "frozen weights stay where they came from"
