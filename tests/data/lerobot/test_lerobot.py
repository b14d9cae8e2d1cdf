from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import lerobot_files as files
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.data.clips import ClipDataset, split_paired
from bench.data.export import export_lerobot
from bench.data.lerobot import LeRobotDataset
from bench.data.lerobot.meta import filled
from bench.data.opening import check_dataset, describe, open_dataset
from bench.data.overlay import Overlay
from bench.errors import UserError


@pytest.fixture(scope="session")
def v21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.write_v21(tmp_path_factory.mktemp("lerobot") / "v21")


@pytest.fixture
def spoiled_v21(v21: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(v21, tmp_path / "spoiled"))


def test_numbers_pictures_and_words_come_back_exactly(v21: Path) -> None:
    dataset = open_dataset(v21)
    assert dataset.format == "LeRobot v2.1"
    assert [len(episode) for episode in dataset.episodes] == list(files.LENGTHS)
    for number, episode in enumerate(dataset.episodes):
        arrays = episode.load(("observation.state", "action", *files.ANCHORS, files.WRIST, "language_instruction"))
        for key, expected in files.numbers(number, len(episode)).items():
            if key in arrays:
                assert arrays[key].dtype == np.float32
                np.testing.assert_array_equal(arrays[key], expected)
        for seed, key in enumerate((*files.ANCHORS, files.WRIST)):
            np.testing.assert_array_equal(arrays[key], files.pictures(seed + 3 * number, len(episode)))
    assert arrays["language_instruction"].tolist() == [files.SENTENCES[0]] * 6 + [files.SENTENCES[1]] * 6


def test_any_stretch_and_stride_is_the_same_as_its_part_of_the_whole(v21: Path) -> None:
    episode = open_dataset(v21).episodes[1]
    whole = episode.load((files.WRIST, "action"))
    for start, stop, stride in ((0, 1, 1), (3, 11, 3), (11, 12, 1), (5, 12, 2), (0, 12, 1)):
        part = episode.load((files.WRIST, "action"), start, stop, stride)
        for key in part:
            np.testing.assert_array_equal(part[key], whole[key][start:stop:stride])


def test_instructions_follow_the_task_of_each_frame(v21: Path) -> None:
    first, second = open_dataset(v21).episodes
    assert [(w.start, w.stop, w.instruction) for w in first.windows] == [(0, 7, files.SENTENCES[0])]
    assert [(w.start, w.stop, w.instruction) for w in second.windows] == [
        (0, 6, files.SENTENCES[0]),
        (6, 12, files.SENTENCES[1]),
    ]


def test_clips_have_two_anchors_and_the_wrist(v21: Path) -> None:
    dataset = open_dataset(v21)
    clips = ClipDataset(dataset, length=4, stride=2)
    clip = clips[0]
    assert clip.anchors == ("anchor", "anchor2")
    assert {view: frames.shape for view, frames in clip.views.items()} == dict.fromkeys(
        ("anchor", "anchor2", "wrist"), (4, 36, 64, 3)
    )
    np.testing.assert_array_equal(clip.views["anchor2"], files.pictures(1, 7)[0:7:2])
    assert clip.instruction == files.SENTENCES[0]
    assert "wrist" not in ClipDataset(dataset, length=4, wrist=False)[0].views
    paired, unpaired = split_paired(dataset, 0.5)
    assert len(paired) == len(unpaired) == 1


def test_a_data_set_goes_to_another_process(v21: Path) -> None:
    dataset = LeRobotDataset(v21)
    before = dataset.episodes[1].load((files.WRIST,), 2, 5)
    there = pickle.loads(pickle.dumps(dataset))
    np.testing.assert_array_equal(there.episodes[1].load((files.WRIST,), 2, 5)[files.WRIST], before[files.WRIST])


def test_pictures_are_scaled_while_they_are_decoded(v21: Path) -> None:
    arrays = open_dataset(v21, size=(18, 32)).episodes[0].load((files.WRIST,))
    assert arrays[files.WRIST].shape == (7, 18, 32, 3)


