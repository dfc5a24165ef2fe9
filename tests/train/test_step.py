"""What one step does: the release's fine-tuning, its filter, accumulation, numbers not finite."""

import jax
import numpy as np
import pytest
import smallest
from golden_case import relative_error

from memo_jax.errors import UserError
from memo_jax.train.step import Trainer

# Some of the batch's losses lie above it, some below.
THRESHOLD = 1.0


@pytest.fixture(scope="module")
def run(trainer, model):
    """`run(batch, accumulate, steps)`: the state before, after, and what each step told."""

    def run(batch, accumulate=1, steps=1):
        own = trainer("finetune", robust_threshold=THRESHOLD, accumulate=accumulate)
        state, frozen = own.init(model)
        before, told = jax.tree.map(np.asarray, state), []
        for _ in range(steps):
            state, metrics = own.step(smallest.PAST)(state, frozen, own.put(batch))
            told.append(jax.tree.map(np.asarray, metrics))
        return before, jax.tree.map(np.asarray, state), told

    return run


def test_the_loss_is_the_mean_over_samples_below_the_threshold(run, trainer):
    _, _, (told,) = run(smallest.batch())
    assert set(told) == set(trainer("finetune").metrics)
    kept = told["losses"] <= THRESHOLD
    assert 0 < kept.sum() < len(kept)
    assert (told["kept"], told["dropped"]) == (kept.sum(), (~kept).sum())
    assert told["loss"] == pytest.approx(told["losses"][kept].mean(), rel=1e-6)
    assert told["loss_unfiltered"] == pytest.approx(told["losses"].mean(), rel=1e-6)
    assert told["finite"] and told["grad_norm"] > 0 and told["lr"] == np.float32(1e-5)


def test_four_parts_of_one_equal_one_part_of_four(run):
    _, whole, (one,) = run(smallest.batch())
    _, parts, (four,) = run(smallest.batch(), accumulate=4)
    assert relative_error(four["losses"], one["losses"]) <= 1e-5
    assert (four["kept"], four["dropped"]) == (one["kept"], one["dropped"])
    assert four["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert four["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
    first, second = (state.opt_state[1][0].mu for state in (whole, parts))
    largest = max(np.abs(value).max() for value in first.values())
    assert all(np.abs(first[path] - second[path]).max() <= 1e-5 * largest for path in first)


def test_chance_is_of_seed_and_step_alone(run, same):
    _, first, told = run(smallest.batch(), steps=2)
    _, second, again = run(smallest.batch(), steps=2)
    assert same(told, again) and same(first, second)
    assert not np.array_equal(told[0]["losses"], told[1]["losses"])
    assert first.step == 2


def test_a_sample_does_not_hear_of_the_others(run):
    batch, other = smallest.batch(), smallest.batch(seed=1)
    mixed = {name: np.concatenate([batch[name][:2], other[name][2:]]) for name in batch}
    (_, _, (alone,)), (_, _, (joined,)) = run(batch), run(mixed)
    assert relative_error(joined["losses"][:2], alone["losses"][:2]) <= 1e-5
    assert not np.any(np.isclose(joined["losses"][2:], alone["losses"][2:], rtol=1e-3))


@pytest.mark.parametrize("name", ["latents_mean", "past_std", "face"])
def test_what_is_not_finite_changes_nothing(run, same, name):
    batch = smallest.batch()
    batch[name][2, ..., 0] = np.nan
    before, after, (told,) = run(batch)
    assert not told["finite"]
    assert list(np.isfinite(told["losses"])) == [True, True, False, True]
    assert same(before, after)


def test_one_program_for_each_length_of_the_past(trainer):
    own = trainer("finetune", past_frames=(2, 3))
    drawn = [own.past_frames(step) for step in range(50)]
    assert set(drawn) == {2, 3} and drawn == [own.past_frames(step) for step in range(50)]
    assert own.step(2) is own.step(2) is not own.step(3)
    assert own.window.past_frames == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 9}, "expected a multiple of 2"),
        ({"batch_size": 6, "accumulate": 1, "frames": 9}, "position code has 8"),
        ({"lora_rank": 2, "lora_targets": ("diffusion_net/no_such",)}, "matches none"),
    ],
)
def test_a_config_that_does_not_fit_the_model(trainer, fields, message):
    with pytest.raises(UserError, match=message):
        trainer("finetune", **fields)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"latents_mean": np.zeros((4, 2, 8, 8, 4))},
            r"latents_mean are \(2, 8, 8, 4\), the model",
        ),
        ({"audio": np.zeros((4, 2, 5, 3, 4))}, "the data's audio are"),
        ({"face": None}, "the batch has no face"),
    ],
)
def test_data_of_other_sizes_than_the_models(trainer, changed, message):
    batch = {k: v for k, v in {**smallest.batch(), **changed}.items() if v is not None}
    with pytest.raises(UserError, match=message):
        trainer("finetune").put(batch)


def test_labels_cannot_be_dropped_without_a_null_emotion(config, one_device):
    net = smallest.PARTS["diffusion_net"]
    without = type(net)(**{**vars(net), "emotion_drop_rate": 0.0})
    with pytest.raises(UserError, match="no null emotion"):
        Trainer(config(), smallest.spec(diffusion_net=without), one_device)
