"""The page for raters: pairs, votes, who is on which side, and Wilson's interval."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from signalled import heeds_ctrl_c

from memo_jax.errors import UserError
from memo_jax.metrics.preference.__main__ import main
from memo_jax.metrics.preference.server import server
from memo_jax.metrics.preference.study import Pair, Study, pairs_of
from memo_jax.metrics.preference.votes import QUESTIONS, tally, to_markdown, wilson

RATERS = ("ann", "bob", "cy", "di")


@pytest.fixture
def study(tmp_path):
    for folder, names in {"a": ("mary", "otto", "x"), "b": ("mary", "otto", "y")}.items():
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / f"{name}.mp4").write_bytes(f"{folder} {name}".encode() * 50)
    pairs = pairs_of(tmp_path / "a", tmp_path / "b")
    return Study(pairs, tmp_path / "votes.csv", ("a", "b"), seed=1)


def many(tmp_path, seed=0):
    """A study of forty pairs that are nowhere."""
    pairs = [Pair(f"pair {j}", tmp_path / "a", tmp_path / "b") for j in range(40)]
    return Study(pairs, tmp_path / f"votes {seed}.csv", ("a", "b"), seed)


@pytest.fixture
def address(study):
    with server(study) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as reply:
        return reply.status, reply.headers, reply.read()


def post(url, content, raw=None):
    body = json.dumps(content).encode() if raw is None else raw
    with urllib.request.urlopen(urllib.request.Request(url, data=body)) as reply:
        return reply.read()


def refused(call, *arguments, **headers):
    with pytest.raises(urllib.error.HTTPError) as error:
        call(*arguments, **headers)
    return error.value.code, error.value.read().decode()


def answers(**changes):
    return dict.fromkeys(QUESTIONS, "left") | changes


def test_pairs_are_of_one_name(study, tmp_path):
    assert [pair.name for pair in study.pairs] == ["mary", "otto"]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "z.mp4").write_bytes(b"z")
    with pytest.raises(UserError, match="expected pairs of one name"):
        pairs_of(tmp_path / "a", tmp_path / "c")


# n, successes, lower and upper limits of 95 %, from the closed form by hand and Newcombe's 1998
# table of examples (81/263, 15/148, 0/20, 1/29).
@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(trials - successes, trials)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilsons_interval_at_the_ends():
    assert wilson(0, 0) == (0, 1)
    assert wilson(3, 3)[1] == 1
    narrow, wide = wilson(4, 9, 0.5), wilson(4, 9, 0.99)
    assert wide[0] < narrow[0] < 4 / 9 < narrow[1] < wide[1]
    with pytest.raises(ValueError, match="5 of 4"):
        wilson(5, 4)


def test_sides_are_drawn_and_stay(tmp_path):
    one, again, other = many(tmp_path), many(tmp_path), many(tmp_path, 7)
    who = [f"rater {i}" for i in range(40)]
    drawn = [
        [each.a_is_left(rater, pair.name) for rater in who for pair in each.pairs]
        for each in (one, again, other)
    ]
    assert 0.45 < sum(drawn[0]) / len(drawn[0]) < 0.55
    assert drawn[0] == drawn[1]
    assert 0.4 < sum(x == y for x, y in zip(drawn[0], drawn[2], strict=True)) / 1600 < 0.6


def test_everybody_has_an_order_of_their_own(tmp_path):
    one, again, other = many(tmp_path), many(tmp_path), many(tmp_path, 7)
    order = one.left_to_do("ann")
    assert sorted(order) == list(range(40)) != order
    assert again.left_to_do("ann") == order
    assert order not in (one.left_to_do("bob"), other.left_to_do("ann"))


def test_a_rater_goes_on_where_they_stopped(study, address):
    """On the same page and with a server started anew."""

    def left(address):
        return json.loads(get(f"{address}/pairs?rater=ann")[2])

    first, second = left(address)
    study.vote("ann", first, answers())
    assert left(address) == [second]
    again = Study(study.pairs, study.votes, study.names, study.seed)
    assert again.left_to_do("ann") == [second] and len(again.left_to_do("bob")) == 2
    again.vote("ann", second, answers())
    assert again.left_to_do("ann") == []
    assert refused(get, f"{address}/pairs?rater=%3Dann")[0] == 400


def test_votes_mean_who_was_on_that_side(study, address):
    """Every question, by raters for whom A is left and for whom it is right."""
    for rater in RATERS:
        content = {"key": study.key, "rater": rater, "pair": 0, "answers": answers(lips="same")}
        assert post(f"{address}/vote", content) == b"{}"
    left = sum(study.a_is_left(rater, "mary") for rater in RATERS)
    assert 0 < left < 4
    shares = tally(study.votes)
    assert (shares["motion"].a, shares["motion"].b) == (left, 4 - left)
    assert shares["motion"].share == left / 4
    assert (shares["lips"].a, shares["lips"].b, shares["lips"].same) == (0, 0, 4)
    assert (shares["lips"].low, shares["lips"].high) == (0, 1)
    with study.votes.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 and {row["pair"] for row in rows} == {"mary"}
    assert {(row["a"], row["b"]) for row in rows} == {("a", "b")}


def test_a_rater_may_change_their_mind(study):
    study.vote("ann", 1, answers())
    study.vote("ann", 1, answers(overall="right"))
    left = study.a_is_left("ann", "otto")
    shares = tally(study.votes)
    assert (shares["overall"].a, shares["overall"].b) == ((0, 1) if left else (1, 0))
    assert (shares["motion"].a, shares["motion"].b) == ((1, 0) if left else (0, 1))


def test_votes_go_on_in_a_file_that_is_there(study, tmp_path):
    study.vote("ann", 0, answers())
    again = Study(study.pairs, study.votes, study.names)
    again.vote("bob", 0, answers())
    assert sum(sum((one.a, one.b)) for one in tally(study.votes).values()) == 10
    other = tmp_path / "other.csv"
    other.write_text("x,y\n1,2\n")
    with pytest.raises(UserError, match="have not the columns"):
        Study(study.pairs, other, study.names)


def test_votes_of_other_folders_are_not_gone_on_with(study):
    """The two in the other order above all: every vote would count for the wrong one."""
    study.vote("ann", 0, answers())
    with pytest.raises(UserError, match="are on a as A and b as B"):
        Study(study.pairs, study.votes, ("b", "a"))
    mixed = study.votes.read_bytes()
    study.votes.write_bytes(mixed + mixed.splitlines(True)[-1].replace(b",a,b", b",b,a"))
    with pytest.raises(UserError, match="2 pairs of folders"):
        to_markdown(study.votes)


@pytest.mark.parametrize("lost", [1, 2, 3, 4, 9, 60, 130])
def test_a_row_that_a_stopped_machine_left(study, lost):
    """The pair is asked again, and its votes count once."""
    study.vote("ann", 0, answers())
    study.vote("ann", 1, answers())
    study.votes.write_bytes(study.votes.read_bytes()[:-lost])
    again = Study(study.pairs, study.votes, study.names, study.seed)
    assert again.left_to_do("ann") == [1]
    again.vote("ann", 1, answers())
    assert [one.a + one.b for one in tally(study.votes).values()] == [2] * 5


def test_a_vote_that_cannot_be_written_leaves_nothing(study, address, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    before = study.votes.read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    content = {"key": study.key, "rater": "ann", "pair": 0, "answers": answers()}
    code, text = refused(post, f"{address}/vote", content)
    assert code == 400 and "No space left" in text
    assert study.votes.read_bytes() == before and len(study.left_to_do("ann")) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rater": ""}, "up to 40"),
        ({"rater": "=HYPERLINK()"}, "up to 40"),
        ({"rater": 3}, "up to 40"),
        ({"pair": 2}, "no pair 2"),
        ({"pair": -1}, "no pair -1"),
        ({"pair": "0"}, "no pair '0'"),
        ({"answers": {}}, "left, right or same"),
        ({"answers": answers(lips="a")}, "left, right or same"),
        ({"answers": answers(more="left")}, "left, right or same"),
        ({"key": "x"}, "open the page anew"),
    ],
)
def test_what_is_no_vote(study, address, change, told):
    content = {"key": study.key, "rater": "ann", "pair": 0, "answers": answers()} | change
    code, text = refused(post, f"{address}/vote", content)
    assert code in (400, 403) and told in text
    assert len(study.votes.read_text().splitlines()) == 1


def test_what_is_no_request(study, address):
    assert refused(post, f"{address}/vote", None, raw=b"not json")[0] == 400
    assert refused(post, f"{address}/vote", None, raw=b"[1]")[0] == 403
    assert refused(post, f"{address}/vote", None, raw=b"x" * 5000)[0] == 400
    assert refused(post, f"{address}/elsewhere", {})[0] == 400
    for path in ("/video/2/left", "/video/0/up", "/video/../votes.csv", "/votes.csv"):
        assert refused(get, address + path)[0] == 404


def test_the_page_names_no_model(study, address):
    status, headers, text = get(f"{address}/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert all(question in text.decode() for question in QUESTIONS.values())
    assert not {"mary", "otto", ".mp4"} & set(re.findall(r"[.\w]+", text.decode()))


def test_pages_of_another_name_are_refused(study, address):
    assert refused(get, f"{address}/", Host="elsewhere.example:80")[0] == 403


@pytest.mark.parametrize("rater", RATERS)
def test_videos_are_on_the_side_that_votes_count(study, address, rater):
    left = get(f"{address}/video/0/left?rater={rater}")[2]
    right = get(f"{address}/video/0/right?rater={rater}")[2]
    first, second = ("a", "b") if study.a_is_left(rater, "mary") else ("b", "a")
    assert left == f"{first} mary".encode() * 50 and right == f"{second} mary".encode() * 50


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=10-19", 10, 20), ("bytes=290-", 290, 300), ("bytes=-5", 295, 300)],
)
def test_players_ask_for_parts(study, address, asked, start, end):
    whole = get(f"{address}/video/0/left?rater=ann")[2]
    status, headers, part = get(f"{address}/video/0/left?rater=ann", Range=asked)
    assert status == 206 and part == whole[start:end]
    assert headers["Content-Range"] == f"bytes {start}-{end - 1}/300"


@pytest.mark.parametrize("asked", ["bytes=9-2", "bytes=999-", "bytes=-0", "bytes=-", "pages=1-2"])
def test_parts_that_are_none(study, address, asked):
    status, _, content = get(f"{address}/video/0/left?rater=ann", Range=asked)
    assert status == 200 and len(content) == 300


def test_a_port_that_is_taken(study, address):
    with pytest.raises(UserError, match="choose another one"):
        server(study, int(address.rsplit(":", 1)[1]))


def test_what_the_votes_say(study, capsys):
    main(["--results", str(study.votes)])
    assert "No votes yet" in capsys.readouterr().out
    for rater in RATERS:
        study.vote(rater, 0, answers(lips="same"))
    main(["--results", str(study.votes)])
    text = capsys.readouterr().out
    left = sum(study.a_is_left(rater, "mary") for rater in RATERS)
    low, high = wilson(left, 4)
    assert text.startswith("A is a, B is b.")
    row = f"| {left} | {4 - left} | 0 | {left / 4:.0%} | {low:.0%} to {high:.0%} |"
    assert text.count(row) == 4 and text.count("| 0 | 0 | 4 | – | 0% to 100% |") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "give two folders"),
        (["a"], "give two folders"),
        (["a", "a"], "are one folder"),
        (["a", "absent"], "B 'absent' is no folder"),
        (["a", "b", "--results", "votes.csv"], "give either"),
        (["--results", "absent.csv"], "cannot be read"),
        (["a", "b", "--output", "a/mary.mp4"], "have not the columns"),
    ],
)
def test_what_cannot_be_asked(study, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=told) as error:
        main(arguments)
    assert "\n" not in str(error.value)


def test_the_command(study, tmp_path):
    """Served on a free port, voted on, ended by Ctrl-C: the result is printed, the file whole."""
    (tmp_path / "x").mkdir()
    (tmp_path / "b").rename(tmp_path / "x" / "a")  # of one name: told apart by the folder above
    command = [sys.executable, "-m", "memo_jax.metrics.preference", "a", "x/a", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    asked = subprocess.Popen(
        [*command, "--output", "new/votes.csv"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=heeds_ctrl_c,
    )
    try:
        address = re.match(r"(http://127.0.0.1:\d+)/ shows 2 pairs", asked.stdout.readline())[1]
        key = re.search(r'"key": "([^"]+)"', get(f"{address}/")[2].decode())[1]
        for pair in json.loads(get(f"{address}/pairs?rater=ann")[2]):
            content = {"key": key, "rater": "ann", "pair": pair, "answers": answers()}
            assert post(f"{address}/vote", content) == b"{}"
        asked.send_signal(signal.SIGINT)
        rest = asked.communicate(timeout=60)[0]
    finally:
        asked.kill()
    assert asked.returncode == 0
    assert rest.endswith(to_markdown(tmp_path / "new" / "votes.csv"))
    assert f"A is {tmp_path.name}/a, B is x/a." in rest
