"""The studies of the puppet suite: what is asked of which variant of the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memo_jax.puppets.espeak import SENTENCES

MAIN = "main"  # the name of the model under test


@dataclass(frozen=True)
class Variant:
    """One line of a study's table.

    Attributes:
      name: as the table shows it.
      model: `MAIN`, or the name of another training of it, which the user gives.
      sampler: fields of `SamplerConfig` that differ from the model's.
      motion: fields of `MotionConfig` that differ.
      tasks: arguments of `people.tasks` that differ from the study's.
    """

    name: str
    model: str = MAIN
    sampler: Mapping[str, Any] = field(default_factory=dict)
    motion: Mapping[str, Any] = field(default_factory=dict)
    tasks: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """A question, the variants that are compared, and the columns of its table.

    Attributes:
      people: videos of each seed.
      seconds: of each video; None is the long one.
      columns: names of `figures.Figures`.
      per_second: whether the answer is a curve over seconds.
    """

    question: str
    variants: tuple[Variant, ...]
    columns: tuple[str, ...]
    people: int = 8
    seconds: float | None = 4.0
    per_second: bool = False


OTHER_TRAININGS = {
    "cross": "configs/tiny/stage2a.py and stage2b.py after stage 1, from "
    "`tools/make_tiny.py CROSS --audio-attention cross --keep STAGE1`",
    "coupled": "configs/tiny/stage2a.py:coupled after stage 1, then stage2b.py:coupled",
    "dynamic": "configs/tiny/stage2b.py:dynamic after stage 2a",
    "student": "a run of configs/tiny/distill.py",
}
"""Names that variants may use beside `MAIN`, and how each is made."""

_GUIDANCE = (1.0, 2.0, 3.5, 5.0, 7.0)
_DECAYS = (0.5, 0.7, 0.9, 0.97, 1.0)
_SPANS = (1, 2, 4, 8, 16)
_MOTION = ("jitter", "sway", "seams")
_LIPS = ("lips", "lag", "lips_at_once", "loudness")

STUDIES: dict[str, Study] = {
    "main": Study(
        "How good is the model on people and sounds it has never met?",
        (
            Variant("as shipped"),
            Variant("another emotion than the voice's", tasks={"asked": "other"}),
            Variant("each clip's noise its own", sampler={"noise_span": 1}),
            *(Variant(f"espeak-ng, {name}", tasks={"speech": name}) for name in SENTENCES),
        ),
        (*_LIPS, "emotion", "identity", *_MOTION),
        people=16,
    ),
    "drift": Study(
        "What does memory keep over a long video?",
        (
            Variant("memory off", sampler={"memory": "none"}),
            *(
                Variant(
                    f"last {n} frames only",
                    sampler={"memory": "past", "past_frames": n, "first_past_frames": n},
                )
                for n in (2, 4, 16)
            ),
            Variant("long memory"),
        ),
        ("identity", "kept", *_MOTION, "lips", "emotion"),
        people=2,
        seconds=None,
        per_second=True,
    ),
    "decay": Study(
        "How fast should memory fade?",
        tuple(Variant(f"g = {g:g}", motion={"decay": g}) for g in _DECAYS),
        ("identity", "kept", *_MOTION, "lips", "emotion"),
        people=2,
        seconds=None,
        per_second=True,
    ),
    "form": Study(
        "Does the released form of the memory differ from the paper's?",
        (
            Variant("as in the paper", motion={"memory_decay": "paper"}),
            Variant("as released", motion={"memory_decay": "released"}),
        ),
        ("identity", "kept", *_MOTION, "lips", "emotion"),
        people=2,
        seconds=None,
        per_second=True,
    ),
    "lips": Study(
        "Joint attention or cross attention to the sound?",
        (Variant("joint"), Variant("cross", "cross")),
        (*_LIPS, "emotion", "identity"),
    ),
    "emotion": Study(
        "What does decoupling the portrait's emotion do?",
        (
            Variant("decoupled"),
            Variant("coupled", "coupled"),
            Variant("decoupled, against the voice", tasks={"asked": "other"}),
            Variant("coupled, against the voice", "coupled", tasks={"asked": "other"}),
        ),
        ("emotion", "lips", "identity"),
    ),
    "guidance": Study(
        "How much guidance?",
        tuple(Variant(f"{g:g}", sampler={"guidance": g}) for g in _GUIDANCE),
        ("emotion", "lips", "lag", "identity", "jitter"),
    ),
    "past": Study(
        "Does a changing number of past frames in training help?",
        tuple(
            Variant(f"trained with {name}, {n} past frames", model, sampler={"past_frames": n})
            for name, model in (("16, 32 or 48", "dynamic"), ("16", MAIN))
            for n in (16, 48)
        ),
        ("identity", "kept", *_MOTION, "lips", "emotion"),
        people=4,
        seconds=10.0,
        per_second=True,
    ),
    "steps": Study(
        "How many steps of the sampler?",
        tuple(Variant(f"{n}", sampler={"steps": n}) for n in (4, 8, 20)),
        (*_LIPS, "emotion", "identity", *_MOTION),
    ),
    "noise": Study(
        "Over how many clips should the noise turn into another?",
        tuple(Variant(f"{n}", sampler={"noise_span": n}) for n in _SPANS),
        (*_MOTION, "lips_at_once", "emotion", "identity"),
        people=4,
        seconds=10.0,
    ),
    "distilled": Study(
        "Do four steps of a student, without guidance, do what twenty with it do?",
        (
            Variant("20 steps with guidance", sampler={"steps": 20}),
            Variant("4 steps with guidance", sampler={"steps": 4}),
            Variant("4 steps without guidance", sampler={"steps": 4, "guidance": 1.0}),
            Variant("a student's 4 steps", "student"),
        ),
        (*_LIPS, "emotion", "identity", *_MOTION),
    ),
}
