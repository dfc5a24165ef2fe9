"""All settings of a training run, from a plain dict."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from memo_jax.config import Config
from memo_jax.data.windows import Form
from memo_jax.errors import UserError
from memo_jax.models.remat import Remat
from memo_jax.train.stages import STAGES, Stage

Loss = Literal["data", "velocity"]

# The attention projections that low-rank training adapts, unless told otherwise.
LORA_TARGETS = (r"diffusion_net/.*/(to_q|to_k|to_v|to_out)",)


@dataclass(frozen=True)
class DropRates(Config):
    """Probabilities, per sample, that a condition is dropped; of emotion in each norm apart.

    `null` drops face, reference, audio and emotion together, just as guidance's null branch has
    them. 0, as published: that branch then relies on what the others' drops have taught.
    """

    reference: float = 0.05
    audio: float = 0.05
    emotion: float = 0.05
    past: float = 0.05
    null: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _in_range(f"drop.{field.name}", getattr(self, field.name), 0, 1)


@dataclass(frozen=True)
class TrainConfig(Config):
    """A training run.

    What and from what:
      stage: "1", "2a", "2b" or "finetune"; "distill", which makes few steps of a trained model's
        many; or "vae", of a model that is made from nothing.
      trains: patterns of the parameters' whole paths, in place of the stage's; () is the stage's.
      model: the model to start from; data: the folder of the data set.
      form: "latents" where preparation stored them, or "images", which the VAE encodes as they
        come, `encode_frames` frames of every sample at a time.
      decoupled, same_clip_fallback, still_past, portrait_past, other_past, audio_edge: as in
        `data.windows.WindowConfig`.
      image_size: pixels of the square; None is the model's.
      frames: of a sample; stage 1 takes one.
      past_frames: the numbers of past frames that batches draw from.
    How:
      batch_size: samples of one update, over all processes; accumulate: into how many parts,
        computed one after the other, it is cut.
      steps, learning_rate: None is the stage's own. The rate rises linearly over `warmup_steps`,
        is constant then, as the paper has it, and falls linearly to 0 over the last `decay_steps`.
      optimizer: "adamw", or "adafactor", whose state is a small part of that.
      grad_clip: of the gradients' global norm; ema_decay: None keeps no average of the weights.
      loss: the mean squared error in z_0, "data", as published; or in the "velocity", which is the
        same by sigma**2, so that low noise levels, where details are made, count as others do.
      level_mean: of the noise levels' logits, whose deviation is 1; 0 as published. Below it, low
        levels come more often: -0.6 has half of them under 0.35.
      robust_threshold: samples whose loss exceeds it are left out of the mean; None keeps all.
      kl_weight, edge_weight: of the VAE's loss (see `train.vae`).
      student_steps, teacher_substeps, teacher_guidance: of stage "distill" (see
        `train.distill.Recipe`); None is 4 steps, as many substeps as come nearest to the number of
        steps that the starting model takes, and its own guidance.
      lora_rank: 0 trains what the stage says; otherwise low-rank changes of the kernels below the
        paths that `lora_targets` match (see `train.lora`), times lora_alpha / lora_rank.
      dtype: of matmuls and convolutions; remat: what is computed again rather than kept.
      data_axis, fsdp_axis: the mesh; a `data_axis` of 0 is what the other leaves of the devices.
    Around it:
      log_every, checkpoint_every, sample_every: in steps; 0 is never. keep: how many checkpoints.
      threads, prefetch, workers, bad_share: the loader's.
    """

    stage: str = "finetune"
    trains: tuple[str, ...] = ()
    model: str = ""
    data: str = ""
    form: Form = "latents"
    encode_frames: int = 4
    decoupled: tuple[str, ...] = ("MEAD",)
    same_clip_fallback: bool = False
    still_past: float = 0.05
    portrait_past: float = 0.0
    other_past: float = 0.0
    audio_edge: float = 0.05
    image_size: int | None = None
    frames: int = 16
    past_frames: tuple[int, ...] = (16,)
    seed: int = 0
    batch_size: int = 1
    accumulate: int = 1
    steps: int | None = None
    learning_rate: float | None = None
    warmup_steps: int = 0
    decay_steps: int = 0
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    ema_decay: float | None = None
    loss: Loss = "data"
    level_mean: float = 0.0
    robust_threshold: float | None = 0.1
    drop: DropRates = dataclasses.field(default_factory=DropRates)
    kl_weight: float = 1e-4
    edge_weight: float = 0.5
    # None, so that runs begun before there were these fields go on.
    student_steps: int | None = None
    teacher_substeps: int | None = None
    teacher_guidance: float | None = None
    lora_rank: int = 0
    lora_alpha: float = 16.0
    lora_targets: tuple[str, ...] = LORA_TARGETS
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    remat: Remat = "none"
    data_axis: int = 0
    fsdp_axis: int = 1
    log_every: int = 10
    checkpoint_every: int = 1000
    keep: int = 3
    sample_every: int = 0
    threads: int = 4
    prefetch: int = 4
    workers: int = 0
    bad_share: float = 0.01

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for name, hint in hints.items():
            if not _fits(getattr(self, name), hint):
                raise UserError(
                    f"{name} is {getattr(self, name)!r}, expected {_described(hint)}; "
                    "change the config"
                )
        if self.stage not in STAGES:
            raise UserError(f"stage {self.stage!r}, expected one of {', '.join(STAGES)}")
        for name in ("frames", "batch_size", "accumulate", "encode_frames", "fsdp_axis", "keep"):
            _in_range(name, getattr(self, name), 1)
        for name in ("warmup_steps", "decay_steps", "weight_decay", "lora_rank", "data_axis"):
            _in_range(name, getattr(self, name), 0)
        for name in ("seed", "kl_weight", "edge_weight"):
            _in_range(name, getattr(self, name), 0)
        for name in ("teacher_substeps", "teacher_guidance"):
            _in_range(name, getattr(self, name), 1)
        _in_range("student_steps", self.student_steps, 2)
        for name in ("image_size", "steps", "learning_rate", "grad_clip", "epsilon"):
            _in_range(name, getattr(self, name), 0, open_low=True)
        shares = ("still_past", "portrait_past", "other_past", "audio_edge", "bad_share")
        for name in ("beta1", "beta2", "ema_decay", *shares):
            _in_range(name, getattr(self, name), 0, 1)
        _in_range("robust_threshold", self.robust_threshold, 0, open_low=True)
        if not self.past_frames or min(self.past_frames) < 1:
            raise UserError(f"past_frames {self.past_frames}, expected numbers from 1, say (16,)")
        if self.stage == "distill" and self.drop.null:
            raise UserError(
                f"drop.null is {self.drop.null}, expected 0 in stage distill, whose student has no "
                "null branch"
            )
        own = {"loss": "data", "level_mean": 0.0} if self.stage in ("distill", "vae") else {}
        for name, expected in own.items():
            if getattr(self, name) != expected:
                raise UserError(
                    f"{name} is {getattr(self, name)!r}, expected {expected!r} in stage "
                    f"{self.stage}, whose loss and levels are its own"
                )
        if self.batch_size % self.accumulate:
            raise UserError(
                f"batch_size {self.batch_size} does not divide into accumulate={self.accumulate} "
                "equal parts; change one of them"
            )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """A config from plain values, lists for tuples; `drop` is itself a dict.

        Raises:
          UserError: an unknown field, with the nearest known name, or a value that makes no sense.
        """
        values = dict(fields)
        _known(cls, values, "")
        if isinstance(values.get("drop"), Mapping):
            _known(DropRates, values["drop"], "drop.")
            values["drop"] = DropRates(**values["drop"])
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**values)

    @property
    def what(self) -> Stage:
        """The stage."""
        return STAGES[self.stage]

    @property
    def patterns(self) -> tuple[str, ...]:
        """Of the parameters that are trained."""
        return self.trains or self.what.trains

    @property
    def rate(self) -> float:
        """The learning rate after warm-up."""
        return self.what.learning_rate if self.learning_rate is None else self.learning_rate

    @property
    def total_steps(self) -> int:
        """Updates of the whole run."""
        return self.what.steps if self.steps is None else self.steps

    @property
    def sample_frames(self) -> int:
        """Frames of a sample in this stage."""
        return self.frames if self.what.moving else 1

    @property
    def past_choices(self) -> tuple[int, ...]:
        """Numbers of past frames that batches draw from in this stage."""
        return self.past_frames if self.what.moving else (0,)


def _known(cls: type, fields: Mapping[str, Any], where: str) -> None:
    names = [field.name for field in dataclasses.fields(cls)]
    for name in fields:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.5)
            hint = f"did you mean {where}{near[0]}?" if near else f"there are {', '.join(names)}"
            raise UserError(f"the training config has no field {where}{name}; {hint}")


def _in_range(
    name: str, value: float | None, low: float, high: float = math.inf, *, open_low: bool = False
) -> None:
    if value is None:
        return
    if not (math.isfinite(value) and low <= value <= high and (value > low or not open_low)):
        bound = f"above {low}" if open_low else f"at least {low}" if high == math.inf else ""
        raise UserError(f"{name} is {value}, expected {bound or f'{low} to {high}'}")


def _fits(value: Any, hint: Any) -> bool:
    kinds = get_args(hint)
    if get_origin(hint) is Literal:
        return value in kinds
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, kinds[0]) for item in value)
    if kinds:  # a union
        return any(_fits(value, kind) for kind in kinds)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is not int or not isinstance(value, bool))


def _described(hint: Any) -> str:
    kinds = get_args(hint)
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, kinds))
    if get_origin(hint) is tuple:
        return f"a list of {_described(kinds[0])}"
    if kinds:
        return " or ".join(_described(kind) for kind in kinds)
    return "None" if hint is NoneType else hint.__name__
