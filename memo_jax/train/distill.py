"""Few steps from many: in one step without guidance, a student goes where its teacher gets in
several with it.

The teacher is the model that training starts from, and stays as it is; the student starts as it.
`sampling_sigmas(steps)`, the levels of the student's sampler, cut the way from noise to data into
intervals. At the start s of one, x is data with noise. From there the teacher, guided as the
sampler guides it, takes `substeps` Euler steps to the interval's end e; what the student learns is
the velocity of the straight way there,

    v* = (x_e - x_s) / (e - s),   loss = mean |v(x_s, s) - v*|^2.

The teacher's levels are those of the sampler with (steps - 1) substeps + 1 steps, of which every
`substeps`-th is the student's; in the last interval, from 0.001 to 0, both take one step. An
interval is drawn with the probability of its length, as each step's error counts where the student
lands.

Sources: each window of the flow made straight on its own, from real data with noise: PeRFlow
(arXiv:2405.07510), here only where the sampler looks, which is at the windows' starts. One step of
the student for several of the teacher: progressive distillation (arXiv:2202.00512), which goes on
from its own students. So does a run that starts from a distilled model; give it as many substeps
that the teacher's levels are those it has learnt. Guidance within the target: arXiv:2210.03142,
here at one scale; `substeps` 1 is that paper's first stage, guidance alone.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from memo_jax.config import SamplerConfig
from memo_jax.diffusion import flow
from memo_jax.diffusion import guidance as cfg
from memo_jax.errors import UserError
from memo_jax.models.diffusion_net import DiffusionNet
from memo_jax.models.reference_net import ReferenceFeatures
from memo_jax.models.remat import Remat
from memo_jax.train.conditions import Inputs
from memo_jax.train.config import TrainConfig
from memo_jax.train.loss import Nets
from memo_jax.train.stages import DISTILL
from memo_jax.train.state import Params
from memo_jax.train.step import Trainer
from memo_jax.weights.folder import Model
from memo_jax.weights.spec import ModelSpec

STEPS = 4
LEARNS = "diffusion_net/"
TEACHER = "teacher/"  # before the paths of its parameters, among the frozen ones


@dataclass(frozen=True)
class Recipe:
    """What a student learns of its teacher.

    Attributes:
      steps: of the student's sampler, from 2.
      substeps: of the teacher for one of them.
      guidance: the teacher's; at 1 it has no null branch.
      null_audio: as in `SamplerConfig`.
    """

    steps: int
    substeps: int
    guidance: float
    null_audio: Literal["zeros", "projected"]

    @classmethod
    def of(cls, config: TrainConfig, sampler: SamplerConfig) -> Self:
        """What the config says, or else the sampler of the model that training starts from."""
        steps = config.student_steps or STEPS
        nearest = round((sampler.steps - 1) / (steps - 1))
        guidance = config.teacher_guidance
        return cls(
            steps=steps,
            substeps=config.teacher_substeps or max(1, nearest),
            guidance=sampler.guidance if guidance is None else guidance,
            null_audio=sampler.null_audio,
        )

    @property
    def guided(self) -> bool:
        """Whether the teacher has a null branch."""
        return cfg.guided(self.guidance)

    @property
    def intervals(self) -> Float[np.ndarray, "steps levels"]:
        """The teacher's levels in each of the student's steps; those of no width stay at 0."""
        k = self.substeps
        levels = flow.sampling_sigmas((self.steps - 1) * k + 1)
        levels = np.append(levels, np.zeros(k - 1, np.float32))
        return np.stack([levels[i * k : (i + 1) * k + 1] for i in range(self.steps)])

    def starts(self, keys: PRNGKeyArray) -> Float[Array, " b"]:
        """For each key the start of an interval, drawn with the probability of its length."""
        starts = self.intervals[:, 0]
        u = jax.vmap(jax.random.uniform)(keys)
        return jnp.asarray(starts)[_later(u, starts[1:])]

    def levels(self, sigma: Float[Array, " b"]) -> Float[Array, "b levels"]:
        """The teacher's levels in the intervals that start at `sigma`."""
        return jnp.asarray(self.intervals)[_later(sigma, self.intervals[:, 0])]


def _later(x: Float[Array, " b"], levels: Float[np.ndarray, " n"]) -> Int[Array, " b"]:
    """How many of the levels are above each of `x`."""
    return jnp.sum(x[:, None] < jnp.asarray(levels)[None], axis=1)


def _each(values: Float[Array, " b"]) -> Float[Array, "b 1 1 1 1"]:
    """A number of each sample, beside latents."""
    return jnp.expand_dims(values, (1, 2, 3, 4))


@struct.dataclass
class Conditions:
    """What the networks that nobody trains make of some samples' conditions: rows of the null
    branch first where there is guidance, as in the sampler."""

    features: ReferenceFeatures
    faces: Float[Array, "rows t c"]
    audio: Float[Array, "rows f m c"]
    emotion: Int[Array, "rows norms"]

    def kept(self, b: int) -> Self:
        """Without the null branch of these `b` samples."""
        return jax.tree.map(lambda leaf: leaf[-b:], self)


def conditions(nets: Nets, inputs: Inputs, recipe: Recipe) -> Conditions:
    """As `rollout.condition` and `rollout.denoise` have them. Past frames are remembered with the
    face that their branch knows."""
    assert inputs.audio is not None and inputs.emotion is not None  # the stage is a moving one
    faces, audio = nets["image_proj"](inputs.face), nets["audio_proj"](inputs.audio)
    images, emotion = inputs.images, inputs.emotion
    if recipe.guided:
        if recipe.null_audio == "zeros":
            silent = jnp.zeros_like(audio)
        else:
            silent = nets["audio_proj"](jnp.zeros_like(inputs.audio))
        null = nets["diffusion_net"].config.null_emotion
        faces = cfg.both_branches(nets["image_proj"](jnp.zeros_like(inputs.face)), faces)
        images = cfg.both_branches(images, images)
        audio = cfg.both_branches(silent, audio)
        emotion = cfg.both_branches(jnp.full_like(emotion, null), emotion)
    return Conditions(nets["reference_net"](images, faces), faces, audio, emotion)


