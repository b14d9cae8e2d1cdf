"""Damaged and hostile data sets of every format end in one line, and in bounded time and memory."""

from __future__ import annotations

import io
import json
import shutil
import time
from pathlib import Path

import lerobot_files as files
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from droid_files import write_episode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.data.calvin.pack import pack_dataset
from bench.data.export import export_lerobot
from bench.data.lerobot import parquet
from bench.data.lerobot.parquet_footer import Chunk, check_pages, read_footer
from bench.data.opening import check_dataset, open_dataset
from bench.data.video import VideoFile, read
from bench.errors import UserError

SLOW = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.fixture(scope="module")
def folders(tiny_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("fuzz")
    files.write_v21(root / "v21", codec="h264")
    export_lerobot(open_dataset(root / "v21"), root / "v3")
    write_episode(root / "raw")
    shutil.copytree(tiny_root, root / "calvin")
    pack_dataset(tiny_root, root / "packed")
    return {name: root / name for name in ("v21", "v3", "raw", "calvin", "packed")}


def quietly(work) -> object:
    """Return what ``work`` returns, or None where it ends in a UserError of one line; all else comes out."""
    try:
        return work()
    except UserError as error:
        if "\n" in str(error):
            raise
        return None


def read_all(root: Path) -> None:
    """Open, read and check a data set."""
    dataset = quietly(lambda: open_dataset(root))
    for episode in dataset.episodes if dataset else ():
        keys = quietly(lambda: episode.keys)  # noqa: B023
        quietly(lambda: episode.load(keys or ("action",)))  # noqa: B023
    report = quietly(lambda: check_dataset(root))
    assert report is None or all("\n" not in defect.what for defect in report.defects)


def damaged(data: bytes, cut: float, flips: list[tuple[float, int]], tail: bool) -> bytes:
    """Return ``data`` cut short at a share of its length, bits flipped in the rest or near its end."""
    changed = bytearray(data[: max(1, round(len(data) * cut))])
    for place, value in flips:
        start = max(0, len(changed) - 600) if tail else 0
        changed[start + int(place * (len(changed) - start - 1))] ^= value
    return bytes(changed)


@pytest.mark.parametrize(
    ("folder", "pattern"),
    [
        ("v21", "*.parquet"),
        ("v21", "*.mp4"),
        ("v21", "*.json*"),
        ("v3", "*.parquet"),
        ("raw", "*.h5"),
        ("raw", "*.json"),
        ("calvin", "*.npz"),
        ("calvin", "*.npy"),
        ("calvin", "*.yaml"),
        ("packed", "*.npy"),
        ("packed", "*.json"),
    ],
)
@SLOW
@given(
    pick=st.integers(0, 99),
    cut=st.one_of(st.just(1.0), st.just(1.0), st.floats(0, 1)),
    flips=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=20),
    tail=st.booleans(),
)
def test_damaged_files(
    folders: dict[str, Path],
    folder: str,
    pattern: str,
    pick: int,
    cut: float,
    flips: list[tuple[float, int]],
    tail: bool,
) -> None:
    root = folders[folder]
    found = sorted(root.rglob(pattern))
    victim = found[pick % len(found)]
    whole = victim.read_bytes()
    try:
        victim.write_bytes(damaged(whole, cut, flips, tail))
        read_all(root)
    finally:
        victim.write_bytes(whole)


_WORDS = ["features", "fps", "codebase_version", "shape", "dtype", "data_path", "total_frames", "x"]
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_WORDS), inner, max_size=4),
    max_leaves=12,
)


@SLOW
@given(_JSON)
def test_any_json_as_info(folders: dict[str, Path], content: object) -> None:
    path = folders["v21"] / "meta/info.json"
    whole = path.read_bytes()
    try:
        entries = content if isinstance(content, dict) else {"x": content}
        path.write_text(json.dumps(json.loads(whole) | entries))
        read_all(folders["v21"])
        path.write_text(json.dumps(content))
        read_all(folders["v21"])
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 50_000, "1" * 100_000, "\ud800".encode("utf-8", "surrogatepass").decode("latin1")]
)
def test_hostile_json(folders: dict[str, Path], tmp_path: Path, text: str) -> None:
    root = Path(shutil.copytree(folders["v21"], tmp_path / "set"))
    for name in ("info.json", "episodes.jsonl", "tasks.jsonl"):
        whole = (root / "meta" / name).read_bytes()
        (root / "meta" / name).write_text(text)
        with pytest.raises(UserError):
            open_dataset(root)
        (root / "meta" / name).write_bytes(whole)


