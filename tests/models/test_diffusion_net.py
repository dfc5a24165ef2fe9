"""The Diffusion Net against recorded predictions, memories and what passes inside."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from flax import nnx
from golden_case import relative_error

from memo_jax.models.attention import use_kernel
from memo_jax.models.audio_attention import NORMS_PER_MODULE
from memo_jax.models.diffusion_net import DiffusionNet
from memo_jax.models.layers import timestep_code
from memo_jax.models.motion import MotionMemory
from memo_jax.models.reference_net import ReferenceFeatures
from memo_jax.weights import load_torch
from memo_jax.weights.build import CountingRngs, flatten


def opened(case):
    return load_torch("diffusion_net", case.config["kwargs"], case.w())


def features_of(case, clip):
    return ReferenceFeatures.from_named(case.under(f"in/clip{clip}/ref/"), case.config["batch"])


@pytest.mark.parametrize(
    "name",
    [
        "e_diffusion_net",
        "e_diffusion_net_b1",
        "e_diffusion_net_plain_groupnorm",
        "e_diffusion_net_16frames",
    ],
)
def test_recorded_clips(name, golden, compiled, memory_error, last, first):
    case = golden(name)
    config, batch = case.config, case.config["batch"]
    net = opened(case)
    # The release's mask covers the first half of the batch: the null branch.
    use = np.arange(batch) >= batch // 2 if config["uc_mask"] else None
    remember = compiled(net, lambda net, *args: net.remember(*args))
    cached = compiled(net, lambda net, *args: (net.cache(*args), None))
    predict = compiled(net, lambda net, *args: net(*args, use))
    memory = None
    for i in range(len(config["clips"])):
        features = features_of(case, i)
        memory = remember(features, memory)
        portrait = (features, case.inp(f"clip{i}/context"))
        if name != "e_diffusion_net_16frames":  # both ways to give the portrait are recorded's
            portrait = cached(*portrait)
        for s, timestep in enumerate(config["timesteps"]):
            step = f"clip{i}/step{s}"
            got = predict(
                last(case.inp(f"{step}/latents")),
                np.full(batch, timestep, np.float32),
                *portrait,
                case.inp(f"clip{i}/audio"),
                case.inp("emotion"),
                memory,
            )
            assert relative_error(first(got), case.out(f"{step}/pred")) <= 1e-4
            if s in (0, len(config["timesteps"]) - 1):
                assert memory_error(memory, case.under(f"out/{step}/mem/")) <= 1e-5


def test_recorded_submodules(golden, compiled, last, first):
    """Each is given what was recorded before it, so that none hides behind another's error."""
    case = golden("e_diffusion_net_b1")
    net, features = opened(case), features_of(case, 0)
    emotion = np.repeat(case.inp("emotion")[:, None], NORMS_PER_MODULE, axis=1)
    memory = compiled(net, lambda net, features: net.remember(features, None))(features)
    cache = compiled(net, lambda net, *args: net.cache(*args))(features, case.inp("clip0/context"))

    traces = case.under("out/trace/")
    video = {k[: -len("/hidden")]: last(v) for k, v in traces.items() if v.ndim == 5}
    audio = {
        k[: -len("/audio")]: rearrange(v, "(b f) m c -> b f m c", b=1)
        for k, v in traces.items()
        if k.endswith("/audio")
    }
    audio[""] = case.inp("clip0/audio")
    time = traces["time_embedding/hidden"]

    def modules(net, video, audio, time):
        out = {"conv_in": net.conv_in(last(case.inp("clip0/step0/latents")))}
        code = timestep_code(jnp.array([1000.0]), 32, flip_sin_to_cos=True, freq_shift=0)
        out_time = net.time_embedding(code)
        down, mid, up = net.down_blocks[0], net.mid_block, net.up_blocks[1]
        heard = {}

        def resnet(path, block, before):
            out[path] = block(video[before], time)

        def layer(path, block, feature, before, audio_before):
            attended, _ = block.attentions[0](
                video[f"{path}.resnets.0"], cache.spatial[feature], mixed_rows=block.mixed_rows
            )
            out[f"{path}.attentions.0"] = attended
            name = f"{path}.audio_modules.0"
            out[name], heard[name] = block.audio_modules[0](
                video[f"{path}.attentions.0"], audio[audio_before], emotion
            )
            name = f"{path}.motion_modules.0"
            out[name] = block.motion_modules[0](
                block.motion_path(0), video[f"{path}.audio_modules.0"], memory
            )

        resnet("down_blocks.0.resnets.0", down.resnets[0], "conv_in")
        layer("down_blocks.0", down, "down.0.0.tokens", "conv_in", "")
        resnet("mid_block.resnets.0", mid.resnets[0], "down_blocks.1")
        layer("mid_block", mid, "mid.0.0.tokens", "down_blocks.1", "down_blocks.0")
        out["mid_block"] = mid.resnets[1](video["mid_block.motion_modules.0"], time)
        layer("up_blocks.1", up, "up.1.0.tokens", "up_blocks.0", "mid_block")
        return out, heard, out_time

    got_video, got_audio, got_time = compiled(net, modules)(video, audio, time)
    assert relative_error(got_time, time) <= 1e-5
    assert len(got_video) == 13 and len(got_audio) == 3
    for path, got in got_video.items():
        assert relative_error(first(got), traces[f"{path}/hidden"]) <= 1e-5, path
    for path, got in got_audio.items():
        assert relative_error(got, audio[path]) <= 1e-5, path


