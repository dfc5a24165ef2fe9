"""The run's folder: what is done stays done, and killed runs leave nothing that the next one trips
over: it is killed here at every single rename, before it and after."""

import contextlib
import json
import os

import pytest
from prepare_folder import SETTINGS, VIDEOS, work

from memo_jax.data.record import decode
from memo_jax.data.store import Store
from memo_jax.errors import UserError
from memo_jax.prepare.folder import Folder, video_key
from memo_jax.prepare.listing import name_of
from memo_jax.prepare.review.filter import apply_review


class Killed(BaseException):
    """Ends a run at once, as SIGKILL does; nothing catches it."""


def content(path):
    store = Store(path)
    return [store[i] for i in range(len(store))], (path / "rejects.jsonl").read_text()


def test_a_run_writes_all_clips_once_and_every_reject(tmp_path):
    work(tmp_path / "set")
    records, rejects = content(tmp_path / "set")
    names = sorted(name_of(decode(record)) for record in records)
    assert names == sorted(f"{n}@{i}.000" for n, count in VIDEOS.items() for i in range(count))
    lines = [json.loads(line) for line in rejects.splitlines()]
    assert [line["video"] for line in lines] == sorted(VIDEOS)
    assert not list((tmp_path / "set/.prepare/parts").iterdir())


def test_a_second_run_writes_nothing(tmp_path):
    work(tmp_path / "set")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "set").rglob("clips-*")}
    work(tmp_path / "set")
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "set").rglob("clips-*")}


def test_more_videos_come_after_those_that_are_there(tmp_path):
    work(tmp_path / "set")
    first, _ = content(tmp_path / "set")
    work(tmp_path / "set", VIDEOS | {"f.mp4": 2})
    more, _ = content(tmp_path / "set")
    assert more[: len(first)] == first
    assert [name_of(decode(r)) for r in more[len(first) :]] == ["f.mp4@0.000", "f.mp4@1.000"]


def _killing(monkeypatch, at, after):
    """os.replace that ends the run at call `at`, before it or after it; counts its calls."""
    replace, calls = os.replace, []

    def killing(source, target):
        calls.append(target)
        if len(calls) - 1 == at and not after:
            raise Killed
        replace(source, target)
        if len(calls) - 1 == at:
            raise Killed

    monkeypatch.setattr(os, "replace", killing)
    return calls


def test_killed_at_any_rename_the_next_run_gives_the_same(tmp_path, monkeypatch):
    work(tmp_path / "whole")
    expected = content(tmp_path / "whole")
    with monkeypatch.context() as patch:
        calls = _killing(patch, None, False)
        work(tmp_path / "counted")
        renames = len(calls)
    assert renames > 15
    for at in range(renames):
        for after in (False, True):
            path = tmp_path / f"killed-{at}-{after}"
            with monkeypatch.context() as patch:
                _killing(patch, at, after)
                with pytest.raises(Killed):
                    work(path)
            # A real kill leaves what was being written.
            (path / ".prepare/parts/.x.array_record.77").write_bytes(b"half")
            (path / ".clips-000-00000.array_record.77").write_bytes(b"half")
            work(path)
            assert content(path) == expected, (at, after)
            assert not list(path.rglob("*.77"))


def test_other_settings_are_refused(tmp_path):
    work(tmp_path / "set")
    with pytest.raises(UserError, match=r"other settings: size 8 and not 16; give the same"):
        Folder(tmp_path / "set").prepare(SETTINGS | {"size": 16})


def test_a_setting_is_named_alone_and_a_new_one_was_its_default(tmp_path):
    work(tmp_path / "set")
    folder = Folder(tmp_path / "set")
    now = {"size": 8, "cuts": {"longest": 30.0, "kind": ""}, "new": 1}
    folder.prepare(now, {"new": 1, "cuts": {"kind": "", "longest": 9.0}})
    with pytest.raises(UserError, match=r"cuts.kind None and not ''; new None and not 1;"):
        folder.prepare(now)
    with pytest.raises(UserError, match=r"settings: cuts.longest 30.0 and not 9.0; give"):
        folder.prepare(SETTINGS | {"cuts": {"longest": 9.0}})


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="did not make; give a new folder"):
        Folder(tmp_path).prepare(SETTINGS)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_two_runs_do_not_work_in_one_folder(tmp_path):
    folder = work(tmp_path / "set")
    with (
        folder.alone(),
        pytest.raises(UserError, match="another run is at work"),
        Folder(tmp_path / "set").alone(),
    ):
        pass