def test_what_it_holds_is_told(v21: Path) -> None:
    told = describe(v21)
    assert told["frames"] == 19
    assert told["views"] == {"anchor": files.ANCHORS[0], "anchor2": files.ANCHORS[1], "wrist": files.WRIST}
    json.dumps(told)


def test_pictures_in_the_table_are_read(tmp_path: Path) -> None:
    import io

    from PIL import Image

    root = tmp_path / "stills"
    images = files.pictures(2, 5)
    cells = []
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue(), "path": None})
    features = {
        "observation.images.top": {"dtype": "image", "shape": [3, 36, 64], "names": ["channels", "height", "width"]},
        "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(files.info("v2.1", features=features)))
    (root / "meta/tasks.jsonl").write_text("")
    (root / "meta/episodes.jsonl").write_text('{"episode_index": 0, "tasks": [], "length": 5}\n')
    path = root / "data/chunk-000/episode_000000.parquet"
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"observation.images.top": cells, "timestamp": np.arange(5, dtype=np.float32) / 15}), path)
    arrays = open_dataset(root).episodes[0].load(("observation.images.top",), 1, 5, 2)
    np.testing.assert_array_equal(arrays["observation.images.top"], images[1:5:2])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "meta/info.json").write_text("{"), "damaged JSON"),
        (lambda root: (root / "meta/info.json").write_text("[]"), "meta/info.json"),
        (lambda root: (root / "meta/episodes.jsonl").unlink(), "no such file"),
        (
            lambda root: (root / "meta/episodes.jsonl").write_text('{"episode_index": 0, "length": 0}'),
            "1 frame or more",
        ),
        (lambda root: (root / "meta/episodes.jsonl").write_text('{"episode_index": 0, "length": 9e99}'), "episode"),
        (lambda root: (root / "meta/tasks.jsonl").write_text('{"task": 3}'), "task_index"),
        (lambda root: (root / "meta/tasks.jsonl").write_text('{"task_index": Infinity, "task": "x"}'), "task_index"),
        (lambda root: (root / "meta/wristbench.json").write_text('{"episodes": [{"episode_index": 1e999}]}'), "number"),
        (lambda root: _change(root, chunks_size=10**30), "chunks_size"),
        (lambda root: _change(root, data_path="data/\ud800.parquet"), "inside the data set"),
        (lambda root: _change(root, codebase_version="v9.0"), "expected LeRobot v2.0"),
        (lambda root: _change(root, fps=0), "fps"),
        (lambda root: _change(root, video_path=None), "video_path"),
    ],
)
def test_damaged_meta_is_one_line(spoiled_v21: Path, damage, words: str) -> None:
    damage(spoiled_v21)
    with pytest.raises(UserError, match=words) as caught:
        open_dataset(spoiled_v21)
    assert "\n" not in str(caught.value)


def _change(root: Path, **entries: object) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    "template",
    [
        "../{episode_index}.parquet",
        "/etc/passwd",
        "{episode_index.__class__}",
        "{episode_index:999999999d}",
        "{secret}",
        "{episode_index!r}",
        "",
    ],
)
def test_a_path_template_cannot_leave_the_folder(template: str) -> None:
    with pytest.raises(UserError):
        filled(template, {"episode_index": 3, "video_key": "x"}, Path("info.json"))


def test_a_video_key_cannot_leave_the_folder() -> None:
    with pytest.raises(UserError, match="refused"):
        filled("videos/{video_key}/a.mp4", {"video_key": "../../secret"}, Path("info.json"))


def test_missing_and_short_files_are_named(spoiled_v21: Path) -> None:
    video = spoiled_v21 / f"videos/chunk-000/{files.WRIST}/episode_000001.mp4"
    data = spoiled_v21 / "data/chunk-000/episode_000000.parquet"
    video.unlink()
    episodes = open_dataset(spoiled_v21).episodes
    with pytest.raises(UserError, match=r"episode_000001\.mp4"):
        episodes[1].load((files.WRIST,))
    pq.write_table(pq.read_table(data).slice(0, 4), data)
    with pytest.raises(UserError, match="expected rows 0 to 6, got 4 rows"):
        open_dataset(spoiled_v21).episodes[0].load(("action",))