# The rest runs on the smallest recorded net.
@pytest.fixture(scope="module")
def case(golden):
    return golden("e_diffusion_net_16frames")


@pytest.fixture(scope="module")
def net(case):
    return opened(case)


@pytest.fixture(scope="module")
def inputs(case, last):
    """(latents, timesteps, features, faces, audio, emotion) of the recorded call."""
    return (
        last(case.inp("clip0/step0/latents")),
        np.full(2, case.config["timesteps"][0], np.float32),
        features_of(case, 0),
        case.inp("clip0/context"),
        case.inp("clip0/audio"),
        case.inp("emotion"),
    )


def test_bfloat16_stays_near_and_remembers_in_float32(
    net, case, inputs, reconfigured, compiled, memory_error, first
):
    half = reconfigured(lambda rngs: DiffusionNet(net.config, dtype=jnp.bfloat16, rngs=rngs), net)

    def call(net, latents, timesteps, features, *rest):
        # As the Reference Net would give them.
        features = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), features)
        memory = net.remember(features, None)
        return memory, net(latents, timesteps, features, *rest, memory, np.array([False, True]))

    memory, velocity = compiled(half, call)(*inputs)
    assert isinstance(memory, MotionMemory) and velocity.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(memory))
    want = case.out("clip0/step0/pred")
    # Roundings of eight bits, so by their mean square: the largest of thousands says little.
    assert np.std(first(velocity) - want) <= 3e-2 * np.std(want)
    assert memory_error(memory, case.under("out/clip0/step0/mem/")) <= 5e-2


def test_the_switch_of_rows_reaches_every_level(net):
    """What it does is told where it is done: test_spatial.py."""
    levels = [*net.down_blocks, net.mid_block, *net.up_blocks]
    assert net.config.reference_rows == "mixed" and all(level.mixed_rows for level in levels)
    own = dataclasses.replace(net.config, reference_rows="own")
    other = nnx.eval_shape(lambda: DiffusionNet(own, rngs=CountingRngs()))
    levels = [*other.down_blocks, other.mid_block, *other.up_blocks]
    assert not any(level.mixed_rows for level in levels)


