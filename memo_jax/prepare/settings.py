"""All that decides what a run makes of a video."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from memo_jax.errors import UserError
from memo_jax.prepare import quality, sync
from memo_jax.prepare.cuts import CutConfig, CutFinder, cut_finder
from memo_jax.prepare.embed import Embedder
from memo_jax.prepare.heads import HeadConfig, HeadFinder, OneByOne
from memo_jax.prepare.media import MediaConfig
from memo_jax.prepare.quality import QualityConfig
from memo_jax.prepare.sync import SyncConfig

FORMATS = ("jpeg", "png", "webp")


@dataclass(frozen=True)
class Settings:
    """A run's settings, the same for every video; with equal ones clips are equal.

    Attributes:
      size: pixels of the clips' square.
      images: how pictures are encoded.
      image_quality: 1 to 100, of jpeg and webp.
      silence: dB of full scale; where nothing is louder for 0.1 s, there is no sound.
      model: whose ear and eye.
      face_models: a folder of ONNX face models; "" for the model's own, or OpenCV's finder.
      vocals: the vocal separator's file; "" for the model's own if it has one, "off" for none.
      dino: Grounding DINO's folder, where `heads` asks for it.
      transnet, syncnet, hyperiqa: weights, "" for the offline defaults.
      corpus: whose layout the folder has, "" for a plain one.
      licence: a note in the place of the corpus's.
    """

    size: int = 512
    images: Literal["jpeg", "png", "webp"] = "jpeg"
    image_quality: int = 95
    silence: float = -50.0
    model: str = "tiny"
    face_models: str = ""
    vocals: str = ""
    dino: str = ""
    transnet: str = ""
    syncnet: str = ""
    hyperiqa: str = ""
    corpus: str = ""
    licence: str = ""
    media: MediaConfig = field(default_factory=MediaConfig)
    cuts: CutConfig = field(default_factory=CutConfig)
    heads: HeadConfig = field(default_factory=HeadConfig)
    quality: QualityConfig = field(default_factory=QualityConfig)
    sync: SyncConfig = field(default_factory=SyncConfig)

    def __post_init__(self) -> None:
        if not 32 <= self.size <= 4096 or not 1 <= self.image_quality <= 100:
            raise UserError(
                f"size {self.size} and image quality {self.image_quality}, expected 32 to 4096 "
                "and 1 to 100"
            )
        if self.images not in FORMATS:
            raise UserError(f"images {self.images!r}, expected one of {', '.join(FORMATS)}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it; files by name and size, so that they may lie elsewhere."""
        found = dataclasses.asdict(self)
        for name in ("vocals", "dino", "transnet", "syncnet", "hyperiqa"):
            if path := found[name]:
                found[name] = f"{Path(path).name} ({_bytes(Path(path))} bytes)"
        return found


@dataclass(frozen=True, eq=False)
class Tools:
    """What the settings name, loaded."""

    finder: HeadFinder
    cuts: CutFinder
    embedder: Embedder
    hyperiqa: Callable[..., dict[str, float]] | None
    syncnet: sync.SyncNet | None


@functools.lru_cache(maxsize=1)
def tools(settings: Settings) -> Tools:
    """The tools of a process, loaded once; raises UserError for what is missing or damaged."""
    embedder = Embedder(settings.model, settings.face_models, settings.vocals)
    return Tools(
        finder=_head_finder(settings, embedder),
        cuts=cut_finder(settings.cuts, settings.transnet),
        embedder=embedder,
        hyperiqa=quality.HyperIQA(settings.hyperiqa) if settings.hyperiqa else None,
        syncnet=sync.SyncNet(settings.syncnet) if settings.syncnet else None,
    )


def _head_finder(settings: Settings, embedder: Embedder) -> HeadFinder:
    if settings.heads.finder == "faces":
        return OneByOne(embedder.finder)
    if not settings.dino:
        raise UserError("--heads dino needs its weights: give --dino FOLDER")
    from memo_jax.prepare.dino import GroundingDino

    return GroundingDino(settings.dino, settings.heads)


def _bytes(path: Path) -> int:
    """Of a file, or of the weights in a folder; -1 for nothing."""
    if path.is_dir():
        return sum(file.stat().st_size for file in path.glob("*.safetensors"))
    return path.stat().st_size if path.is_file() else -1
