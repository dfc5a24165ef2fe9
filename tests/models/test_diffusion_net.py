"""The Diffusion Net against recorded predictions, memories and what passes inside."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from golden_case import relative_error

from memo_jax.models.audio_attention import NORMS_PER_MODULE
from memo_jax.models.diffusion_net import DiffusionNet
from memo_jax.models.layers import timestep_code
from memo_jax.models.motion import MotionMemory
from memo_jax.models.reference_net import ReferenceFeatures
from memo_jax.weights import load_torch


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


# The rest runs on the smallest recorded net, with switches of our choice.
@pytest.fixture(scope="module")
def case(golden):
    return golden("e_diffusion_net_16frames")


@pytest.fixture(scope="module")
def net(case):
    return opened(case)


@pytest.fixture(scope="module")
def small(case, last):
    """Inputs of three frames: (latents, timesteps, features, faces, audio, emotion)."""
    return (
        last(case.inp("clip0/step0/latents"))[:, :3],
        np.array([700.0, 200.0], np.float32),
        features_of(case, 0),
        case.inp("clip0/context"),
        case.inp("clip0/audio")[:, :3],
        case.inp("emotion"),
    )


@pytest.fixture(scope="module")
def own(net, compiled, reconfigured):
    """`own(inputs)`: the memory of the inputs' past and the velocity, each sample with its own
    portrait."""
    config = dataclasses.replace(net.config, reference_rows="own")
    made = {}

    def own(inputs, dtype=jnp.float32):
        if dtype not in made:
            module = reconfigured(lambda rngs: DiffusionNet(config, dtype=dtype, rngs=rngs), net)
            made[dtype] = compiled(module, remember_and_predict)
        return made[dtype](*inputs)

    return own


def remember_and_predict(net, latents, timesteps, features, *rest):
    memory = net.remember(features, None)
    return memory, net(latents, timesteps, features, *rest, memory)


def test_own_rows_make_samples_independent(own, small):
    """The recorded, mixed rows do mix them."""
    memory, together = own(small)
    for i in range(2):
        alone_memory, alone = own(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], small))
        assert relative_error(alone[0], np.asarray(together[i])) <= 1e-5
        for path, layer in alone_memory.layers.items():
            kv = np.split(np.asarray(memory.layers[path].kv), 2)[i]
            assert relative_error(layer.kv, kv) <= 1e-5


def test_bfloat16_stays_near_and_remembers_in_float32(own, small):
    (memory, velocity), (half_memory, half) = own(small), own(small, jnp.bfloat16)
    assert isinstance(half_memory, MotionMemory) and half.dtype == jnp.float32
    assert relative_error(half, np.asarray(velocity)) <= 5e-2
    for got, want in zip(jax.tree.leaves(half_memory), jax.tree.leaves(memory), strict=True):
        assert got.dtype == jnp.float32
        assert relative_error(got, np.asarray(want)) <= 5e-2


def test_the_null_branch_is_not_computed_twice(net, small, dot_flops):
    features = small[2]
    memory = jax.eval_shape(lambda: net.remember(features, None))
    cache = jax.eval_shape(lambda: net.cache(features, small[3]))
    frames = small[0].shape[1]

    def flops(use):
        def call(memory, cache):
            return net(*small[:2], cache, None, *small[4:], memory, use)

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


def test_no_memory_and_zeros_are_the_same_past(net, small, compiled):
    remember = compiled(net, lambda net, *args: net.remember(*args))
    once = remember(small[2], None)
    again = remember(small[2], jax.tree.map(jnp.zeros_like, once))
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(once), strict=True):
        assert relative_error(a, np.asarray(b)) <= 1e-6


def test_features_need_faces_unless_cached(net, small):
    memory = jax.eval_shape(lambda: net.remember(small[2], None))
    with pytest.raises(ValueError, match="face_tokens are needed unless features are cached"):
        net(*small[:3], None, *small[4:], memory)


def test_latents_whose_sides_do_not_halve(net, small):
    """The upsampler comes back to the skip's size."""
    positions = {"down.0": 5 * 3, "down.1": 3 * 2, "mid.0.": 3 * 2, "up.0.0": 3 * 2}
    positions |= {"up.0.1": 3 * 2, "up.1.0": 5 * 3, "up.1.1": 5 * 3}
    entries = {
        name: np.ones((2, 2, positions[name[:6]], 32), np.float32) for name in small[2].entries
    }
    latents = np.ones((2, 3, 5, 3, 4), np.float32)
    inputs = (latents, small[1], ReferenceFeatures(entries), *small[3:])
    _, velocity = jax.eval_shape(lambda: remember_and_predict(net, *inputs))
    assert velocity.shape == latents.shape
