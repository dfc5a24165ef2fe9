"""Motion modules against recorded outputs, and the memory against its equations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange
from golden_case import relative_error

from memo_jax.config import MotionConfig
from memo_jax.models.motion import LayerMemory, MotionAttention, MotionMemory, MotionModule
from memo_jax.weights.build import CountingRngs
from memo_jax.weights.tables.unet import MOTION_MODULE

HEADS, WIDTH = 2, 16
PAPER = MotionConfig(num_heads=HEADS, position_code=False, max_frames=32)


@pytest.mark.parametrize("name", ["a_temporal_pe", "a_temporal_nope"])
def test_recorded_clips(name, golden, load, compiled, memory_error, last, first):
    case = golden(name)
    kwargs = case.config["kwargs"]
    config, width = MotionConfig.from_torch(kwargs), kwargs["in_channels"]
    module = load(
        lambda rngs: MotionModule(width, config, dtype=jnp.float32, rngs=rngs),
        MOTION_MODULE,
        case.w(),
    )
    remember = compiled(module, lambda m, *args: MotionMemory(m.remember("at", *args)))
    run = compiled(module, lambda m, *args: m("at", *args))
    memory = None
    for i in range(len(case.config["clips"])):
        past = rearrange(case.inp(f"clip{i}/motion"), "b c p h w -> b p (h w) c")
        memory = remember(past, memory)
        for s in range(case.config["denoise_steps_per_clip"]):
            step = f"clip{i}/step{s}"
            got = first(run(last(case.inp(f"{step}/hidden")), memory))
            assert relative_error(got, case.out(f"{step}/hidden")) <= 1e-5
            # The release updates the memory inside the first step; its later steps keep it.
            assert memory_error(memory, case.under(f"out/{step}/mem/"), "at.") <= 1e-5


@pytest.fixture
def attention(random_module):
    """`attention(**switches)`: one random attention, always of the same weights."""

    def attention(**switches):
        config = dataclasses.replace(PAPER, **switches)
        return random_module(
            lambda rngs: MotionAttention(WIDTH, config, dtype=jnp.float32, rngs=rngs)
        )

    return attention


def frames(count, seed, batch=2, positions=3):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(batch, count, positions, WIDTH)).astype(np.float32)


def softmax(x, axis):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def by_the_equations(attention, clips, x, *, decay, key_axis):
    """Equations 3 and 4 of the paper in float64: `clips` are past frames, oldest clip first."""
    heads = "b f s (n d) -> b s n f d"
    w = {k: np.asarray(getattr(attention, k).kernel[...], np.float64) for k in ("to_q", "to_k")}
    w["to_v"] = np.asarray(attention.to_v.kernel[...], np.float64)

    def keys_values(x):
        k = softmax(rearrange(x @ w["to_k"], heads, n=HEADS), key_axis)
        return k, rearrange(x @ w["to_v"], heads, n=HEADS)

    kv = z = 0.0
    for clip in clips:
        k, v = keys_values(clip.astype(np.float64))
        fade = decay ** np.arange(clip.shape[1] - 1, -1, -1.0)[:, None]
        kv = decay ** clip.shape[1] * kv + np.einsum("bsnfd,bsnfe->bsnde", fade * k, v)
        z = decay ** clip.shape[1] * z + (fade * k).sum(axis=-2)
    k, v = keys_values(x.astype(np.float64))
    kv, z = kv + np.einsum("bsnfd,bsnfe->bsnde", k, v), z + k.sum(axis=-2)
    q = softmax(rearrange(x.astype(np.float64) @ w["to_q"], heads, n=HEADS), -1)
    y = np.einsum("bsnfd,bsnde->bsnfe", q, kv) / np.einsum("bsnfd,bsnd->bsnf", q, z)[..., None]
    y = rearrange(y, "b s n f d -> b f s (n d)")
    return y @ np.asarray(attention.to_out.kernel[...]) + np.asarray(attention.to_out.bias[...])


def after(attention, clips, memory=None):
    for clip in clips:
        memory = attention.remember(clip, memory)
    return memory


def same(a, b):
    return max(relative_error(a.kv, b.kv), relative_error(a.z, b.z))


@pytest.mark.parametrize("decay", [0.9, 0.0])
@pytest.mark.parametrize(("activation", "axis"), [("features", -1), ("frames", -2)])
def test_the_paper_form_is_its_equations(attention, activation, axis, decay):
    module = attention(key_activation=activation, decay=decay)
    clips, x = [frames(4, 1), frames(2, 2)], frames(5, 3)
    want = by_the_equations(module, clips, x, decay=decay, key_axis=axis)
    assert relative_error(module(x, after(module, clips)), want) <= 1e-5


# Head width is 8: up to 8 frames take one order of the products, more take the other.
@pytest.mark.parametrize("count", [1, 8, 9, 40])
def test_any_clip_length(attention, count):
    module, clips, x = attention(), [frames(3, 1)], frames(count, 2)
    want = by_the_equations(module, clips, x, decay=0.9, key_axis=-1)
    assert relative_error(module(x, after(module, clips)), want) <= 1e-5


def test_the_released_form_is_another(attention):
    past, x = [frames(4, 1)], frames(5, 3)
    outputs = [
        np.asarray(module(x, after(module, past)))
        for module in (attention(), attention(memory_decay="released"))
    ]
    assert relative_error(*outputs) > 1e-3


def test_released_and_paper_agree_where_nothing_fades(attention):
    past, x = [frames(4, 1), frames(2, 2)], frames(5, 3)
    outputs = [
        np.asarray(module(x, after(module, past)))
        for module in (attention(decay=1.0), attention(decay=1.0, memory_decay="released"))
    ]
    assert relative_error(*outputs) <= 1e-6


@pytest.mark.parametrize("form", ["paper", "released"])
def test_decay_0_keeps_the_last_frame_alone(attention, form):
    module = attention(decay=0.0, memory_decay=form)
    everything = after(module, [frames(3, 1), frames(4, 2)])
    assert same(everything, after(module, [frames(4, 2)[:, -1:]])) <= 1e-6


def test_decay_1_keeps_everything_in_any_order(attention):
    module = attention(decay=1.0)
    past = frames(6, 1)
    assert same(after(module, [past[:, ::-1]]), after(module, [past])) <= 1e-6


@pytest.mark.parametrize("cuts", [(16, 32), (16, 16, 16), (1, 47)])
def test_how_the_past_is_cut_changes_nothing(attention, cuts):
    module, past = attention(), frames(48, 1)
    clips = np.split(past, np.cumsum(cuts)[:-1], axis=1)
    assert same(after(module, clips), after(module, [past])) <= 1e-5


def test_each_clip_may_have_its_own_number_of_past_frames(attention):
    module, x = attention(), frames(16, 9)
    clips = [frames(16, 1), frames(32, 2), frames(48, 3)]
    want = by_the_equations(module, clips, x, decay=0.9, key_axis=-1)
    assert relative_error(module(x, after(module, clips)), want) <= 1e-5


def test_no_memory_and_zeros_are_the_same_past(attention):
    module, past = attention(), frames(3, 1)
    once = module.remember(past, None)
    zeros = LayerMemory(jnp.zeros_like(once.kv), jnp.zeros_like(once.z))
    again = module.remember(past, zeros)
    assert np.array_equal(again.kv, once.kv) and np.array_equal(again.z, once.z)
    assert np.array_equal(module(past, zeros), module(past, None))


def test_a_memory_of_nothing_leaves_the_clip_to_itself(attention):
    module, x = attention(), frames(4, 1)
    d = WIDTH // HEADS
    n = x.shape[0] * x.shape[2] * HEADS
    zeros = LayerMemory(jnp.zeros((n, d, d)), jnp.zeros((n, 1, d)))
    want = by_the_equations(module, [], x, decay=0.9, key_axis=-1)
    assert relative_error(module(x, zeros), want) <= 1e-5


def test_position_code_is_added_to_the_current_frames_only(attention):
    plain = attention()
    config = dataclasses.replace(PAPER, position_code=True)
    coded = MotionAttention(WIDTH, config, dtype=jnp.float32, rngs=CountingRngs())
    for name in ("to_q", "to_k", "to_v", "to_out"):
        setattr(coded, name, getattr(plain, name))
    past, x = frames(3, 1), frames(5, 2)
    memory = after(coded, [past])
    assert same(memory, after(plain, [past])) == 0
    code = coded.pos_encoder(5)[None, :, None]
    assert relative_error(coded(x, memory), np.asarray(plain(x + code, memory))) <= 1e-6
    with pytest.raises(ValueError, match="33 frames in a clip, but the position code has 32"):
        coded(frames(33, 1), memory)


def test_no_gradient_reaches_the_past(attention):
    module, x = attention(), frames(4, 1)

    def loss(past):
        return jnp.sum(module(x, module.remember(past, None)) ** 2)

    assert not np.any(jax.grad(loss)(jnp.asarray(frames(3, 2))))


def test_memory_is_float32_whatever_the_module_multiplies_in(random_module):
    module = random_module(
        lambda rngs: MotionAttention(WIDTH, PAPER, dtype=jnp.bfloat16, rngs=rngs)
    )
    past, x = (jnp.asarray(frames(n, n), jnp.bfloat16) for n in (3, 4))
    memory = after(module, [past, past])
    assert memory.kv.dtype == memory.z.dtype == jnp.float32
    assert module(x, memory).dtype == jnp.bfloat16


# Head width is 8: to 8 keys and beyond.
@pytest.mark.parametrize("count", [1, 8, 20])
def test_softmax_attention_is_over_the_clip_at_each_position(attention, count):
    module, x = attention(attention="softmax"), frames(count, 1)
    q, k, v = (
        rearrange(x.astype(np.float64) @ np.asarray(w.kernel[...]), "b f s (n d) -> b s n f d", n=2)
        for w in (module.to_q, module.to_k, module.to_v)
    )
    weights = softmax(np.einsum("bsnfd,bsngd->bsnfg", q, k) / np.sqrt(WIDTH // HEADS), -1)
    y = rearrange(np.einsum("bsnfg,bsngd->bsnfd", weights, v), "b s n f d -> b f s (n d)")
    want = y @ np.asarray(module.to_out.kernel[...]) + np.asarray(module.to_out.bias[...])
    assert relative_error(module(x, None), want) <= 1e-5


@pytest.fixture
def motion_module(random_module):
    """`motion_module(**switches)`: one random module, always of the same weights."""

    def motion_module(**switches):
        config = dataclasses.replace(PAPER, **switches)
        return random_module(lambda rngs: MotionModule(32, config, dtype=jnp.float32, rngs=rngs))

    return motion_module


CLIP = np.random.default_rng(0).normal(size=(1, 4, 2, 3, 32)).astype(np.float32)


def test_softmax_attention_sees_no_past_frame(motion_module, compiled):
    past = rearrange(CLIP[:, ::-1], "b p h w c -> b p (h w) c")
    module, linear = motion_module(attention="softmax"), motion_module()
    run = compiled(module, lambda m, *args: m("at", *args))
    remember = compiled(linear, lambda m, past: MotionMemory(m.remember("at", past, None)))
    memory = remember(past)
    assert memory.layers and module.remember("at", past, memory) == {}
    alone = run(CLIP, None)
    assert np.array_equal(run(CLIP, MotionMemory({})), alone)
    assert np.array_equal(run(CLIP, memory), alone)
    run = compiled(linear, lambda m, *args: m("at", *args))
    assert relative_error(run(CLIP, memory), run(CLIP, None)) > 1e-3


def test_group_norm_of_each_frame_or_of_the_clip(motion_module, compiled):
    """Statistics of its own undo a frame's scale; the clip's undo only that of all frames."""
    one = CLIP * np.array([1, 3, 1, 1], np.float32)[None, :, None, None, None]
    error = {}
    for per_frame in (True, False):
        module = motion_module(norm_per_frame=per_frame)
        run = compiled(module, lambda m, x: m("at", x, None) - x)
        error[per_frame] = relative_error(run(one), run(CLIP))
        assert relative_error(run(3 * CLIP), run(CLIP)) <= 1e-4
    assert error[True] <= 1e-4 and error[False] > 1e-2
