"""Distillation: the target is the sampler's own, the student alone learns it, on any mesh, and what
comes out says how it is sampled.

`python test_distill.py FILE` is run here: with four devices, it writes what a step gave on one of
them at once, and on all four in two parts, to FILE, an .npz.
"""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import smallest
import stand_in
from flax import nnx
from golden_case import relative_error
from small_model import quick_compilation

from memo_jax import sharding
from memo_jax.config import SamplerConfig
from memo_jax.diffusion import rollout as sampling
from memo_jax.diffusion.flow import TRAIN_LEVELS, sampling_sigmas
from memo_jax.errors import UserError
from memo_jax.train import distill, samples
from memo_jax.train.config import TrainConfig
from memo_jax.train.distill import TEACHER, Recipe
from memo_jax.train.run import run_model
from memo_jax.train.trainers import trainer_of
from memo_jax.weights.sources import preset_folder
from memo_jax.weights.spec import read_spec

STEPS, SUBSTEPS, GUIDANCE = 3, 2, 3.5
ROWS = 8
MESHES = {"one": (1, 1, 1), "four": (2, 2, 2)}  # data, fsdp, accumulate
FIELDS = {
    "student_steps": STEPS,
    "teacher_substeps": SUBSTEPS,
    "robust_threshold": None,
    "learning_rate": 2e-4,
    "grad_clip": 1e9,
}


class TestRecipe:
    def test_the_students_levels_are_its_samplers_and_the_teachers_are_a_samplers(self):
        table = Recipe(4, 3, 1.0, "zeros").intervals
        assert table.dtype == np.float32
        assert np.array_equal([*table[:, 0], 0], sampling_sigmas(4))
        assert np.array_equal(table[:-1, -1], table[1:, 0])
        steps = np.concatenate([row[:-1] for row in table])
        assert np.array_equal(steps[: 3 * 3 + 1], sampling_sigmas(10)[:-1])
        assert not steps[10:].any()  # of no width

    def test_an_interval_is_drawn_as_often_as_it_is_long(self):
        many, recipe = 20_000, Recipe(4, 2, 1.0, "zeros")
        sigma = np.asarray(recipe.starts(jax.random.split(jax.random.key(0), many)))
        for row in recipe.intervals:
            share, length = np.mean(sigma == row[0]), row[0] - row[-1]
            assert abs(share - length) < 5 * np.sqrt(length * (1 - length) / many)
        found = np.asarray(recipe.levels(jnp.asarray(sigma)))
        assert np.array_equal(found[:, 0], sigma) and len(np.unique(found[:, -1])) == 4

    def test_what_the_config_leaves_open_is_as_the_model_is_sampled(self):
        of = Recipe.of(TrainConfig(stage="distill"), SamplerConfig(steps=10, guidance=2.0))
        assert of == Recipe(steps=4, substeps=3, guidance=2.0, null_audio="projected")
        fields = {"student_steps": 8, "teacher_substeps": 5, "teacher_guidance": 1.5}
        of = Recipe.of(TrainConfig(stage="distill", **fields), SamplerConfig.released())
        assert of == Recipe(8, 5, 1.5, "zeros")
        assert Recipe.of(TrainConfig(stage="distill"), SamplerConfig(steps=1)).substeps == 1


def given_inputs(latents, past, norms):
    """Inputs of two samples, of the latents of a portrait and past frames; labels for each norm."""
    rng = np.random.default_rng(0)
    batch = smallest.batch(2)
    f = smallest.FRAMES
    return distill.Inputs(
        latents=jnp.zeros((2, f, *latents.shape[1:])),
        noise=rng.normal(size=(2, f, *latents.shape[1:])).astype(np.float32),
        sigma=jnp.ones(2),
        images=jnp.concatenate([latents[:, None], past], axis=1),
        face=batch["face"],
        audio=batch["audio"],
        emotion=np.repeat(batch["emotion"][:, None], norms, axis=1),
    )


