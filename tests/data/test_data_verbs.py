"""``wristbench data …`` as a user types it: exit codes, JSON, files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lerobot_files as files
import pytest

from bench import cli
from bench.data.calvin import CalvinDataset
from bench.data.overlay import Overlay


@pytest.fixture(scope="module")
def v21(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return files.write_v21(tmp_path_factory.mktemp("verbs") / "v21")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]):
    """Return a function that runs a command and returns (exit code, JSON or None, stderr)."""

    def run(*words: object) -> tuple[int, dict | None, str]:
        code = cli.run([str(word) for word in words])
        out, err = capsys.readouterr()
        lines = out.strip().splitlines()
        return code, json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None, err

    return run


@pytest.mark.parametrize("verb", ["check", "info", "view", "pack", "export"])
def test_every_verb_has_help_with_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run(["data", verb, "--help"])
    assert ended.value.code == 0
    assert f"wristbench data {verb}" in capsys.readouterr().out.split("example:")[1]


def test_info_of_every_format(say, tiny_root: Path, v21: Path) -> None:
    assert say("data", "info", v21, "--json")[1]["views"]["anchor2"] == files.ANCHORS[1]
    code, told, _ = say("data", "info", tiny_root, "--json")
    assert (code, told["splits"]["training"]["frames"]) == (0, 26)
    assert say("data", "info", v21)[0] == 0
    code, _, err = say("data", "info", v21 / "absent", "--json")
    assert code == 2
    assert len(err.strip().splitlines()) == 1


def test_check_ends_with_1_when_there_are_defects(say, v21: Path, tmp_path: Path) -> None:
    code, told, _ = say("data", "check", v21, "--json")
    assert (code, told["defects"]) == (0, [])
    spoilt = Path(shutil.copytree(v21, tmp_path / "spoilt"))
    video = next(spoilt.rglob("*.mp4"))
    video.unlink()
    code, told, _ = say("data", "check", spoilt, "--json", "--quiet")
    assert code == 1
    assert {Path(defect["file"]) for defect in told["defects"]} == {video}
    assert set(told["defects"][0]) == {"file", "frame", "what"}


def test_view_of_lerobot_keeps_the_pictures_shape(say, v21: Path, tmp_path: Path) -> None:
    from PIL import Image

    _, told, _ = say("data", "view", v21, "--episode", 1, "--out", tmp_path, "--json")
    with Image.open(told["contact_sheet"]) as sheet:
        assert sheet.width == 4 * 3 * 356
    assert Path(told["video"]).is_file()


def test_export_with_an_overlay(say, tiny_root: Path, tmp_path: Path) -> None:
    dataset = CalvinDataset(tiny_root)
    overlay = Overlay.create(tmp_path / "views", dataset.hash(), {"name": "test"})
    for seed, episode in enumerate(dataset.episodes):
        overlay.add(episode.id, files.pictures(seed, len(episode), 84, 84))
    out = tmp_path / "out"
    code, told, err = say("data", "export", tiny_root, "--overlay", tmp_path / "views", "--out", out, "--json")
    assert code == 0
    assert "export" in err
    assert "observation.images.wrist_generated" in told["features"]
    assert say("data", "check", out, "--json", "--quiet")[0] == 0
    code, _, err = say("data", "export", tiny_root, "--out", out, "--quiet")
    assert code == 2
    assert "exists already" in err
    code, told, _ = say(
        "data", "view", tiny_root, "--overlay", tmp_path / "views", "--out", tmp_path / "look", "--json"
    )
    assert code == 0


def test_pack_and_read_again(say, tiny_root: Path, v21: Path, tmp_path: Path) -> None:
    code, told, _ = say("data", "pack", tiny_root, "--out", tmp_path / "packed", "--json")
    assert (code, told["splits"]["training"]["format"]) == (0, "CALVIN, packed")
    assert say("data", "pack", tiny_root, "--out", tmp_path / "packed", "--json", "--quiet")[0] == 0
    code, told, _ = say("data", "export", tmp_path / "packed", "--out", tmp_path / "lerobot", "--json", "--quiet")
    assert (code, told["frames"]) == (0, 26)
    code, _, err = say("data", "pack", v21, "--out", tmp_path / "other")
    assert code == 2
    assert "read as it is" in err
