"""Object files: data comes through, anything else is refused before it can act."""

from __future__ import annotations

import io
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy_format

from bench.data.calvin.index import save_object_npy
from bench.data.calvin.unpickle import load_object_npy, loads
from bench.errors import UserError

DATA = {
    "language": {"ann": ["a", "ü"], "emb": np.arange(6, dtype=np.float32).reshape(2, 1, 3)},
    "info": {"episodes": [], "indx": [(np.int64(3), np.int64(9)), (4, -5)]},
    "flags": (True, None, 1.5, np.float32(2.5), 1 << 70),
    "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
    "big": np.arange(3, dtype=">i4"),
    "words": np.array(["red", "blue"]),
    "mixed": np.array([1, "x", np.zeros(2)], dtype=object),
    "empty": np.zeros((0, 4)),
}


def same(a, b) -> bool:
    if isinstance(a, np.ndarray) and a.dtype.hasobject:
        return a.shape == b.shape and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("core", [b"numpy.core.", b"numpy._core."])
def test_data_comes_through(protocol, core):
    raw = pickle.dumps(DATA, protocol=protocol)
    if protocol == 3:
        raw = raw.replace(b"cnumpy._core.", b"c" + core).replace(b"cnumpy.core.", b"c" + core)
    assert same(loads(raw), DATA)


def test_shared_parts_stay_shared():
    array = np.arange(3)
    back = loads(pickle.dumps([array, array], protocol=4))
    assert back[0] is back[1]


def test_a_file_comes_through(tmp_path):
    save_object_npy(tmp_path / "a.npy", DATA)
    assert same(load_object_npy(tmp_path / "a.npy"), DATA)
    np.save(tmp_path / "b.npy", DATA, allow_pickle=True)
    assert same(load_object_npy(tmp_path / "b.npy"), DATA)
    np.save(tmp_path / "c.npy", np.array([{"a": 1}, {"b": 2}], dtype=object), allow_pickle=True)
    assert load_object_npy(tmp_path / "c.npy").tolist() == [{"a": 1}, {"b": 2}]


class _Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class _State:
    def __init__(self):
        self.attribute = 1


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("hostile", "name"),
    [
        (lambda path: _Call(os.system, f"touch {path}"), "system"),
        (lambda path: _Call(exec, f"open({path!r}, 'w')"), "exec"),
        (lambda path: _Call(getattr, 1, "real"), "getattr"),
        (lambda path: {"deep": [_Call(Path, path)]}, "Path"),
        (lambda path: _State(), "_State"),
        (lambda path: np.array([_Call(os.system, f"touch {path}")], dtype=object), "system"),
        (lambda path: {1, 2}, ""),
        (lambda path: np.zeros(2, [("a", "f4")]), ""),
        (lambda path: np.datetime64("2020-01-01"), ""),
    ],
)
def test_foreign_code_is_refused_and_never_run(tmp_path, protocol, hostile, name):
    proof = tmp_path / "ran"
    raw = pickle.dumps({"language": hostile(str(proof))}, protocol=protocol)
    with pytest.raises(UserError, match=r"refused to load scene\.npy") as caught:
        loads(raw, "scene.npy")
    assert not proof.exists()
    if name and protocol > 2:
        assert "foreign code (" in str(caught.value)
        assert name in str(caught.value)


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


RECONSTRUCT = _global("numpy.core.multiarray", "_reconstruct")
NDARRAY, DTYPE = _global("numpy", "ndarray"), _global("numpy", "dtype")


@pytest.mark.parametrize(
    "raw",
    [
        RECONSTRUCT + NDARRAY + b"(I1000000000000\nI1000000000000\ntC\x01b\x87R.",
        RECONSTRUCT + NDARRAY + b"K\x0a\x85C\x01b\x87R.",
        RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R.",
        RECONSTRUCT + DTYPE + b"K\x00\x85C\x01b\x87R.",
        NDARRAY + b"K\x09\x85R.",
        NDARRAY + b"}X\x01\x00\x00\x00aK\x01sb.",
        DTYPE + b"X\x0a\x00\x00\x00(99999)f8,\x85R.",
        DTYPE + b"X\x02\x00\x00\x00M8\x85R.",
        DTYPE + b"X\x02\x00\x00\x00f4\x85R.",
        b"]r\xff\xff\xff\x7f.",
        b"B\xff\xff\xff\x7fabc.",
        b"\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
        b"]q\x00h\x00a.",
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b"(" * 100_000 + b"t" * 100_000 + b".",
        b"\x80\x05.",
        b"",
        b".",
        b"h\x07.",
        b"\x8c\x02os\x8c\x06system\x93.",
        b"ios\nsystem\n.",
        b"\x82\x01.",
        b"Pabc\n.",
        b"\x8c\x03o\ns\x8c\x07s\x1b[2Jem\x93.",
    ],
    ids=range(24),
)
def test_malicious_programs_end_in_one_line(raw):
    with pytest.raises(UserError) as caught:
        loads(raw)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_a_tree_that_doubles_at_every_level_is_walked_once():
    """A pickle of 60 levels that would unfold to 2**60 leaves."""
    value: list = ["x"]
    for _ in range(60):
        value = [value, value]
    back = loads(pickle.dumps(value, protocol=4))
    for _ in range(60):
        back = back[0]
    assert back == ["x"]


def test_numbers_are_not_code(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(UserError, match="expected an object array"):
        load_object_npy(tmp_path / "a.npy")
    with pytest.raises(UserError, match="No such file"):
        load_object_npy(tmp_path / "b.npy")


def test_a_header_that_lies_is_refused(tmp_path):
    for shape in ((10**12,), (3,), (-1,)):
        buffer = io.BytesIO()
        npy_format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": shape})
        (tmp_path / "a.npy").write_bytes(buffer.getvalue() + pickle.dumps(np.array([1, 2], dtype=object), protocol=3))
        with pytest.raises(UserError):
            load_object_npy(tmp_path / "a.npy")


RAW = pickle.dumps(DATA, protocol=4)


def refusal(raw: bytes) -> str:
    """Return the error's words, or nothing where the data came through."""
    try:
        loads(raw)
    except UserError as error:
        return str(error)
    return ""


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_pickles_give_data_or_one_line(data):
    raw = bytearray(RAW)
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    assert refusal(bytes(raw)).isprintable()


OPCODES = [bytes([code]) for code in b"()]}tabRsu0.\x85\x86\x87\x94h\x00K\x01"]
PIECES = [*OPCODES, RECONSTRUCT, NDARRAY, DTYPE, b"X\x02\x00\x00\x00f4", b"C\x01b"]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_random_programs_give_data_or_one_line(parts):
    assert refusal(b"".join(parts) + b".").isprintable()
