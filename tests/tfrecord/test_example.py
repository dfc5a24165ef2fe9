"""Examples: every kind of feature, and nothing but ValueError for what is none."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tfrecord import writing

from tools.tfrecord_import.example import parse_example


def test_every_kind_of_feature():
    floats = np.linspace(-1, 1, 1000, dtype=np.float32)
    ints = [-(2**63), -1, 0, 1, 300, 2**63 - 1]
    found = parse_example(
        writing.example({"z": [b"", b"\0\xff"], "name": "Ä", "floats": floats, "ints": ints})
    )
    assert list(found) == ["floats", "ints", "name", "z"]
    assert {name: feature.kind for name, feature in found.items()} == {
        "floats": "float", "ints": "int", "name": "bytes", "z": "bytes"
    }  # fmt: skip
    np.testing.assert_array_equal(found["floats"].values, floats)
    assert found["floats"].values.dtype == np.float32
    assert found["ints"].values.tolist() == ints
    assert found["z"].values == [b"", b"\0\xff"]
    assert found["name"].values == ["Ä".encode()]
    assert all(feature.steps is None for feature in found.values())


def test_sequences_are_their_steps_one_after_the_other():
    found = parse_example(
        writing.sequence_example(
            {"id": 7}, {"frames": [b"a", b"b", b"c"], "gaze": [[1.0, 2.0]] * 4}
        )
    )
    assert found["frames"].values == [b"a", b"b", b"c"]
    assert found["frames"].steps == 3
    assert found["gaze"].values.tolist() == [1, 2] * 4
    assert found["gaze"].steps == 4
    assert found["id"].values.tolist() == [7]


def test_a_feature_without_a_value_is_empty():
    entry = writing.tagged(1, b"empty") + writing.tagged(2, b"")
    found = parse_example(writing.tagged(1, writing.tagged(1, entry)))
    assert found["empty"].values == []


def test_numbers_that_are_not_packed_are_read_too():
    """Writers of proto2 put a tag before every value."""
    values = b"".join(writing.varint(1 << 3) + writing.varint(v) for v in (5, 6))
    entry = writing.tagged(1, b"n") + writing.tagged(2, writing.tagged(3, values))
    assert parse_example(writing.tagged(1, writing.tagged(1, entry)))["n"].values.tolist() == [5, 6]


@pytest.mark.parametrize("data", [b"hello", b"\x0a\xff", writing.example({"a": 1})[:-1]])
def test_other_bytes_are_no_example(data):
    with pytest.raises(ValueError, match="no Example"):
        parse_example(data)


@given(st.binary(max_size=60), st.integers(0, 200))
def test_damage_gives_features_or_a_valueerror(noise, at):
    data = writing.example({"name": ["a", "b"], "x": [1.0, 2.0], "n": [1, 2]})
    damaged = data[: at % len(data)] + noise + data[at % len(data) + len(noise) :]
    try:
        found = parse_example(damaged)
    except ValueError:
        return
    assert all(feature.kind in ("bytes", "float", "int") for feature in found.values())