def test_a_table_that_unpacks_to_gigabytes_is_refused(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(shutil.copytree(folders["v21"], tmp_path / "set"))
    path = root / "data/chunk-000/episode_000000.parquet"
    cells = [np.zeros(8, np.float32)] * 6 + [np.zeros(15_000_000, np.float32)]
    table = pq.read_table(path)
    place = table.column_names.index("action")
    pq.write_table(table.set_column(place, "action", pa.array(cells)), path)
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(parquet, "MAX_BYTES", 50 << 20)
    start = time.process_time()
    with pytest.raises(UserError, match="expected columns of at most"):
        open_dataset(root).episodes[0].load(("action",))
    assert time.process_time() - start < 5


def test_pages_that_announce_more_than_the_footer_are_refused(folders: dict[str, Path]) -> None:
    path = folders["v21"] / "data/chunk-000/episode_000001.parquet"
    (chunk,) = read_footer(path).chunks[0]["action"]
    assert chunk.values == 12 * 8
    check_pages(path, chunk)
    with pytest.raises(UserError, match="refused"):
        check_pages(path, Chunk(chunk.values - 1, chunk.unpacked, chunk.start, chunk.packed))


def test_a_page_of_a_negative_number_of_values_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page"
    path.write_bytes(bytes.fromhex("1500 1500 1500 2c 1509 00 00"))  # type, sizes, a data page header of -5 values
    with pytest.raises(UserError, match="fewer than no values"):
        check_pages(path, Chunk(10, 10, 0, path.stat().st_size))


def test_footers_of_many_groups_are_read_as_arrow_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = 1000
    table = pa.table(
        {
            "a.b": pa.array(np.arange(rows)),
            "words": pa.array([None if i % 3 == 0 else "x" * (i % 50) for i in range(rows)]),
            "deep": pa.array([[{"p": i, "q": [1.0] * (i % 4)}] for i in range(rows)]),
        }
    )
    pq.write_table(table, path, row_group_size=64, data_page_version="2.0", compression="zstd")
    footer, arrow = read_footer(path), pq.ParquetFile(path).metadata
    assert footer.rows == tuple(arrow.row_group(group).num_rows for group in range(arrow.num_row_groups))
    for group, chunks in enumerate(footer.chunks):
        theirs = [arrow.row_group(group).column(i) for i in range(arrow.num_columns)]
        assert [chunk.values for part in chunks.values() for chunk in part] == [column.num_values for column in theirs]
        assert set(chunks) == {"a.b", "words", "deep"}
        for part in chunks.values():
            for chunk in part:
                check_pages(path, chunk)


def test_a_picture_larger_than_announced_is_not_unpacked(tmp_path: Path) -> None:
    from PIL import Image

    from bench.data.lerobot.meta import Feature
    from bench.data.lerobot.reader import _still

    buffer = io.BytesIO()
    Image.new("1", (9000, 9000)).save(buffer, "PNG")
    start = time.process_time()
    with pytest.raises(UserError):
        _still({"bytes": buffer.getvalue()}, tmp_path, Feature(dtype="image", shape=(36, 64, 3)), (36, 64))
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "content", [b"", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n", b"\0" * 5000]
)
def test_what_is_no_mp4_is_not_opened(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(UserError, match="no whole mp4"):
        VideoFile(tmp_path / "a.mp4")


def test_pictures_of_impossible_size_are_refused(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_SIDE", 32)
    with pytest.raises(UserError, match="1 to 32 pixels a side"):
        VideoFile(next(folders["v21"].rglob("*.mp4")))


def test_an_index_that_announces_millions_of_frames_costs_nothing(tiny_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(tiny_root, tmp_path / "set"))
    path = root / "training" / "ep_start_end_ids.npy"
    ranges = np.load(path)
    ranges[-1, 1] = 9_999_999
    np.save(path, ranges)
    start = time.process_time()
    with pytest.raises(UserError, match="expected a frame, got no such file"):
        open_dataset(root).episodes[-1].load(("rgb_static",))
    what = [defect.what for defect in check_dataset(root).defects]
    assert any("missing: frames 96 to 9999999" in words for words in what)
    assert time.process_time() - start < 5