def test_nan_in_what_a_policy_reads_is_refused(spoiled_v21: Path) -> None:
    data = spoiled_v21 / "data/chunk-000/episode_000000.parquet"
    table = pq.read_table(data)
    action = np.stack(table.column("action").to_pylist()).astype(np.float32)
    action[3, 2] = np.nan
    place = table.column_names.index("action")
    pq.write_table(table.set_column(place, "action", pa.array(list(action))), data)
    with pytest.raises(UserError, match="finite"):
        open_dataset(spoiled_v21).episodes[0].load(("action",))


def test_a_column_of_another_shape_is_refused(spoiled_v21: Path) -> None:
    features = json.loads((spoiled_v21 / "meta/info.json").read_text())["features"]
    features["action"]["shape"] = [7]
    _change(spoiled_v21, features=features)
    with pytest.raises(UserError, match="disagrees with meta"):
        open_dataset(spoiled_v21).episodes[0].load(("action",))


def test_a_video_of_another_rate_is_noticed(spoiled_v21: Path) -> None:
    from bench.data.video import CODECS, encode

    video = spoiled_v21 / f"videos/chunk-000/{files.WRIST}/episode_000001.mp4"
    encode(video, [files.pictures(2, 12)], 60, CODECS["h264"])
    with pytest.raises(UserError, match="expected a frame at"):
        open_dataset(spoiled_v21).episodes[1].load((files.WRIST,))


def test_unknown_keys_and_folders_are_named(v21: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected features"):
        open_dataset(v21).episodes[0].load(("nonsense",))
    with pytest.raises(UserError, match="expected an episode id"):
        open_dataset(v21)["nonsense"]
    with pytest.raises(UserError, match="expected a CALVIN data set"):
        open_dataset(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        open_dataset(tmp_path / "absent")


def test_depth_maps_and_unknown_types_are_told_and_left_alone(spoiled_v21: Path) -> None:
    features = json.loads((spoiled_v21 / "meta/info.json").read_text())["features"]
    features[files.ANCHORS[0]]["info"] = {"video.is_depth_map": True}
    features["language_events"] = {"dtype": "language", "shape": [1], "names": None}
    _change(spoiled_v21, features=features)
    told = describe(spoiled_v21)
    assert told["not_read"] == [files.ANCHORS[0], "language_events"]
    assert told["views"] == {"anchor": files.ANCHORS[1], "wrist": files.WRIST}
    assert check_dataset(spoiled_v21).defects == ()


def test_an_overlay_stands_beside_lerobot_too(v21: Path, tmp_path: Path) -> None:
    dataset = open_dataset(v21)
    overlay = Overlay.create(tmp_path / "views", dataset.hash(), {"name": "test"})
    for episode in dataset.episodes:
        overlay.add(episode.id, files.pictures(9, len(episode)))
    episode = overlay.attach(dataset.episodes[1])
    assert episode.keys[-1] == "observation.images.wrist_generated"
    export_lerobot(dataset, tmp_path / "v3", overlay=overlay, codec="lossless")
    back = open_dataset(tmp_path / "v3").episodes[1]
    for key in (files.WRIST, "observation.images.wrist_generated"):
        np.testing.assert_array_equal(back.load((key,), 2, 9)[key], episode.load((key,), 2, 9)[key])
    assert open_dataset(tmp_path / "v3").rig.views["wrist"] == files.WRIST


def test_the_hash_tells_one_data_set_from_another(v21: Path, spoiled_v21: Path) -> None:
    from bench.data.video import CODECS, encode

    before = open_dataset(v21).hash()
    assert open_dataset(spoiled_v21).hash() == before
    encode(
        spoiled_v21 / f"videos/chunk-000/{files.WRIST}/episode_000001.mp4", [files.pictures(7, 12)], 15, CODECS["h264"]
    )
    assert open_dataset(spoiled_v21).hash() != before