def target(
    teacher: DiffusionNet,
    given: Conditions,
    recipe: Recipe,
    x: Float[Array, "b f h w z"],
    sigmas: Float[Array, "b levels"],
) -> Float[Array, "b f h w z"]:
    """v*: the velocity of the straight way to where the teacher gets from `x` by these levels."""
    cached = teacher.cache(given.features, given.faces)
    use_reference = cfg.attends_to_reference(len(x)) if recipe.guided else None

    def velocity(x: Array, timesteps: Array) -> Array:
        if recipe.guided:
            x, timesteps = cfg.both_branches(x, x), cfg.both_branches(timesteps, timesteps)
        # Features in the place of the memory, because all layers' memories at once are too much
        # beside what training keeps.
        memory = given.features
        v = teacher(x, timesteps, cached, None, given.audio, given.emotion, memory, use_reference)
        return cfg.combine(v, recipe.guidance) if recipe.guided else v

    def step(moved: Array, levels: tuple[Array, Array]) -> tuple[Array, None]:
        sigma, after = levels
        v = velocity(x + moved, flow.TRAIN_LEVELS * sigma)
        return moved + _each(after - sigma) * v, None

    # What it has moved, not where it is: of a short interval that would leave rounding alone.
    levels = jnp.swapaxes(sigmas, 0, 1)
    moved, _ = jax.lax.scan(step, jnp.zeros_like(x), (levels[:-1], levels[1:]))
    return moved / _each(levels[-1] - levels[0])


def losses(
    student: DiffusionNet,
    given: Conditions,
    x: Float[Array, "b f h w z"],
    sigma: Float[Array, " b"],
    wanted: Float[Array, "b f h w z"],
    remat: Remat = "none",
) -> Float[Array, " b"]:
    """Each sample's mean squared error of the student's velocity; `given` has no null branch."""
    velocity = student(
        x,
        flow.TRAIN_LEVELS * sigma,
        given.features,
        given.faces,
        given.audio,
        given.emotion,
        given.features,
        remat=remat,
    )
    return flow.sample_losses(velocity, wanted)


class Distiller(Trainer):
    """Stage "distill". The teacher's parameters are among the frozen ones: after a stop they are
    read from the starting model again. With low-rank changes they are the kernels without them."""

    def __init__(self, config: TrainConfig, spec: ModelSpec, mesh: Mesh) -> None:
        """Raises UserError as `Trainer`, and where it would train more than the Diffusion Net."""
        super().__init__(config, spec, mesh)
        self.recipe = Recipe.of(config, spec.sampler)
        strangers = [path for path in self.trained if not path.startswith(LEARNS)]
        if strangers:
            raise UserError(
                f"stage distill trains the Diffusion Net alone, not {strangers[0]}, which its "
                f"teacher needs as it is; let all patterns begin with {LEARNS}"
            )
        net = self._parts["diffusion_net"]
        if self.recipe.guided and net.emotion_rows == net.num_emotions:
            raise UserError(
                "the model has no null emotion, so its guidance cannot be learnt; set "
                "teacher_guidance to 1, or start from a model with emotion_drop_rate above 0"
            )
        self._taught = [] if config.lora_rank else self.trained
        self._frozen |= {
            TEACHER + path: jax.ShapeDtypeStruct(
                self.shapes[path].shape,
                self._kept(path, self.shapes[path]),
                sharding=self._trained[path].sharding,
            )
            for path in self._taught
        }

    def values(self, model: Model) -> dict[str, Any]:
        """The model's parameters by whole path, and the teacher's, which are the same."""
        own = super().values(model)
        return own | {TEACHER + path: own[path] for path in self._taught}

    def _levels(self, keys: PRNGKeyArray) -> Float[Array, " b"]:
        return self.recipe.starts(keys)

    def _part(
        self,
        past_frames: int,
        key: Array,
        trained: Params,
        frozen: Params,
        rows: Int[Array, " m"],
        batch: Mapping[str, Array],
    ) -> Any:
        nets = self.nets({path: frozen[TEACHER + path] for path in self._taught}, frozen)
        inputs = self._inputs(past_frames, key, nets, frozen, rows, batch)
        x = flow.add_noise(inputs.latents, inputs.noise, inputs.sigma)
        given = conditions(nets, inputs, self.recipe)
        levels = self.recipe.levels(inputs.sigma)
        wanted = target(nets["diffusion_net"], given, self.recipe, x, levels)

        def loss(trained: Params) -> tuple[Array, tuple[Array, Array]]:
            student = self.nets(trained, frozen)["diffusion_net"]
            found = losses(student, given.kept(len(x)), x, inputs.sigma, wanted, self.config.remat)
            _, kept = flow.robust_mean(found, self.config.robust_threshold)
            return jnp.sum(jnp.where(kept, found, 0.0)), (found, kept)

        return jax.value_and_grad(loss, has_aux=True)(trained)


def made(config: TrainConfig, spec: ModelSpec) -> ModelSpec:
    """The spec of what a run makes of a model: a student's sampler takes few steps, and no
    guidance."""
    if config.stage != DISTILL:
        return spec
    steps = Recipe.of(config, spec.sampler).steps
    sampler = dataclasses.replace(spec.sampler, steps=steps, guidance=1.0)
    return dataclasses.replace(spec, sampler=sampler)
