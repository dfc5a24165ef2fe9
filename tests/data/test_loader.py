"""The loader: one order for any number of processes, exact resuming, bad records counted."""

import json
import threading
import time

import numpy as np
import pytest

from memo_jax.data import loader as loader_module
from memo_jax.data.loader import Loader
from memo_jax.data.record import encode
from memo_jax.data.store import Store, write_shards
from memo_jax.data.windows import WindowConfig
from memo_jax.errors import UserError

WINDOW = WindowConfig(frames=4, past_frames=6, still_past=0.3, audio_edge=0.3)


def open_loader(folder, **options):
    config = options.pop("config", WINDOW)
    return Loader(Store(folder), config, **{"batch_size": 4, "seed": 7} | options)


def take(loader, count):
    return [next(loader) for _ in range(count)]


def records(batches):
    return np.concatenate([batch["record"] for batch in batches]).tolist()


def assert_equal(batches, others):
    for batch, other in zip(batches, others, strict=True):
        assert batch.keys() == other.keys()
        for name in batch:
            assert batch[name].dtype == other[name].dtype
            np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


@pytest.fixture(scope="module")
def whole(ten):
    """Three epochs and a bit of the ten clips, in batches of four."""
    loader = open_loader(ten)
    yield take(loader, 9)
    loader.close()


def test_an_epoch_has_every_record_once_and_the_next_another_order(whole):
    order = records(whole)
    epochs = [order[:10], order[10:20], order[20:30]]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_batch_is_stacked_samples_of_the_records_it_names(whole):
    shapes = {name: (array.shape, str(array.dtype)) for name, array in whole[0].items()}
    assert shapes == {
        "frames": ((4, 4, 16, 16, 3), "uint8"),
        "past": ((4, 6, 16, 16, 3), "uint8"),
        "reference": ((4, 16, 16, 3), "uint8"),
        "audio": ((4, 4, 5, 2, 3), "bfloat16"),
        "emotion": ((4,), "int32"),
        "face": ((4, 5), "float32"),
        "record": ((4,), "int64"),
    }
    for batch in whole:
        np.testing.assert_array_equal(batch["frames"][:, 0, 0, 0, 1], batch["record"])
        np.testing.assert_array_equal(batch["face"][:, 0], batch["record"])


def test_the_seed_alone_decides(ten, whole):
    same, other = open_loader(ten, threads=1, prefetch=1), open_loader(ten, seed=8)
    assert_equal(take(same, 9), whole)
    assert records(take(other, 9)) != records(whole)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_batch_row_for_row(processes, ten, whole):
    loaders = [open_loader(ten, process_index=i, process_count=processes) for i in range(processes)]
    shares = [take(loader, 9) for loader in loaders]
    assert_equal(
        [
            {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
            for parts in zip(*shares, strict=True)
        ],
        whole,
    )
    assert [loader.get_state()["position"] for loader in loaders] == [36] * processes


def test_two_processes_see_disjoint_records_of_an_epoch_and_all_together(ten):
    loaders = [open_loader(ten, batch_size=2, process_index=i, process_count=2) for i in (0, 1)]
    first, second = (records(take(loader, 5)) for loader in loaders)
    assert not set(first) & set(second)
    assert sorted(first + second) == list(range(10))


def test_resuming_at_any_batch_of_three_epochs_goes_on_exactly(ten, whole):
    stopped, resumed = open_loader(ten), open_loader(ten)
    for at in range(9):
        state = json.loads(json.dumps(stopped.get_state()))
        assert state["position"] == 4 * at
        resumed.set_state(state)
        assert_equal(take(resumed, min(3, 9 - at)), whole[at : at + 3])
        next(stopped)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (4, 2)])
def test_resuming_on_other_processes_and_another_batch_size_keeps_the_order(
    before, after, ten, whole
):
    loader = open_loader(ten, process_index=before - 1, process_count=before)
    take(loader, 3)
    shares = []
    for i in range(after):
        resumed = open_loader(ten, batch_size=6, process_index=i, process_count=after)
        resumed.set_state(loader.get_state())
        shares.append([batch["record"] for batch in take(resumed, 3)])
    assert np.concatenate(shares, 1).ravel().tolist() == records(whole)[12:30]


