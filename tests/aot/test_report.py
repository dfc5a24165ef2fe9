"""Reports: what follows from their numbers, what the search finds, what they advise."""

import json

import pytest

from memo_jax.aot import search
from memo_jax.aot.chips import CHIPS, chip_of
from memo_jax.aot.report import Report, sent
from memo_jax.errors import UserError
from memo_jax.train.config import TrainConfig

GIB = 2.0**30


def report(**fields):
    """Of 1 PFLOP, 800 GB and an all-gather of 1 GB among 16, on v5e."""
    return Report(
        **{
            "what": "training step",
            "topology": "v5e:4x4",
            "chip": chip_of("v5e:4x4"),
            "devices": 16,
            "clips": 16,
            "positions": 4096,
            "composed": False,
            "given": {"parameters": 2 * GIB, "optimizer": 3 * GIB},
            "temporary": 5 * GIB,
            "code": 0.0,
            "usable": 15.75 * GIB,
            "flops": 1e15,
            "model_flops": 8e14,
            "moved": 800e9,
            "collectives": [("all-gather", 16, 10, 1e9)],
            "seconds": 1.0,
            **fields,
        }
    )


def test_chips_differ_in_name_and_leave_programs_about_what_is_published():
    assert len({chip.name for chip in CHIPS}) == len(CHIPS)
    for chip in CHIPS:
        assert chip.usable == pytest.approx(chip.hbm * GIB / chip.devices, rel=0.05), chip.name


def test_a_chip_with_two_devices_gives_each_a_half():
    whole, halves = report(), report(chip=chip_of("tpu7x:2x2x1"))
    peak = {r.chip.name: r.flops / r.times["compute"] for r in (whole, halves)}
    assert peak["tpu7x"] / peak["v5e"] == pytest.approx(2307 / 2 / 197)


def test_no_such_chip_is_told_with_those_there_are():
    with pytest.raises(UserError, match=r"no chip 'v9'.*v4, v5e, v5p, v6e, tpu7x"):
        chip_of("v9:2x2")


def test_a_run_takes_as_long_as_the_slowest_of_computing_memory_and_links():
    times = report().times
    assert times["compute"] == pytest.approx(1e15 / (197e12 * 0.45))
    assert times["memory"] == pytest.approx(1.0)
    assert times["links"] == pytest.approx(1e9 * 15 / 16 / 100e9)
    assert report().step_seconds == times["compute"]
    assert report(moved=800e11).step_seconds == pytest.approx(100.0)


def test_mfu_is_of_the_models_own_operations():
    assert report().mfu == pytest.approx(0.45 * 0.8)


def test_an_all_reduce_sends_everything_twice_round():
    assert sent(("all-reduce", 4, 1, 8.0)) == 2 * sent(("all-gather", 4, 1, 8.0)) == 12.0
    assert sent(("all-reduce", 1, 1, 8.0)) == 0.0


def test_a_report_comes_back_from_json():
    said = report(pieces=(9, 4), refused="no")
    assert Report.from_dict(json.loads(json.dumps(said.to_dict()))) == said


def test_a_report_says_whether_it_fits_and_that_it_estimates():
    text = str(report())
    assert "10.00 of 15.75: fits" in text and "estimate, not measured" in text
    assert "composed" not in text
    assert "does not fit" in str(report(temporary=11 * GIB))
    assert "composed" in str(report(composed=True, pieces=(9, 4)))


def needing(fixed, each, bend=0.0):
    """An evaluation of programs that need so many GiB, and what was asked of it."""
    asked = []

    def evaluate(clips):
        asked.append(clips)
        return report(given={}, temporary=(fixed + each * clips + bend * clips**2) * GIB)

    return evaluate, asked


@pytest.mark.parametrize(
    ("fixed", "each", "bend", "most"),
    [(3, 1, 0, 12), (3, 12, 0, 1), (3, 1, 0.05, 8), (0, 0.1, 0, 154), (5, 5, 0, 2)],
)
def test_the_largest_batch_is_found_and_compiled(fixed, each, bend, most):
    evaluate, asked = needing(fixed, each, bend)
    found = search.largest(evaluate, lambda line: None)
    need = fixed + each * most + bend * most**2
    assert found.fits and found.peak == pytest.approx(need * GIB)
    assert most in asked and len(asked) == len(set(asked)) <= 6


def test_nothing_fits_where_one_does_not():
    evaluate, asked = needing(15, 1)
    assert search.largest(evaluate, lambda line: None) is None
    assert asked == [1]


def test_advice_names_what_is_not_done_yet():
    big = report(temporary=20 * GIB, clips=64)
    fields = {"batch_size": 64, "fsdp_axis": 1, "past_frames": (48,)}
    lines = search.advice(big, TrainConfig(**fields).to_dict())
    options = ("--fsdp-axis 4", "--remat module", "--accumulate 4", "--past-frames", "adafactor")
    assert [any(o in line for line in lines) for o in options] == [True] * 5
    done = {"fsdp_axis": 16, "remat": "layer", "optimizer": "adafactor"}
    (line,) = search.advice(report(temporary=20 * GIB), TrainConfig(**done).to_dict())
    assert "more memory" in line


def test_a_report_says_whether_a_value_has_every_pair_of_positions():
    shapes = [("bf16[1,16,4096,2560]", GIB)]
    assert "values of 4096 x 4096 positions: none" in str(report(largest=shapes))
    scores = report(largest=shapes, pairs=["f32[8,4096,4096]"])
    assert "values of 4096 x 4096 positions: f32[8,4096,4096]" in str(scores)
    assert "positions" not in str(report())  # composed of pieces: not known