def test_a_video_that_has_changed_is_told(tmp_path):
    folder = work(tmp_path / "set")
    with pytest.raises(UserError, match=r"1 videos have changed.*'c.mp4'"):
        folder.forget({"c.mp4": "another", "b.mp4": "another too"})
    # Of b there were no clips: it is simply done again.
    assert not folder.is_done(video_key("b.mp4", tmp_path / "none"))


def test_no_clip_at_all_is_said(tmp_path):
    with pytest.raises(
        UserError, match=r"no clip is left to use \(.* 1; such as: .*rejects.jsonl says more"
    ):
        work(tmp_path / "set", {"b.mp4": 0})
    assert (tmp_path / "set/rejects.jsonl").read_text().count("\n") == 1


def test_a_key_is_of_name_and_content(tmp_path):
    path = tmp_path / "v"
    path.write_bytes(b"x" * 3_000_000)
    keys = {video_key("v", path), video_key("w", path)}
    path.write_bytes(b"x" * 2_999_999 + b"y")
    keys.add(video_key("v", path))
    path.write_bytes(b"y" + b"x" * 2_999_999)
    keys.add(video_key("v", path))
    assert len(keys) == 4 and video_key("v", path) in keys


def test_review_drops_clips_and_says_so(tmp_path):
    folder = work(tmp_path / "set")
    before, _ = content(tmp_path / "set")
    gone = ["c.mp4@1.000", "c.mp4@4.000", "d.mp4@0.000"]
    csv = tmp_path / "review.csv"
    csv.write_text("clip,decision\n" + "".join(f"{name},drop\n" for name in gone) + "x@0,keep\n")
    assert apply_review(folder, csv) == 3
    folder.write_rejects([])
    after, rejects = content(tmp_path / "set")
    assert after == [r for r in before if name_of(decode(r)) not in gone]
    assert rejects.count('"review"') == 3
    # The next run leaves it so, and so does the same review once more.
    assert apply_review(work(tmp_path / "set"), csv) == 0
    assert content(tmp_path / "set") == (after, rejects)


def test_review_killed_at_any_rename_is_done_by_the_next(tmp_path, monkeypatch):
    csv = tmp_path / "review.csv"
    csv.write_text("clip,decision\nc.mp4@1.000,drop\na.mp4@0.000,drop\n")
    apply_review(work(tmp_path / "whole"), csv)
    expected, _ = content(tmp_path / "whole")
    for at in range(7):
        path = tmp_path / f"killed-{at}"
        folder = work(path)
        with monkeypatch.context() as patch:
            _killing(patch, at, True)
            with contextlib.suppress(Killed):
                apply_review(folder, csv)
        again = work(path)
        with again.alone():
            apply_review(again, csv)
        assert content(path)[0] == expected, at


@pytest.mark.parametrize("text", ["clip\nx\n", "clip,decision\nx,maybe\n"])
def test_what_is_no_review_is_refused(tmp_path, text):
    folder = work(tmp_path / "set")
    (tmp_path / "review.csv").write_text(text)
    with pytest.raises(UserError, match="expected the columns clip,decision"):
        apply_review(folder, tmp_path / "review.csv")


def test_a_review_of_everything_is_refused(tmp_path):
    folder = work(tmp_path / "set", {"d.mp4": 1})
    (tmp_path / "review.csv").write_text("clip,decision\nd.mp4@0.000,drop\n")
    with pytest.raises(UserError, match="drops every clip"):
        apply_review(folder, tmp_path / "review.csv")
    assert len(Store(tmp_path / "set")) == 1