@pytest.mark.parametrize(
    ("guidance", "null_audio"), [(GUIDANCE, "projected"), (GUIDANCE, "zeros"), (1.0, "zeros")]
)
def test_step_by_step_the_teacher_goes_where_the_sampler_goes(model, guidance, null_audio):
    recipe = Recipe(STEPS, SUBSTEPS, guidance, null_audio)
    sampler = SamplerConfig(
        image_size=smallest.SIZE,
        steps=(STEPS - 1) * SUBSTEPS + 1,
        guidance=guidance,
        null_audio=null_audio,
    )
    names = ("vae", "reference_net", "diffusion_net", "image_proj", "audio_proj")
    graphdef, params = nnx.split(sampling.Generator(*(model.modules[n] for n in names)))
    rng = np.random.default_rng(1)
    picture = (smallest.SIZE, smallest.SIZE, 3)
    image = rng.uniform(-1, 1, (2, *picture)).astype(np.float32)
    past = rng.uniform(0, 1, (2, smallest.PAST, *picture)).astype(np.float32)

    @jax.jit
    def both(params):
        generator = nnx.merge(graphdef, params)
        nets = {name: getattr(generator, name) for name in names}
        scaling = generator.vae.config.scaling_factor
        frames = (2 * past - 1).reshape(-1, *picture)
        remembered = scaling * generator.vae.encode(frames)[0]
        portrait = sampling.prepare_portrait(generator, sampler, image, smallest.batch(2)["face"])
        inputs = given_inputs(
            portrait.latents,
            remembered.reshape(2, smallest.PAST, *remembered.shape[1:]),
            generator.diffusion_net.emotion_norms,
        )
        condition = sampling.condition(generator, portrait, past, None)
        theirs = sampling.denoise(
            generator, sampler, condition, inputs.audio, inputs.emotion[:, 0], inputs.noise
        )
        given = distill.conditions(nets, inputs, recipe)

        def step(x, levels):
            sigmas = jnp.broadcast_to(levels, (2, len(levels)))
            v = distill.target(nets["diffusion_net"], given, recipe, x, sigmas)
            return x + (levels[-1] - levels[0]) * v, None

        ours, _ = jax.lax.scan(step, jnp.asarray(inputs.noise), jnp.asarray(recipe.intervals))
        return ours, theirs

    ours, theirs = map(np.asarray, both(params))
    assert np.isfinite(theirs).all() and theirs.std() > 0.1
    assert relative_error(ours, theirs) <= 1e-5


@pytest.fixture(scope="module")
def own(trainer):
    return trainer("distill", **FIELDS)


@pytest.fixture(scope="module")
def trace(own, model):
    """What was before, after the first step, after the last, and what each told: twenty times the
    same samples with the same noise."""
    state, frozen = own.init(model)
    batch, program = own.put(smallest.batch()), own.step(smallest.PAST)
    before = jax.tree.map(np.array, (state, frozen))
    told, first = [], None
    for _ in range(20):
        state = state.replace(step=jnp.zeros_like(state.step))
        state, metrics = program(state, frozen, batch)
        told.append(jax.tree.map(np.asarray, metrics))
        first = jax.tree.map(np.array, state) if first is None else first
    return before, first, jax.tree.map(np.asarray, (state, frozen)), told


def test_the_student_starts_as_its_teacher_and_alone_is_trained(own, trace):
    (before, kept), _, (after, frozen), _ = trace
    assert own.trained and all(path.startswith("diffusion_net/") for path in own.trained)
    assert {TEACHER + path for path in own.trained} < set(kept)
    for path, value in before.trained.items():
        assert np.array_equal(kept[TEACHER + path], value), path
        assert not np.array_equal(after.trained[path], value), path
    assert all(np.array_equal(frozen[path], value) for path, value in kept.items())


def test_a_few_samples_are_learnt(trace):
    losses = [float(told["loss"]) for told in trace[3]]
    assert all(told["finite"] and told["kept"] == 4 for told in trace[3])
    assert losses[-1] < 0.5 * losses[0]


def test_gradients_are_those_of_a_target_that_stands_still(own, trace):
    """The first step's, from Adam's first moment, against the parts put together here."""
    (state, frozen), after, _, told = trace
    recipe = own.recipe
    key = jax.random.fold_in(jax.random.key(own.config.seed), 0)
    rows, batch = jnp.arange(4), smallest.batch()

    @jax.jit
    def inputs_and_target(frozen):
        teacher = {path: frozen[TEACHER + path] for path in own.trained}
        nets = own.nets(teacher, frozen)
        inputs = own._inputs(smallest.PAST, key, nets, frozen, rows, batch)
        level = inputs.sigma[:, None, None, None, None]
        x = level * inputs.noise + (1 - level) * inputs.latents
        given = distill.conditions(nets, inputs, recipe)
        levels = recipe.levels(inputs.sigma)
        return x, given, inputs, distill.target(nets["diffusion_net"], given, recipe, x, levels)

    x, given, inputs, wanted = inputs_and_target(frozen)
    assert set(np.asarray(inputs.sigma)) <= set(recipe.intervals[:, 0])

    @jax.jit
    @jax.value_and_grad
    def loss(trained):
        net = own.nets(trained, frozen)["diffusion_net"]
        features = jax.tree.map(lambda leaf: leaf[4:], given.features)
        faces, audio = given.faces[4:], given.audio[4:]
        timesteps = TRAIN_LEVELS * inputs.sigma
        v = net(x, timesteps, features, faces, audio, inputs.emotion, features)
        return jnp.mean((v - wanted) ** 2)

    value, gradients = loss(state.trained)
    assert told[0]["loss"] == pytest.approx(float(value), rel=1e-5)
    means = after.opt_state[1][0].mu
    largest = max(np.abs(g).max() for g in gradients.values())
    assert largest > 0
    for path, g in gradients.items():
        assert np.abs(means[path] / (1 - own.config.beta1) - g).max() <= 1e-4 * largest, path


