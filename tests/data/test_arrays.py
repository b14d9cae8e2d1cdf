"""Frame and index files under bit flips and cuts: an array or one line, never a crash or a hang."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy_format

from bench.data.arrays import ArraySpec, list_npz, load_npy, load_npz
from bench.errors import UserError

SPECS = {"a": ArraySpec((7,), ("float64", "float32")), "image": ArraySpec((6, 5, 3), ("uint8",))}


def _frame() -> bytes:
    buffer = io.BytesIO()
    image = np.arange(90, dtype=np.uint8).reshape(6, 5, 3)
    np.savez_compressed(buffer, a=np.linspace(0, 1, 7), image=image, other=np.zeros(4))
    return buffer.getvalue()


def _index() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(10).reshape(5, 2))
    return buffer.getvalue()


FRAME, INDEX = _frame(), _index()


def damaged(data: st.DataObject, raw: bytes) -> bytes:
    spoiled = bytearray(raw)
    for _ in range(data.draw(st.integers(0, 5))):
        spoiled[data.draw(st.integers(0, len(spoiled) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    return bytes(spoiled[: data.draw(st.integers(0, len(spoiled)))] if data.draw(st.booleans()) else spoiled)


def outcome(read: Callable[[], Any]) -> tuple[Any, str]:
    """Return what was read and nothing, or nothing and the error's words."""
    try:
        return read(), ""
    except UserError as error:
        return None, str(error)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_frame_gives_arrays_or_one_line(tmp_path, data):
    path = tmp_path / "frame.npz"
    path.write_bytes(damaged(data, FRAME))
    arrays, words = outcome(lambda: load_npz(path, SPECS))
    if arrays is None:
        assert "frame.npz" in words
        assert words.isprintable()
        return
    assert arrays["a"].shape == (7,)
    assert np.isfinite(arrays["a"]).all()
    # Deflated data carries a checksum: what is read is what was written.
    np.testing.assert_array_equal(arrays["image"], np.arange(90, dtype=np.uint8).reshape(6, 5, 3))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_index_gives_an_array_or_one_line(tmp_path, data):
    path = tmp_path / "index.npy"
    path.write_bytes(damaged(data, INDEX))
    array, words = outcome(lambda: load_npy(path))
    if array is None:
        assert "index.npy" in words
        assert words.isprintable()


def _write_header(path: Path, shape: tuple[int, ...], descr: str, data: bytes) -> None:
    buffer = io.BytesIO()
    npy_format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    path.write_bytes(buffer.getvalue() + data)


@pytest.mark.parametrize("shape", [(10**15,), (10**9, 10**9), (-1,), (-2, -4), (0,), (3,)])
def test_a_header_that_promises_another_size_is_refused(tmp_path, shape):
    _write_header(tmp_path / "a.npy", shape, "<f8", b"\0" * 64)
    with pytest.raises(UserError, match=r"a\.npy"):
        load_npy(tmp_path / "a.npy")


def test_objects_are_not_read_as_numbers(tmp_path):
    np.save(tmp_path / "a.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="object array"):
        load_npy(tmp_path / "a.npy")


def test_a_member_that_lies_about_its_size_is_refused(tmp_path):
    """The directory says 200 bytes, the deflated data go on for 50 MB."""
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"\0" * (50 << 20))
    raw = path.read_bytes()
    path.write_bytes(raw.replace((50 << 20).to_bytes(4, "little"), (184).to_bytes(4, "little")))
    with pytest.raises(UserError, match=r"a\.npz"):
        load_npz(path, {"a": SPECS["a"]})


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_to_pack_are_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("a.npy", b"x")
    with pytest.raises(UserError, match="zip method"):
        load_npz(tmp_path / "a.npz", SPECS)


def test_fortran_order_and_float32_are_read(tmp_path):
    image = np.asfortranarray(np.arange(90, dtype=np.uint8).reshape(6, 5, 3))
    np.savez(tmp_path / "a.npz", a=np.arange(7, dtype=np.float32), image=image)
    arrays = load_npz(tmp_path / "a.npz", SPECS)
    np.testing.assert_array_equal(arrays["image"], image)
    assert arrays["a"].dtype == np.float32
    assert list_npz(tmp_path / "a.npz") == ("a", "image")


def test_a_folder_is_not_a_frame(tmp_path):
    with pytest.raises(UserError):
        load_npz(tmp_path, SPECS)
    with pytest.raises(UserError):
        list_npz(tmp_path)
    with pytest.raises(UserError):
        load_npy(tmp_path)
