"""Whole sampling runs, clip after clip, against recorded ones."""

import jax
import numpy as np
import pytest
from einops import rearrange
from golden_case import relative_error

from memo_jax.config import SamplerConfig
from memo_jax.diffusion import rollout as sampling
from memo_jax.diffusion.rollout import ClipInputs


def sampler_of(config):
    return SamplerConfig(
        image_size=config["image_px"],
        clip_frames=config["num_generated_frames_per_clip"],
        past_frames=config["num_past_frames"],
        first_past_frames=config["num_init_past_frames"],
        steps=config["inference_steps"],
        guidance=config["guidance_scale"],
        null_audio="zeros",
    )


def inputs_of(case, sampler):
    """(image, face) and all clips' inputs; a clip's emotion is its most frequent label."""
    clips = case.config["clips"]
    labels = case.inp("emotion_labels").reshape(clips, sampler.clip_frames)
    noise = [case.inp(f"clip{i}/noise") for i in range(clips)]
    return (
        rearrange(case.inp("pixel_values"), "b c h w -> b h w c"),
        case.inp("face_emb"),
        ClipInputs(
            rearrange(case.inp("audio_emb"), "(k f) w l d -> k 1 f w l d", k=clips),
            np.array([[np.bincount(row).argmax()] for row in labels], np.int32),
            np.stack([last(clip) for clip in noise]),
        ),
    )


def last(clip):
    """A recorded clip, channels last."""
    return rearrange(clip, "b c f h w -> b f h w c")


def memory_error(memory, recorded):
    """The worst error over recorded `<path>/KV` and `/Z`."""
    fields = {"KV": "kv", "Z": "z"}
    errors = []
    for name, want in recorded.items():
        path, key = name.rsplit("/", 1)
        errors.append(relative_error(getattr(memory.layers[path], fields[key]), want))
    return max(errors)


@pytest.mark.parametrize("name", ["j_pipeline_cfg1.0", "j_pipeline_cfg3.5"])
def test_a_rollout(name, golden, recorded_generator, compiled):
    case = golden(name)
    sampler = sampler_of(case.config)
    image, face, inputs = inputs_of(case, sampler)
    key = jax.random.key(0)  # draws nothing: the recorded noise is given

    def run(generator, image, face, inputs):
        portrait = sampling.prepare_portrait(generator, sampler, image, face)
        carry = sampling.first_carry(generator, sampler, portrait, image)
        return portrait, sampling.rollout(generator, sampler, portrait, key, carry, inputs)

    portrait, (carry, frames) = compiled(recorded_generator(case), run)(image, face, inputs)
    clips = case.config["clips"]
    assert frames.shape[0] == clips == int(carry.clip)
    for i in range(clips):
        # In [0, 1], so an absolute difference; a frame is 255 steps of 4e-3.
        assert np.abs(frames[i] - last(case.out(f"clip{i}/video"))).max() <= 1e-4
        assert inputs.emotion[i, 0] == case.out(f"clip{i}/emotion_used")[-1]
    assert memory_error(carry.memory, case.under(f"out/clip{clips - 1}/mem/")) <= 1e-4
    reference = rearrange(case.out("clip0/ref_latents")[:1], "b c h w -> b h w c")
    assert relative_error(portrait.latents, reference) <= 1e-5


def test_clip_by_clip(golden, recorded_generator, compiled):
    """Two past frames at first and three later; what passes inside a clip, too."""
    case = golden("j_pipeline_init2")
    generator, sampler = recorded_generator(case), sampler_of(case.config)
    image, face, inputs = inputs_of(case, sampler)
    start = compiled(
        generator, lambda g, image, face: sampling.prepare_portrait(g, sampler, image, face)
    )
    encode = compiled(generator, lambda g, past: sampling._encode(g.vae, 2 * past - 1))
    condition = compiled(generator, lambda g, *args: sampling.condition(g, *args))
    denoise = compiled(generator, lambda g, *args: sampling.denoise(g, sampler, *args))
    decode = compiled(generator, lambda g, latents: sampling.decode(g.vae, latents))

    portrait, memory = start(image, face), None
    past = np.repeat(image[:, None] / 2 + 0.5, sampler.first_past_frames, axis=1)
    for i in range(case.config["clips"]):
        want = rearrange(case.out(f"clip{i}/ref_latents"), "n c h w -> 1 n h w c")
        assert relative_error(portrait.latents, want[:, 0]) <= 1e-5
        assert relative_error(encode(past), want[:, 1:]) <= 1e-5

        made = condition(portrait, past, memory)
        memory = made.memory
        assert memory_error(memory, case.under(f"out/clip{i}/mem/")) <= 1e-4

        clip = jax.tree.map(lambda leaf, i=i: leaf[i], inputs)
        latents = denoise(made, clip.audio, clip.emotion, clip.noise)
        want = last(case.out(f"clip{i}/step{sampler.steps - 1}/latents"))
        assert relative_error(latents, want) <= 1e-4

        frames, want = decode(latents), last(case.out(f"clip{i}/video"))
        assert np.abs(frames - want).max() <= 1e-4
        past = np.concatenate([past, want], axis=1)[:, -sampler.past_frames :]