def test_low_rank_changes_need_no_second_teacher(trainer):
    own = trainer("distill", lora_rank=2, **FIELDS)
    assert not any(path.startswith(TEACHER) for path in own.abstract()[1])
    assert all("/lora_" in path for path in own.trained)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"trains": ("diffusion_net/.*", "image_proj/.*")}, "Diffusion Net alone, not image_proj"),
        ({"lora_rank": 2, "lora_targets": ("reference_net/.*/to_q",)}, "alone, not reference_net"),
    ],
)
def test_what_the_teacher_needs_as_it_is_cannot_be_trained(trainer, fields, message):
    with pytest.raises(UserError, match=message):
        trainer("distill", **fields)


def test_guidance_needs_a_null_emotion(config, one_device):
    net = dataclasses.replace(smallest.PARTS["diffusion_net"], emotion_drop_rate=0.0)
    spec = smallest.spec(diffusion_net=net)
    still = {"drop": distill_drops()}
    with pytest.raises(UserError, match="teacher_guidance to 1"):
        trainer_of(config("distill", **still), spec, one_device)
    trainer_of(config("distill", teacher_guidance=1.0, **still), spec, one_device)


def distill_drops():
    """None."""
    return TrainConfig.from_dict(
        {"drop": dict.fromkeys(("reference", "audio", "emotion", "past"), 0.0)}
    ).drop


@pytest.mark.parametrize(("stage", "sampler"), [("distill", (4, 1.0)), ("2a", None)])
def test_what_comes_out_says_how_it_is_sampled(stage, sampler, tmp_path, monkeypatch):
    monkeypatch.setenv("MEMO_JAX_CACHE", str(tmp_path / "cache"))
    stand_in.write_data(tmp_path / "data")
    start = read_spec(preset_folder("tiny"))
    assert (start.sampler.steps, start.sampler.guidance) != (4, 1.0)
    shown = []
    monkeypatch.setattr(
        samples, "make_sample", lambda run, step, model, *_, **__: shown.append(model)
    )
    for steps in (1, 2):  # begun, and gone on with
        stand_in.write_config(tmp_path / "config.py", stage=stage, steps=steps, sample_every=2)
        stand_in.main([*stand_in.line(tmp_path), "--distributed=off", "--accept-changes"])
    found = read_spec(run_model(tmp_path / "run", print))
    if sampler is not None:
        steps, guidance = sampler
        expected = dataclasses.replace(start.sampler, steps=steps, guidance=guidance)
        start = dataclasses.replace(start, sampler=expected)
    assert found == start and [model.spec for model in shown] == [start]


@pytest.fixture(scope="module")
def meshes(tmp_path_factory):
    """What `main` found, by "<mesh>/<what>"."""
    file = tmp_path_factory.mktemp("meshes") / "found.npz"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    subprocess.run([sys.executable, __file__, file], check=True, env=environment, timeout=280)
    with np.load(file) as found:
        return dict(found)


def test_two_parts_on_four_devices_are_one_device(meshes):
    one, four = (
        {name.removeprefix(start): v for name, v in meshes.items() if name.startswith(start)}
        for start in ("one/", "four/")
    )
    assert len(np.unique(one["losses"])) == ROWS
    assert relative_error(four["losses"], one["losses"]) <= 1e-5
    assert four["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
    paths = [name for name in one if name.startswith("mu/")]
    largest = max(np.abs(one[path]).max() for path in paths)
    assert len(paths) > 10 and largest > 0
    for path in paths:
        assert np.abs(four[path] - one[path]).max() <= 1e-5 * largest, path
    assert 0 < four["cut"] == four["cut of the teacher"]


def main(file):
    """A step in each way."""
    jax.config.update("jax_default_matmul_precision", "highest")
    model = smallest.model()
    usual = TrainConfig(
        stage="distill",
        dtype="float32",
        frames=smallest.FRAMES,
        past_frames=(smallest.PAST,),
        batch_size=ROWS,
        **FIELDS,
    )
    found = {}
    for name, (data, fsdp, accumulate) in MESHES.items():
        mesh = sharding.make_mesh(data, fsdp, jax.devices()[: data * fsdp])
        config = dataclasses.replace(usual, accumulate=accumulate)
        trainer = trainer_of(config, model.spec, mesh)
        state, frozen = trainer.init(model)
        teacher = [frozen[TEACHER + path] for path in trainer.trained]
        for what, leaves in (("cut", state.trained.values()), ("cut of the teacher", teacher)):
            found[f"{name}/{what}"] = sum(not x.is_fully_replicated for x in leaves)
        batch = trainer.put(smallest.batch(ROWS))
        state, metrics = trainer.step(smallest.PAST)(state, frozen, batch)
        found |= {f"{name}/{k}": np.asarray(v) for k, v in metrics.items()}
        means = state.opt_state[1][0].mu
        found |= {f"{name}/mu/{path}": np.asarray(v) for path, v in means.items()}
    np.savez(file, **found)


if __name__ == "__main__":
    with quick_compilation():
        main(sys.argv[1])
