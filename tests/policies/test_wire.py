"""Messages of strangers: what is read, what is refused, and that neither costs more than it may."""

from __future__ import annotations

import io
import pickle
import tracemalloc

import msgpack
import numpy as np
import pytest
from PIL import Image

from policies.wire import DTYPES, LIMITS, WireError, pack_openpi, pack_vla_eval, unpack

PACKERS = pytest.mark.parametrize("pack", [pack_openpi, pack_vla_eval])


def array_map(**changes):
    whole = {"__ndarray__": True, "data": bytes(12), "dtype": "|u1", "shape": [2, 2, 3]}
    return msgpack.packb({**whole, **changes})


@PACKERS
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_arrays_come_back_as_they_went(pack, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    back = unpack(pack({"a": array}))["a"]
    np.testing.assert_array_equal(back, array)
    assert back.dtype == array.dtype
    assert not back.flags.writeable


@PACKERS
def test_everything_else_in_a_message_comes_back_too(pack):
    message = {"text": "grasp", "seed": 2**64 - 1, "list": [1, 2.5, None, True], "map": {"a": {"b": b"\x00"}}}
    assert unpack(pack({**message, "number": np.float32(2.5)})) == {**message, "number": 2.5}


@PACKERS
@pytest.mark.parametrize("value", [np.array([object()]), np.array(["a"]), np.zeros(1, ">f4"), np.zeros(1, "c8"), {1}])
def test_what_has_no_place_in_a_message_is_not_sent(pack, value):
    with pytest.raises(WireError, match="no place"):
        pack({"a": value})


def test_numbers_too_large_for_msgpack_are_not_sent():
    with pytest.raises(WireError, match="cannot be sent"):
        pack_openpi({"seed": 2**64})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"dtype": "|O"}, "dtype"),
        ({"dtype": "O", "data": pickle.dumps([1])}, "dtype"),
        ({"dtype": ">f4"}, "dtype"),
        ({"dtype": "<M8[s]"}, "dtype"),
        ({"dtype": [["a", "|u1"]]}, "dtype"),
        ({"dtype": None}, "dtype"),
        ({"shape": [2, 2, 4]}, "needs 16 bytes, got 12"),
        ({"shape": [2**40, 2**40]}, "bytes, got 12"),
        ({"shape": [-1, 12]}, "sides"),
        ({"shape": [12.0]}, "sides"),
        ({"shape": [True, 12]}, "sides"),
        ({"shape": [1] * 5}, "dimensions"),
        ({"shape": "ab"}, "shape"),
        ({"data": "twelve bytes"}, "bytes"),
        ({"data": [0] * 12}, "bytes"),
    ],
)
def test_false_arrays_are_refused_by_name(changes, complaint):
    with pytest.raises(WireError, match=complaint):
        unpack(array_map(**changes))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 10,
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",
        b"\xdb\x7f\xff\xff\xffaaa",
        b"\xc7\x10\x05" + bytes(16),
        msgpack.packb({(1, 2): 3}),
        msgpack.packb({1: 2}),
        msgpack.packb(1) + b"\x01",
        msgpack.packb("x" * 20_000),
        b"\xa2\xff\xfe",
        "text",
        array_map()[:-3],
    ],
)
def test_garbage_is_a_wire_error(data):
    with pytest.raises(WireError):
        unpack(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x91" * 3_000_000,
        b"\x81\xa1a" * 500_000,
        b"\xdc\x10\x00" * 500_000,
        b"\xdc\x10\x00" + (b"\xdc\x10\x00" + b"\x80" * 4096) * 900,
        b"\xdc\x10\x00" + b"\x9f" + b"\x80" * 3_000_000,
    ],
    ids=["lists in lists", "maps in maps", "long lists in long lists", "many maps", "a list of maps"],
)
def test_a_small_message_cannot_ask_for_much_memory(data):
    tracemalloc.start()
    with pytest.raises(WireError):
        unpack(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


def test_a_message_past_the_limit_is_refused_unread():
    with pytest.raises(WireError, match="at most"):
        unpack(bytes(LIMITS.message_bytes + 1))


def picture(kind: str, **changes):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return pixels, {"__image__": True, "format": kind, "data": file.getvalue(), "shape": [20, 30, 3], **changes}


def test_vla_evals_pictures_are_read():
    pixels, sent = picture("png")
    np.testing.assert_array_equal(unpack(msgpack.packb(sent)), pixels)
    assert unpack(msgpack.packb(picture("jpeg")[1])).shape == (20, 30, 3)
    raw = {"__image__": True, "format": "raw", "data": pixels.tobytes(), "dtype": "|u1", "shape": [20, 30, 3]}
    np.testing.assert_array_equal(unpack(msgpack.packb(raw)), pixels)


def test_a_picture_that_is_a_bomb_is_not_decoded():
    file = io.BytesIO()
    Image.new("1", (6000, 6000)).save(file, "png")
    with pytest.raises(WireError, match="pixels"):
        unpack(msgpack.packb({"__image__": True, "format": "png", "data": file.getvalue()}))


def test_many_small_pictures_are_no_way_around_the_limit():
    file = io.BytesIO()
    Image.new("RGB", (1000, 1000)).save(file, "png")
    one = {"__image__": True, "format": "png", "data": file.getvalue()}
    assert len(unpack(msgpack.packb([one] * 2))) == 2
    with pytest.raises(WireError, match="pixels of all"):
        unpack(msgpack.packb([one] * 3))


@pytest.mark.parametrize(
    "changes", [{"format": "gif"}, {"format": ["png"]}, {"data": b"no"}, {"data": None}, {"format": "jpeg"}]
)
def test_broken_pictures_are_refused(changes):
    with pytest.raises(WireError, match="picture"):
        unpack(msgpack.packb(picture("png", **changes)[1]))


def test_a_picture_cut_short_is_refused():
    _, sent = picture("png")
    with pytest.raises(WireError, match="not a whole png"):
        unpack(msgpack.packb({**sent, "data": sent["data"][:200]}))
