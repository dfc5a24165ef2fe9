"""What each stage trains, and that nothing else changes."""

import dataclasses
import re

import jax
import numpy as np
import pytest
import smallest

from memo_jax.errors import UserError
from memo_jax.train.stages import STAGES, matching
from memo_jax.weights.components import COMPONENTS

# The autoencoder's own is in test_vae_stage.py.
OF_THE_NETS = [stage for stage in STAGES if stage != "vae"]

HEARS_AND_MOVES = r"diffusion_net/.*(audio|motion)_modules/.*"
MOTION = "diffusion_net/mid_block/motion_modules/0"
# One parameter of each kind, and which stages train it.
SPATIAL, HEARS = {"1", "2b", "distill"}, {"2a", "2b", "finetune", "distill"}
KINDS = {
    "reference_net/conv_in/kernel": {"1", "2b"},
    "reference_net/mid_block/attentions/0/transformer_blocks/0/attn1/to_q/kernel": {"1", "2b"},
    "image_proj/proj/kernel": {"1", "2b"},
    "audio_proj/proj1/kernel": {"2a", "2b"},
    "diffusion_net/conv_in/kernel": {"2b", "distill"},
    "diffusion_net/mid_block/resnets/0/conv1/kernel": {"2b", "distill"},
    "diffusion_net/mid_block/attentions/0/transformer_blocks/0/attn1/to_q/kernel": SPATIAL,
    "diffusion_net/mid_block/attentions/0/transformer_blocks/0/attn2/to_k/kernel": SPATIAL,
    "diffusion_net/mid_block/audio_modules/0/proj_in/kernel": HEARS,
    f"{MOTION}/proj_in/kernel": HEARS,
    f"{MOTION}/transformer_blocks/0/attention_blocks/0/pos_encoder/pe": set(),
}


@pytest.mark.parametrize("stage", OF_THE_NETS)
def test_each_kind_of_parameter_is_trained_in_its_stages(trainer, stage):
    own = trainer(stage)
    for path, stages in KINDS.items():
        assert (path in own.trained) == (stage in stages), path


@pytest.mark.parametrize("stage", OF_THE_NETS)
def test_state_and_frozen_share_out_what_runs(trainer, stage):
    own = trainer(stage)
    state, frozen = own.abstract()
    assert set(state.trained) == set(own.trained) and not set(state.trained) & set(frozen)
    beside = ("grey/", "teacher/")
    read = {path for path in {**state.trained, **frozen} if not path.startswith(beside)}
    assert read == set(own.shapes)
    # Stage 1 neither reads nor trains what hears and moves, nor is there a past to drop.
    assert any(re.fullmatch(HEARS_AND_MOVES, path) for path in read) == (stage != "1")
    assert ("audio_proj/proj1/kernel" in read) == ("grey/mean" in frozen) == (stage != "1")
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape]
    assert len(moments) == 2 * sum(bool(leaf.shape) for leaf in state.trained.values())


def test_the_whole_model_is_trained_in_2b_but_the_position_code():
    shapes = {
        f"{name}/{path}": leaf
        for name in ("reference_net", "diffusion_net", "image_proj", "audio_proj")
        for path, leaf in COMPONENTS[name].abstract(smallest.PARTS[name])[1].items()
    }
    trained = set(STAGES["2b"].trained(shapes))
    assert {path.rsplit("/", 1)[1] for path in set(shapes) - trained} == {"pe"}


@pytest.mark.parametrize("stage", ["1", "finetune"])
def test_a_step_changes_what_the_stage_trains(trainer, model, stage):
    # Losses of an untrained model lie above the usual threshold.
    own = trainer(stage, robust_threshold=1.0 if stage == "finetune" else None)
    past = own.past_frames(0)
    state, frozen = own.init(model)
    before, kept = jax.tree.map(np.asarray, (state.trained, frozen))
    batch = smallest.batch(frames=own.window.frames, past=past)
    state, metrics = own.step(past)(state, frozen, own.put(batch))
    assert bool(metrics["finite"]) and int(metrics["kept"])
    still = [p for p, value in state.trained.items() if np.array_equal(value, before[p])]
    # Weight decay moves even what no gradient reaches.
    assert not still
    assert all(np.array_equal(frozen[path], value) for path, value in kept.items())
    changed = own.weights(state, frozen)
    assert set(changed) == set(own.trained)


def test_a_pattern_that_matches_nothing():
    stage = dataclasses.replace(STAGES["1"], name="x", trains=(r"image_proj/.*", r"no_such/.*"))
    with pytest.raises(UserError, match=r"stage x trains 'no_such/\.\*', which matches none"):
        stage.trained(["image_proj/proj/kernel"])
    table = "net/pos_encoder/pe"
    assert matching("x", (r"net/.*",), ["net/a", table]) == ["net/a"]
