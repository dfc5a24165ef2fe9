"""What approximations and low memory compute: less, and otherwise what the exact sampler does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from golden_case import relative_error
from small_model import random_module
from smallest import PARTS

from memo_jax import config as configs
from memo_jax.config import SamplerConfig
from memo_jax.diffusion import rollout as sampling
from memo_jax.diffusion.denoise import ClipCondition, denoise
from memo_jax.diffusion.generator import Generator
from memo_jax.models.diffusion_net import DeepFeatures
from memo_jax.models.motion import MemoryRows
from memo_jax.models.pieces import Part

NULL, CONDITION = Part(0, 2), Part(1, 2)
FRAMES, PAST, SIDE = 2, 3, 4
SAMPLER = SamplerConfig(
    image_size=2 * SIDE, clip_frames=FRAMES, past_frames=PAST, first_past_frames=PAST, steps=2
)
# Two levels, so that there is something below the first.
UNET = {
    "block_out_channels": (32, 32),
    "down_attention": (True, False),
    "up_attention": (False, True),
    "layers_per_block": 1,
    "num_heads": 2,
    "cross_attention_dim": 8,
    "norm_num_groups": 4,
}
NETS = ("vae", "reference_net", "diffusion_net", "image_proj", "audio_proj")


def networks(rows="own"):
    """The smallest networks of two levels; `rows` as in the paper ("own") or the release."""
    changed = {
        "reference_net": configs.ReferenceNetConfig(**UNET, face_rows=rows),
        "diffusion_net": configs.DiffusionNetConfig(
            **UNET,
            audio_attention_dim=8,
            motion=configs.MotionConfig(num_heads=2, attentions_per_block=1, max_frames=8),
            motion_resolutions=(1,),
            reference_rows=rows,
        ),
    }
    parts = PARTS | changed
    return Generator(*(random_module(name, parts[name]) for name in NETS))


def given():
    rng = np.random.default_rng(0)
    return {
        "image": rng.uniform(-1, 1, (1, 2 * SIDE, 2 * SIDE, 3)).astype(np.float32),
        "face": rng.normal(size=(1, 6)).astype(np.float32),
        "past": rng.uniform(0, 1, (1, PAST, 2 * SIDE, 2 * SIDE, 3)).astype(np.float32),
        "audio": rng.normal(size=(1, FRAMES, 5, 2, 4)).astype(np.float32),
        "noise": rng.normal(size=(1, FRAMES, SIDE, SIDE, 4)).astype(np.float32),
    }


def clip_condition(generator, sampler, image, face, past):
    portrait = sampling.prepare_portrait(generator, sampler, image, face)
    return sampling.condition(generator, portrait, past, None, sampler)


@pytest.mark.parametrize("rows", ["own", "mixed"])
def test_parts_of_a_batch_and_deep_features_of_the_same_step(compiled, rows):
    """A branch alone is what it is among both, whoever's portrait its frames see; and the first
    level over the deep features of the same step gives what all levels gave."""
    values = given()

    def run(generator, image, face, past, noise, audio):
        features = clip_condition(generator, SAMPLER, image, face, past)
        net = generator.diffusion_net
        tokens = generator.audio_proj(jnp.concatenate([0 * audio, audio]))
        emotion, t = jnp.array([9, 3]), jnp.full((2,), 500.0)

        def evaluate(part, deep=None):
            one = slice(None) if part is None else slice(part.index, part.index + 1)
            use = np.array([False, True])[one]
            return net.evaluate(
                *(jnp.concatenate([noise, noise])[one], t[one], features.features, None),
                *(tokens[one], emotion[one], features.memory, use),
                deep=deep,
                part=part,
            )

        both, deep = evaluate(None)
        null, _ = evaluate(NULL)
        condition, own = evaluate(CONDITION)
        again, same = evaluate(None, deep)
        other, _ = evaluate(None, jax.tree.map(lambda leaf: leaf + 1, deep))
        alone, _ = evaluate(CONDITION, jax.tree.map(CONDITION.rows, deep))
        return both, jnp.concatenate([null, condition]), again, other, alone, deep, same, own

    call = compiled(networks(rows), run)
    names = ("image", "face", "past", "noise", "audio")
    both, apart, again, other, alone, deep, same, own = call(*(values[n] for n in names))
    assert relative_error(apart, np.asarray(both)) <= 2e-6
    assert relative_error(again, np.asarray(both)) <= 2e-6
    assert relative_error(alone, np.asarray(both[1:])) <= 2e-6
    assert relative_error(other, np.asarray(both)) > 1e-3  # they are looked at
    assert isinstance(same, DeepFeatures)
    assert np.array_equal(same.x, deep.x) and np.array_equal(same.audio, deep.audio)
    assert relative_error(own.x, np.asarray(deep.x[1:])) <= 2e-6


def clip_of(sampler):
    """A clip after the first one's carry: (latents or frames that are carried, frames)."""

    def run(generator, image, face, past, audio, noise):
        portrait = sampling.prepare_portrait(generator, sampler, image, face)
        carry = sampling.first_carry(generator, sampler, portrait, image)
        inputs = sampling.ClipInputs(audio, jnp.array([3]), noise)
        key = jax.random.key(0)
        if sampler.latent_carry:
            past = 0.5 * carry.past
        return sampling.clip(generator, sampler, portrait, key, carry.replace(past=past), inputs)

    return run


NAMES = ("image", "face", "past", "audio", "noise")


@pytest.fixture(scope="module")
def generator():
    return networks()


@pytest.fixture(scope="module")
def exact(generator, compiled):
    values = given()
    return compiled(generator, clip_of(SAMPLER))(*(values[n] for n in NAMES))


