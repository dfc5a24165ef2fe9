"""Framing: three kinds of files, every checksum, and what damage costs."""

import gzip
import io
import zlib

import pytest
from tfrecord import writing

from tools.tfrecord_import.framing import NoTFRecord, masked_crc, records

ITEMS = [bytes([i]) * (50 + 10 * i) for i in range(20)]


def read(data, skip=0):
    return list(records(io.BytesIO(data), len(data), skip))


def whole(found):
    return [record.data for record in found if not record.code]


def plain():
    return b"".join(writing.framed(item) for item in ITEMS)


PACKED = {"plain": bytes, "gzip": gzip.compress, "zlib": zlib.compress}


@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
def test_every_kind_of_file_is_read(pack):
    found = read(pack(plain()))
    assert whole(found) == ITEMS
    assert [record.number for record in found] == list(range(20))


def test_the_checksum_is_the_published_one():
    """CRC32C of "123456789" is e3069283 (RFC 3720's polynomial), masked as TFRecord does."""
    assert masked_crc(b"123456789") == ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32


@pytest.mark.parametrize("pack", PACKED.values(), ids=PACKED)
def test_a_skip_goes_on_where_it_says(pack):
    found = read(pack(plain()), skip=13)
    assert whole(found) == ITEMS[13:]
    assert found[0].number == 13


def test_compressed_streams_may_follow_each_other():
    parts = [b"".join(map(writing.framed, half)) for half in (ITEMS[:7], ITEMS[7:])]
    assert whole(read(b"".join(map(gzip.compress, parts)))) == ITEMS


def test_an_empty_file_has_no_records():
    assert read(b"") == []


def test_positions_lead_to_the_files_end():
    data = plain()
    found = read(data)
    assert [record.position for record in found][-1] == len(data)
    assert found[0].position == 50 + 16


def test_a_damaged_byte_costs_its_record_alone():
    data = bytearray(plain())
    start = sum(16 + len(item) for item in ITEMS[:3])
    data[start + 12 + 5] ^= 1
    found = read(bytes(data))
    assert whole(found) == ITEMS[:3] + ITEMS[4:]
    assert [(r.number, r.code, r.lost) for r in found if r.code] == [(3, "checksum", 1)]


def test_a_damaged_length_costs_the_rest_of_the_file_and_says_about_how_much():
    items = [bytes(100)] * 20
    data = bytearray(b"".join(map(writing.framed, items)))
    data[5 * 116] ^= 1
    found = read(bytes(data))
    assert len(whole(found)) == 5
    assert [(r.number, r.code, r.lost) for r in found if r.code] == [(5, "checksum", 15)]


def test_a_file_cut_anywhere_gives_all_whole_records_and_says_so():
    data = plain()
    last = len(data) - 16 - len(ITEMS[-1])
    for end in range(last + 1, len(data)):
        found = read(data[:end])
        assert whole(found) == ITEMS[:-1]
        assert [(r.number, r.code, r.lost) for r in found if r.code] == [(19, "truncated", 1)]
    assert whole(read(data[:last])) == ITEMS[:-1]


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_a_compressed_file_cut_anywhere_is_never_taken_for_whole(pack):
    data = pack(plain())
    for end in range(2, len(data), 3):
        found = read(data[:end])
        assert whole(found) == ITEMS[: len(found) - 1]
        assert found[-1].code == "truncated"


def test_damage_in_a_compressed_file_is_seen():
    packed = gzip.compress(plain())
    for at in range(len(packed) // 2, len(packed)):
        found = read(packed[:at] + bytes([packed[at] ^ 16]) + packed[at + 1 :])
        good = whole(found)
        assert good == [item for item in ITEMS if item in good]
        assert any(record.code for record in found)
    assert good == ITEMS  # the last byte is of the stream's own length


@pytest.mark.parametrize("data", [b"hello, this is text", b"\x00" * 40, b"RIFF", b"\xff\xd8\xff"])
def test_other_files_are_none(data):
    with pytest.raises(NoTFRecord):
        read(data)
