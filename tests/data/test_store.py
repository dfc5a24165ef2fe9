"""Data sets: written whole or not at all, read again, joined, and what may be wrong."""

import json
import pickle

import numpy as np
import pytest

from memo_jax.data.clip import BadRecord
from memo_jax.data.record import decode, encode
from memo_jax.data.store import Store, write_index, write_shard, write_shards
from memo_jax.errors import UserError


def numbers(store):
    """The clips' numbers, as their faces tell."""
    return [int(decode(store[i]).face[0]) for i in range(len(store))]


def mead(make_clip, number, identity, emotion, corpus="MEAD"):
    return make_clip(number, corpus=corpus, identity=identity, clip_emotion=emotion)


def test_records_come_back_in_the_order_written(ten):
    store = Store(ten)
    assert numbers(store) == list(range(10))
    assert sorted(p.name for p in ten.iterdir()) == [
        *(f"clips-{i:05d}-of-00003.array_record" for i in range(3)),
        "dataset.json",
    ]
    assert store.hours == pytest.approx(sum(range(20, 30)) / 25 / 3600)
    assert store.where(5) == f"{ten}/clips-00001-of-00003.array_record[1]"
    with pytest.raises(IndexError):
        store[10]


def test_shards_written_apart_make_the_same_data_set(ten, tmp_path, make_clip):
    records = [encode(make_clip(i, 20 + i)) for i in range(10)]
    names = [f"clips-{i:05d}-of-00003.array_record" for i in range(3)]
    shards = [write_shard(tmp_path / n, records[4 * i : 4 * i + 4]) for i, n in enumerate(names)]
    write_index(tmp_path, shards)
    for file in ten.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
    assert len(list(tmp_path.iterdir())) == 4


def test_a_writer_that_fails_leaves_nothing(tmp_path, make_clip):
    def clips():
        yield make_clip(0)
        raise RuntimeError("the disk caught fire")

    with pytest.raises(RuntimeError, match="fire"):
        write_shards(tmp_path / "set", clips(), shard_size=1)
    with pytest.raises(BadRecord, match="no-emotion"):
        write_shards(tmp_path / "set", [make_clip(emotion=np.full(40, -1, np.int8))])
    with pytest.raises(BadRecord, match="truncated"):
        write_shard(tmp_path / "one", [encode(make_clip()), encode(make_clip())[:-1]])
    with pytest.raises(UserError, match="no clips"):
        write_shards(tmp_path / "set", [])
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_not_written_over(ten, make_clip):
    before = {p.name: p.read_bytes() for p in ten.iterdir()}
    with pytest.raises(UserError, match="exists already"):
        write_shards(ten, [make_clip()])
    assert {p.name: p.read_bytes() for p in ten.iterdir()} == before


def test_clips_of_another_layout_are_refused(ten, tmp_path, make_clip):
    with pytest.raises(UserError, match=r"record 1 .* size 8 and not 16"):
        write_shards(tmp_path / "a", [make_clip(), make_clip(size=8)])
    write_shards(tmp_path / "b", [make_clip(face=np.zeros(7, np.float32))])
    with pytest.raises(UserError, match="b has face 7 and not 5"):
        Store([ten, tmp_path / "b"])


def test_sets_that_do_not_tell_their_audio_features_join_those_that_do(ten, tmp_path, make_clip):
    for name in ("log-mel", "wav2vec2"):
        write_shards(tmp_path / name, [make_clip(audio_features=name), make_clip()])
    for order in ([ten, tmp_path / "log-mel"], [tmp_path / "log-mel", ten]):
        store = Store(order)
        assert len(store) == 12 and store.layout.audio_features == "log-mel"
    with pytest.raises(UserError, match="wav2vec2 has audio_features wav2vec2 and not log-mel"):
        Store([ten, tmp_path / "log-mel", tmp_path / "wav2vec2"])


def test_several_folders_read_as_one(ten, tmp_path, make_clip):
    people = [("A", "happy"), ("A", "sad"), ("B", "happy"), ("A", "sad"), ("A", "")]
    write_shards(tmp_path / "m", [mead(make_clip, 50 + i, *p) for i, p in enumerate(people)], 2)
    write_shards(tmp_path / "r", [mead(make_clip, 60, "A", "sad", "RAVDESS")])
    store = Store([ten, tmp_path / "m", str(tmp_path / "r")])
    assert numbers(store) == [*range(10), *range(50, 55), 60]
    assert store.where(15).endswith("r/clips-00000-of-00001.array_record[0]")
    assert store.others("MEAD", "A", "happy").tolist() == [11, 13]
    assert store.others("MEAD", "A", "angry").tolist() == [10, 11, 13]
    for nobody in (("MEAD", "B", "happy"), ("MEAD", "A", ""), ("RAVDESS", "A", "sad")):
        assert store.others(*nobody).tolist() == []
    assert store.fingerprint != Store(ten).fingerprint


def test_a_store_travels_to_another_process_with_its_files_closed(ten):
    store = Store(ten)
    assert store[3] == pickle.loads(pickle.dumps(store))[3]


def test_one_damaged_byte_costs_one_record(ten, tmp_path, make_clip):
    write_shards(tmp_path / "set", [make_clip(i) for i in range(6)])
    (shard,) = (tmp_path / "set").glob("clips*")
    data = bytearray(shard.read_bytes())
    at = bytes(data).index(bytes(decode(Store(tmp_path / "set")[3]).images[20]))
    data[at] ^= 1
    shard.write_bytes(data)
    store, unreadable = Store(tmp_path / "set"), []
    for i in range(6):
        try:
            assert decode(store[i]).face[0] == i
        except BadRecord as error:
            unreadable.append((i, error.code))
    assert unreadable == [(3, "unreadable")]


def absent(folder):
    next(folder.glob("*00001-of*")).unlink()


def cut_short(folder):
    file = next(folder.glob("*00001-of*"))
    file.write_bytes(file.read_bytes()[:-1])


def edited(**changed):
    def edit(folder):
        index = json.loads((folder / "dataset.json").read_text())
        (folder / "dataset.json").write_text(json.dumps(index | changed))

    return edit


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (absent, "clips-00001-of-00002.array_record cannot be read"),
        (cut_short, "clips-00001-of-00002.array_record has .* bytes, expected"),
        (lambda folder: (folder / "dataset.json").unlink(), "is no data set"),
        (lambda folder: (folder / "dataset.json").write_text('{"schema": 1'), "is damaged"),
        (edited(schema=2), "schema 2, expected 1"),
        (edited(layout={"size": 1}), "is damaged"),
        (edited(shards=[{"file": "a"}]), "is damaged"),
    ],
)
def test_a_data_set_that_is_not_whole_is_refused_in_one_line(harm, message, tmp_path, make_clip):
    write_shards(tmp_path / "set", [make_clip(i) for i in range(4)], 2)
    harm(tmp_path / "set")
    with pytest.raises(UserError, match=message) as caught:
        Store(tmp_path / "set")
    assert "\n" not in str(caught.value)


def test_a_bucket_is_told_from_a_folder():
    with pytest.raises(UserError, match="mount the bucket"):
        Store("gs://bucket/set")
