"""Training's settings: refused by name, type and range, in one line."""

import json

import pytest

from memo_jax.errors import UserError
from memo_jax.train.config import DropRates, TrainConfig


def test_from_plain_values_and_back():
    plain = {"stage": "2b", "past_frames": [16, 32, 48], "drop": {"audio": 0.1}, "steps": 7}
    config = TrainConfig.from_dict(plain)
    assert config.past_frames == (16, 32, 48) and config.drop == DropRates(audio=0.1)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_what_the_stage_says_holds_unless_told():
    assert (TrainConfig(stage="1").total_steps, TrainConfig(stage="1").rate) == (15_000, 1e-5)
    told = TrainConfig(stage="1", steps=3, learning_rate=0.1)
    assert (told.total_steps, told.rate) == (3, 0.1)
    assert (told.sample_frames, told.past_choices) == (1, (0,))
    assert (TrainConfig().sample_frames, TrainConfig().past_choices) == (16, (16,))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learnig_rate": 1}, "no field learnig_rate; did you mean learning_rate"),
        ({"drop": {"sound": 0.1}}, "no field drop.sound"),
        ({"xyzzy": 1}, "there are stage, trains, model"),
        ({"stage": "3"}, "expected one of 1, 2a, 2b, finetune"),
        ({"batch_size": "many"}, "batch_size is 'many', expected int"),
        ({"batch_size": True}, "expected int"),
        ({"steps": 1.5}, "expected int or None"),
        ({"optimizer": "sgd"}, "expected 'adamw' or 'adafactor'"),
        ({"past_frames": [16, "x"]}, "expected a list of int"),
        ({"past_frames": []}, "expected numbers from 1"),
        ({"learning_rate": float("nan")}, "expected above 0"),
        ({"drop": {"audio": 1.5}}, "drop.audio is 1.5, expected 0 to 1"),
        ({"stage": "distill", "drop": {"null": 0.1}}, "drop.null is 0.1, expected 0 in stage dist"),
        (
            {"stage": "distill", "loss": "velocity"},
            "loss is .velocity., expected .data. in stage dist",
        ),
        (
            {"stage": "vae", "loss": "velocity"},
            "expected .data. in stage vae, whose loss and levels are its own",
        ),
        (
            {"stage": "distill", "level_mean": -0.6},
            "level_mean is -0.6, expected 0.0 in stage dist",
        ),
        ({"loss": "noise"}, "loss is .noise., expected"),
        ({"student_steps": 1}, "student_steps is 1, expected at least 2"),
        ({"teacher_substeps": 0}, "expected at least 1"),
        ({"teacher_guidance": 0.5}, "teacher_guidance is 0.5, expected at least 1"),
        ({"ema_decay": -0.1}, "expected 0 to 1"),
        ({"batch_size": 4, "accumulate": 3}, "does not divide"),
    ],
)
def test_a_mistake_is_one_line(fields, message):
    with pytest.raises(UserError, match=message) as caught:
        TrainConfig.from_dict(fields)
    assert "\n" not in str(caught.value)