def test_the_null_branch_is_not_computed_twice(net, inputs, dot_flops):
    features = inputs[2]
    memory = jax.eval_shape(lambda: net.remember(features, None))
    cache = jax.eval_shape(lambda: net.cache(features, inputs[3]))
    frames = inputs[0].shape[1]

    def flops(use):
        def call(memory, cache):
            with use_kernel("xla"):  # which multiplies nothing but scores and values
                return net(*inputs[:2], cache, None, *inputs[4:], memory, use)

        return dot_flops(call, memory, cache)

    # Scores and values of every frame's queries against the portrait's keys, 2 flops each; as
    # many queries as keys.
    saved = sum(
        2 * 2 * frames * entry.shape[2] ** 2 * entry.shape[3]
        for name, entry in features.entries.items()
        if name.endswith(".tokens")
    )
    everyone = flops(None)
    assert flops(np.array([True, True])) == everyone
    for one in ([False, True], [True, False]):
        assert flops(np.array(one)) == everyone - saved
    assert flops(np.array([False, False])) == everyone - 2 * saved


def test_features_need_faces_unless_cached(net, inputs):
    memory = jax.eval_shape(lambda: net.remember(inputs[2], None))
    with pytest.raises(ValueError, match="face_tokens are needed unless features are cached"):
        net(*inputs[:3], None, *inputs[4:], memory)


def test_latents_whose_sides_do_not_halve(net, inputs):
    """The upsampler comes back to the skip's size."""
    positions = {"down.0": 5 * 3, "down.1": 3 * 2, "mid.0.": 3 * 2, "up.0.0": 3 * 2}
    positions |= {"up.0.1": 3 * 2, "up.1.0": 5 * 3, "up.1.1": 5 * 3}
    shapes = {name: (2, 2, positions[name[:6]], 32) for name in inputs[2].entries}
    entries = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    latents = np.ones((2, 16, 5, 3, 4), np.float32)

    def call():
        features = ReferenceFeatures(entries)
        memory = net.remember(features, None)
        return net(latents, inputs[1], features, *inputs[3:], memory)

    assert jax.eval_shape(call).shape == latents.shape


def test_no_portrait_is_what_the_null_branch_sees(net, inputs, compiled):
    latents, timesteps, features, *rest = inputs

    def both(net):
        memory = net.remember(features, None)
        blind = net(latents, timesteps, features, *rest, memory, np.zeros(2, bool))
        return blind, net(latents, timesteps, None, *rest, memory)

    blind, alone = compiled(net, both)()
    assert relative_error(alone, np.asarray(blind)) <= 1e-6


def without(config, **changes):
    return dataclasses.replace(
        config, audio_modules=False, motion_resolutions=(), mid_motion=False, **changes
    )


def test_without_audio_and_motion_modules_frames_are_alone(net, inputs, random_module, compiled):
    """As the first stage of training has it: a portrait, face tokens, single frames."""
    config = without(net.config, reference_rows="own")
    still = random_module(lambda rngs: DiffusionNet(config, rngs=rngs))
    paths = flatten(nnx.state(still))
    assert not [path for path in paths if "audio_modules" in path or "motion_modules" in path]
    latents, timesteps, features, faces = inputs[:4]
    assert still.emotion_norms == 0 and still.remember(features, None) == MotionMemory({})
    run = compiled(still, lambda net, latents: net(latents, timesteps, features, faces))
    frames = latents.shape[1]
    clip = run(latents)
    assert relative_error(run(latents[:, frames - 1 :]), clip[:, frames - 1 :]) <= 1e-5
    portraits = compiled(still, lambda net, features: net(latents, timesteps, features, faces))
    assert relative_error(portraits(None), clip) > 1e-3


def test_what_audio_modules_need(net, inputs):
    with pytest.raises(ValueError, match="audio_tokens and emotion are needed"):
        net(*inputs[:4])


def test_softmax_motion_carries_an_empty_memory(net, inputs):
    motion = dataclasses.replace(net.config.motion, attention="softmax")
    config = dataclasses.replace(net.config, motion=motion)
    other = nnx.eval_shape(lambda: DiffusionNet(config, rngs=CountingRngs()))
    assert other.remember(inputs[2], None) == MotionMemory({})