def test_worker_processes_give_the_same_batches_and_resume(ten, whole):
    loader, states = open_loader(ten, workers=2), {}
    try:
        for at in range(9):
            states[at] = loader.get_state()
            assert_equal(take(loader, 1), whole[at : at + 1])
        for at in (2, 5):  # within an epoch, and where the third one starts
            loader.set_state(states[at])
            assert_equal(take(loader, 9 - at), whole[at:])
    finally:
        loader.close()


def test_a_state_of_another_order_is_refused(ten, tmp_path, make_clip):
    write_shards(tmp_path / "set", [make_clip()])
    state = open_loader(ten).get_state()
    with pytest.raises(UserError, match="seed 7, and this is 8"):
        open_loader(ten, seed=8).set_state(state)
    with pytest.raises(UserError, match="state is of data"):
        open_loader(tmp_path / "set").set_state(state)


WRONG = {
    3: "no-emotion",
    8: "nan-latents",
    13: "short",
    17: "layout",
    21: "image",
    26: "schema",
    30: "truncated",
    35: "unreadable",
}


def mixed_set(folder, make_clip, damage):
    """Forty clips, of which those of WRONG cannot be used, most because of what befell them."""
    changed = {
        3: {"emotion": np.ones(40, np.int8)},
        13: {"n": 3},
        21: {"images": (b"no picture",) * 40},
    }
    clips = [make_clip(i, **changed.get(i, {})) for i in range(40)]
    write_shards(folder, clips, shard_size=16)
    deviation = clips[8].latents_std.tobytes()
    spoil = {
        3: lambda record: record.replace(b"\x01" * 40, b"\xff" * 40),
        8: lambda record: record.replace(deviation, deviation[:-2] + b"\x00\x7e"),
        17: lambda record: encode(make_clip(size=8)),
        26: lambda record: record.replace(b'\\"schema\\": 1', b'\\"schema\\": 2'),
        30: lambda record: record[:-1],
    }
    number = iter(range(40))
    damage(folder, lambda records: [spoil.get(next(number), bytes)(r) for r in records])
    shard = folder / "clips-00002-of-00003.array_record"
    data = shard.read_bytes()
    shard.write_bytes(data.replace(clips[35].images[20], clips[36].images[20]))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_records_are_left_out_counted_and_named(workers, tmp_path, make_clip, damage):
    mixed_set(tmp_path / "set", make_clip, damage)
    loader = open_loader(tmp_path / "set", bad_share=1.0, workers=workers)
    batches = take(loader, 20)  # two epochs of 40
    loader.close()
    assert not set(records(batches)) & set(WRONG)
    report = loader.report
    assert report.seen == 80 + report.bad
    assert set(report.reasons) == set(WRONG.values())
    assert all(count >= 2 for count in report.reasons.values())  # once in each epoch, at least
    assert len(report.names) == len(WRONG)
    for name, text in report.names.items():
        number = int(name.split()[1])
        assert text.startswith(WRONG[number] + ": ")
        assert name.endswith(f"-of-00003.array_record[{number % 16}])")
    for reason in WRONG.values():
        assert reason in str(report)

    # What stands in for them is chosen as exactly as the rest, and counted once.
    resumed = open_loader(tmp_path / "set", bad_share=1.0)
    take(resumed, 9)
    again = open_loader(tmp_path / "set", bad_share=1.0)
    again.set_state(json.loads(json.dumps(resumed.get_state())))
    assert_equal(take(again, 11), batches[9:])
    assert again.report == report


def test_more_than_one_in_a_hundred_bad_records_stop_it(tmp_path, make_clip, damage):
    mixed_set(tmp_path / "set", make_clip, damage)
    loader = open_loader(tmp_path / "set")
    with pytest.raises(UserError, match="of them: mend the data set") as caught:
        take(loader, 30)
    assert 100 <= loader.report.seen < 110  # judged from the hundredth record seen
    message = str(caught.value)
    assert "\n" not in message and message.startswith(f"{loader.report.bad} of ")
    assert all(reason in message for reason in loader.report.reasons)
    assert "clips-0000" in message


def test_fewer_do_not(tmp_path, make_clip):
    write_shards(tmp_path / "set", [make_clip(i, n=4 if i else 3) for i in range(200)])
    loader = open_loader(tmp_path / "set", batch_size=50)
    take(loader, 8)
    assert 2 <= loader.report.bad <= 3 and loader.report.seen == 400 + loader.report.bad


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_without_one_good_record_stops_at_once(workers, tmp_path, make_clip):
    write_shards(tmp_path / "set", [make_clip(i, n=3) for i in range(5)])
    loader = open_loader(tmp_path / "set", workers=workers)
    with pytest.raises(UserError, match=r"16 records in a row .* short; check the data set"):
        next(loader)
    loader.close()