def memory_error(rows, wanted):
    """The largest of a memory in rows, of one that is not."""
    assert rows.layers.keys() == wanted.layers.keys()
    return max(
        relative_error(got, np.asarray(before))
        for name, layer in rows.layers.items()
        for got, before in zip(
            jax.tree.leaves(layer.layer(heads=2)),
            jax.tree.leaves(wanted.layers[name]),
            strict=True,
        )
    )


def test_rows_as_on_a_tpu_change_nothing(generator, compiled, exact, monkeypatch):
    monkeypatch.setattr(sampling, "platform", lambda: "tpu")
    values = given()
    carry, frames = compiled(generator, clip_of(SAMPLER))(*(values[n] for n in NAMES))
    assert all(isinstance(layer, MemoryRows) for layer in carry.memory.layers.values())
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(carry.memory))
    assert memory_error(carry.memory, exact[0].memory) <= 1e-6
    assert relative_error(frames, np.asarray(exact[1])) <= 5e-6


def test_low_memory_is_the_same_but_for_rounding(generator, compiled, exact):
    """Branches and pictures in turn: within float32's rounding. The memory that is carried is
    rounded to bfloat16, which this clip reads already."""
    low = dataclasses.replace(SAMPLER, device_memory="low")
    values = given()
    carry, frames = compiled(generator, clip_of(low))(*(values[n] for n in NAMES))
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(carry.memory))
    assert memory_error(carry.memory, exact[0].memory) <= 2**-8
    assert 0 < relative_error(frames, np.asarray(exact[1])) <= 2e-2

    def both_ways(generator, image, face, past, audio, noise):
        made = clip_condition(generator, SAMPLER, image, face, past)
        in_turn = clip_condition(generator, low, image, face, past)
        felt = jnp.array([3])
        normal = denoise(generator, SAMPLER, made, audio, felt, noise)
        turns = denoise(generator, low, ClipCondition(*fields(in_turn)), audio, felt, noise)
        return normal, turns, sampling.decode(generator.vae, normal, one_by_one=True)

    def fields(condition):
        return condition.features, condition.memory

    normal, turns, _ = compiled(generator, both_ways)(*(values[n] for n in NAMES))
    error = relative_error(turns, np.asarray(normal))
    print(f"branches and pictures in turn: {error:.1e} of the largest latent")
    assert error <= 5e-6


def test_all_approximations_together(generator, compiled, exact):
    """Four steps of four kinds in one program; what is carried are latents."""
    sampler = dataclasses.replace(
        SAMPLER, steps=4, guidance_interval=(0.5, 1.0), cache_steps=2, latent_carry=True
    )
    values = given()
    carry, frames = compiled(generator, clip_of(sampler))(*(values[n] for n in NAMES))
    assert frames.shape == exact[1].shape and np.isfinite(frames).all()
    assert carry.past.shape == (1, PAST, SIDE, SIDE, 4)
    assert relative_error(frames, np.asarray(exact[1])) > 1e-4
    # The last frames' latents, which decode to these frames.
    decoded = compiled(generator.vae, sampling.decode)(carry.past[:, -FRAMES:])
    assert relative_error(decoded, np.asarray(frames)) <= 1e-5
    assert jax.tree.structure(carry) == jax.tree.structure(exact[0])


def test_less_is_computed(generator):
    """XLA's own count of each kind of step, before compiling; and of a clip's condition."""
    graph, params = nnx.split(generator)
    values = given()
    portrait, past = jax.eval_shape(
        lambda p, image, face, past: (
            sampling.prepare_portrait(nnx.merge(graph, p), SAMPLER, image, face),
            past,
        ),
        *(params, values["image"], values["face"], values["past"]),
    )

    def flops(call, *args):
        return jax.jit(call).lower(params, *args).cost_analysis()["flops"]

    def conditioned(sampler):
        return lambda p, *args: sampling.condition(nnx.merge(graph, p), *args, None, sampler)

    carried = dataclasses.replace(SAMPLER, latent_carry=True)
    latents = jax.ShapeDtypeStruct((1, PAST, SIDE, SIDE, 4), jnp.float32)
    of_pixels = flops(conditioned(SAMPLER), portrait, past)
    of_latents = flops(conditioned(carried), portrait, latents)
    encode = flops(lambda p, x: nnx.merge(graph, p).vae.encode(x[0]), past)
    assert of_pixels - of_latents == pytest.approx(encode, rel=0.01) and encode > 0

    made = jax.eval_shape(conditioned(SAMPLER), params, portrait, past)

    def steps(**fields):
        sampler = dataclasses.replace(SAMPLER, **fields)

        def call(p, made, audio, noise):
            return denoise(nnx.merge(graph, p), sampler, made, audio, jnp.array([3]), noise)

        # Two steps, of which XLA counts one: of two kinds it counts the dearer one.
        return flops(call, made, values["audio"], values["noise"])

    guided, alone = steps(), steps(guidance_interval=(0.4, 0.5))
    assert 0.4 < alone / guided < 0.6

    def evaluated(p, made, audio, noise, deep):
        net, tokens = nnx.merge(graph, p).diffusion_net, nnx.merge(graph, p).audio_proj(audio)
        return net.evaluate(
            *(noise, jnp.ones(1), made.features, None, tokens, jnp.array([3]), made.memory),
            deep=deep,
            part=CONDITION,
        )

    args = made, values["audio"], values["noise"]
    deep = jax.eval_shape(evaluated, params, *args, None)[1]
    assert flops(evaluated, *args, deep) < 0.9 * flops(evaluated, *args, None)
