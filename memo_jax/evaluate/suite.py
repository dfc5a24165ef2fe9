"""Runs studies: every video once, however many tables it stands in, and none again after a stop."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from memo_jax.config import SamplerConfig
from memo_jax.evaluate.figures import Figures, figures, from_dict, to_dict
from memo_jax.evaluate.people import Task, tasks
from memo_jax.evaluate.studies import Study, Variant
from memo_jax.evaluate.together import Together
from memo_jax.puppets.readers import Readers
from memo_jax.weights.folder import Model

SHOWN_FRAMES = 12  # of each video, in its row of a contact sheet


@dataclass(frozen=True)
class Job:
    """A variant with a seed: some videos.

    `key` names everything that decides the figures, and so the file that they are kept in.
    """

    variant: Variant
    people: int
    seconds: float
    seed: int
    model: str

    @property
    def key(self) -> str:
        """Of the files; variants that differ only by name share it."""
        fields = dataclasses.asdict(self)
        del fields["variant"]["name"]
        fields["figures"] = [one.name for one in dataclasses.fields(Figures)]
        text = json.dumps(fields, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Trained:
    """A model under the name that studies have for it, and what tells it from others."""

    model: Model
    fingerprint: str


class Suite:
    """Figures of jobs, kept in a folder."""

    def __init__(
        self,
        folder: Path,
        models: Mapping[str, Trained],
        *,
        seeds: int,
        share: float,
        long_seconds: float,
        readers: Readers | None = None,
    ):
        """
        Args:
          folder: for figures and contact sheets; what is there already is not made again.
          models: by the names of studies' variants.
          seeds: how many, from 0.
          share: of each study's people, at least one.
          long_seconds: of long videos.
          readers: those that are shipped unless given.
        """
        self.folder, self.models = folder, models
        self._seeds, self._share, self._long = seeds, share, long_seconds
        self._readers = readers or Readers.load()
        self._program: tuple[Any, Together] | None = None

    def jobs(self, study: Study, variant: Variant) -> list[Job]:
        """One for each seed."""
        people = max(1, round(self._share * study.people))
        seconds = self._long if study.seconds is None else study.seconds
        known = self.models[variant.model].fingerprint
        return [Job(variant, people, seconds, seed, known) for seed in range(self._seeds)]

    def missing(self, studies: Sequence[Study]) -> list[Job]:
        """What is not made yet, each once; jobs of one program stand together."""
        found: dict[str, Job] = {}
        for study in studies:
            for variant in study.variants:
                if variant.model in self.models:
                    for job in self.jobs(study, variant):
                        if not self.file(job).exists():
                            found.setdefault(job.key, job)
        return sorted(found.values(), key=lambda job: (_program_of(job), job.seed))

    def file(self, job: Job) -> Path:
        """Where its figures are, or will be."""
        return self.folder / "figures" / f"{job.key}.json"

    def sheet(self, job: Job) -> Path:
        """Where its contact sheet is: a row for each video."""
        return self.folder / "sheets" / f"{job.key}.png"

    def read(self, job: Job) -> list[Figures]:
        """The figures of a job that was made."""
        return [from_dict(one) for one in json.loads(self.file(job).read_text("utf-8"))["videos"]]

    def make(self, job: Job, advance: Callable[[int], None]) -> list[Figures]:
        """Generates, reads and keeps; `advance` is told of each frame of all videos."""
        trained = self.models[job.variant.model]
        program = self._together(job, trained.model)
        sampler = program.sampler
        asked = tasks(
            job.people,
            job.seconds,
            seed=job.seed,
            size=sampler.image_size,
            fps=sampler.fps,
            **job.variant.tasks,
        )
        clips = []
        drawn = program(
            np.stack([task.portrait for task in asked]),
            [task.sound for task in asked],
            [task.emotion for task in asked],
            job.seed,
        )
        for clip in drawn:
            clips.append(clip)
            advance(clip.shape[0] * clip.shape[1])
        videos = np.concatenate(clips, axis=1)
        found = [
            figures(self._readers, frames, task, sampler.fps, sampler.clip_frames)
            for frames, task in zip(videos, asked, strict=True)
        ]
        for path in (self.sheet(job), self.file(job)):
            path.parent.mkdir(parents=True, exist_ok=True)
        _write_sheet(self.sheet(job), videos, asked)
        text = json.dumps(
            {"job": dataclasses.asdict(job), "videos": [to_dict(one) for one in found]}, indent=1
        )
        unfinished = self.file(job).with_suffix(".part")
        unfinished.write_text(text + "\n", "utf-8")
        os.replace(unfinished, self.file(job))
        return found

    def _together(self, job: Job, model: Model) -> Together:
        """The program of a job; the last one is kept, for the next job may share it."""
        known = _program_of(job)
        if self._program is None or self._program[0] != known:
            self._program = None
            jax.clear_caches()  # hundreds of programs would fill the memory
            sampler: SamplerConfig = dataclasses.replace(model.spec.sampler, **job.variant.sampler)
            self._program = known, Together(model, sampler, motion=job.variant.motion)
        return self._program[1]


def frames_of(job: Job, fps: float) -> int:
    """Frames of all its videos."""
    return job.people * round(job.seconds * fps)


def _program_of(job: Job) -> str:
    variant = job.variant
    parts = [variant.model, job.model, dict(variant.sampler), dict(variant.motion), job.people]
    return json.dumps(parts, sort_keys=True)


def _write_sheet(path: Path, videos: UInt8[np.ndarray, "b n s s 3"], asked: Sequence[Task]) -> None:
    """The portrait, then frames from the first to the last."""
    at = np.linspace(0, videos.shape[1] - 1, SHOWN_FRAMES).round().astype(int)
    rows = [
        np.concatenate([task.portrait, *video[at]], axis=1)
        for video, task in zip(videos, asked, strict=True)
    ]
    Image.fromarray(np.concatenate(rows)).save(path)