def test_a_reference_of_mead_is_never_of_the_same_clip_or_emotion(tmp_path, make_clip):
    emotions = ("angry", "happy", "sad")
    people = [(p, e) for p in "AB" for e in emotions for _ in range(2)]
    write_shards(
        tmp_path / "set",
        [
            make_clip(i, 12, corpus="MEAD", identity=p, clip_emotion=e)
            for i, (p, e) in enumerate(people)
        ],
    )
    seen = set()
    config = WindowConfig(frames=1, past_frames=0)
    for batch in take(open_loader(tmp_path / "set", batch_size=12, config=config), 60):
        for record, reference in zip(batch["record"], batch["reference"][:, 0, 0, 1], strict=True):
            seen.add((int(record), int(reference)))
    pairs = [(people[a], people[b]) for a, b in seen]
    assert all(mine[0] == other[0] and mine[1] != other[1] for mine, other in pairs)
    assert len(seen) == 12 * 4  # each of the four clips there may be is drawn


def test_a_clip_of_mead_alone_is_left_out_or_counted(tmp_path, make_clip):
    clips = [
        make_clip(i, corpus="MEAD", identity="A", clip_emotion=e)
        for i, e in enumerate(("sad", "happy", ""))
    ]
    write_shards(tmp_path / "set", clips)
    loader = open_loader(tmp_path / "set", bad_share=1.0)
    assert 2 not in records(take(loader, 6))
    assert set(loader.report.reasons) == {"no-other-emotion"} and not loader.report.fallbacks
    config = WindowConfig(frames=4, past_frames=6, same_clip_fallback=True)
    loader = open_loader(tmp_path / "set", config=config)
    batches = take(loader, 6)
    assert loader.report.fallbacks == records(batches).count(2) > 0
    assert loader.report.bad == 0 and "same clip" in str(loader.report)


def test_a_damaged_other_clip_costs_nothing_while_there_is_another(tmp_path, make_clip, damage):
    clips = [
        make_clip(i, corpus="MEAD", identity="A", clip_emotion="sad" if i else "happy")
        for i in range(4)
    ]
    write_shards(tmp_path / "set", clips)
    damage(tmp_path / "set", lambda found: [r[:-1] if i == 2 else r for i, r in enumerate(found)])
    loader = open_loader(tmp_path / "set", bad_share=1.0)
    batches = take(loader, 20)
    references = {
        int(green)
        for batch in batches
        for record, green in zip(batch["record"], batch["reference"][:, 0, 0, 1], strict=True)
        if record == 0
    }
    assert references == {1, 3}
    assert set(loader.report.reasons) == {"truncated"}


def test_batches_are_made_while_the_main_thread_does_something_else(ten, monkeypatch):
    made, makers, may_make = [], set(), threading.Event()
    stack = loader_module._stack

    def slow(elements):
        assert may_make.wait(20)
        made.append(1)
        makers.add(threading.current_thread())
        return stack(elements)

    monkeypatch.setattr(loader_module, "_stack", slow)
    may_make.set()
    loader = open_loader(ten, threads=4, prefetch=4)
    next(loader)
    deadline = time.monotonic() + 60
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)  # training's step
    may_make.clear()
    try:
        next(loader)  # which was ready
    finally:
        may_make.set()
    assert len(made) >= 5 and threading.main_thread() not in makers


def test_latents_are_read_where_there_are_some(ten, tmp_path, make_clip):
    config = WindowConfig(frames=4, past_frames=6, form="latents")
    batch = next(open_loader(ten, config=config))
    assert batch["latents_mean"].shape == (4, 4, 2, 2, 4)
    assert batch["past_std"].shape == (4, 6, 2, 2, 4)
    write_shards(tmp_path / "set", [make_clip(latents_mean=None, latents_std=None)])
    with pytest.raises(UserError, match="no latents; read images"):
        open_loader(tmp_path / "set", config=config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 5, "process_count": 2}, "batch size 5 on 2 processes"),
        ({"process_index": 1}, "process 1 of 1"),
        ({"seed": -1}, "seed -1"),
        ({"threads": 0}, "0 threads"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(options, message, ten):
    with pytest.raises(UserError, match=message):
        open_loader(ten, **options)
