"""model.json: all of a model but its weights, and whether it makes sense."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from memo_jax.audio.emotion import EMOTIONS
from memo_jax.audio.logmel import LogMelConfig
from memo_jax.config import SamplerConfig
from memo_jax.errors import UserError, one_line
from memo_jax.weights.components import component

FORMAT = 1

# A model without one of these makes no frames.
REQUIRED = ("vae", "reference_net", "diffusion_net", "image_proj", "audio_proj")


@dataclass(frozen=True)
class Part:
    """One component of a model: its config, where it came from, and under which licence."""

    config: Any
    origin: str = ""
    licence: str = ""


@dataclass(frozen=True)
class ModelSpec:
    """All of a model but its weights; what model.json holds.

    `identity` is how a face becomes an embedding: "arcface" (the release's ONNX models) or
    "pixels" (a thumbnail, for models trained that way). `log_mel` is set where log-mel bands take
    the place of wav2vec2.
    """

    name: str
    sampler: SamplerConfig
    parts: dict[str, Part]
    emotions: tuple[str, ...] = EMOTIONS
    identity: Literal["arcface", "pixels"] = "arcface"
    log_mel: LogMelConfig | None = None
    notes: str = ""

    @property
    def audio_features(self) -> str:
        """What the numbers that its audio projection takes are, in words."""
        return self.log_mel.text if self.log_mel else "wav2vec2"

    def to_json(self) -> str:
        """model.json's text."""
        parts = {
            name: {**dataclasses.asdict(part), "config": dataclasses.asdict(part.config)}
            for name, part in self.parts.items()
        }
        return json.dumps(
            {
                "format": FORMAT,
                "name": self.name,
                "notes": self.notes,
                "sampler": dataclasses.asdict(self.sampler),
                "emotions": list(self.emotions),
                "identity": self.identity,
                "log_mel": dataclasses.asdict(self.log_mel) if self.log_mel else None,
                "components": parts,
            },
            indent=1,
        )


def read_spec(folder: Path, *, whole: bool = True) -> ModelSpec:
    """The spec of a native model folder; unless `whole`, it need not have every component.

    Raises:
      UserError: model.json is missing, not JSON, of a newer format, or holds a config that does
        not make sense.
    """
    path = folder / "model.json"
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}; is this a model?") from error
    try:
        if data["format"] != FORMAT:
            raise UserError(
                f"{path} has format {data['format']}, this version reads {FORMAT}; "
                "update memo_jax or convert the model again"
            )
        parts = {
            name: Part(
                _config(component(name).config, part["config"]),
                part.get("origin", ""),
                part.get("licence", ""),
            )
            for name, part in data["components"].items()
        }
        missing = [name for name in REQUIRED if name not in parts]
        if missing and whole:
            raise UserError(
                f"{path} lacks the component(s) {', '.join(missing)}; a model that makes video has "
                "them: import them together"
            )
        log_mel = data.get("log_mel")
        spec = ModelSpec(
            name=data["name"],
            sampler=_config(SamplerConfig, data["sampler"]),
            parts=parts,
            emotions=_tuple(data["emotions"]),
            identity=data["identity"],
            log_mel=_config(LogMelConfig, log_mel) if log_mel else None,
            notes=data.get("notes", ""),
        )
        check_types(spec)
        return spec
    except UserError as error:
        text = one_line(error)
        raise UserError(text if str(path) in text else f"{path}: {text}") from error
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{path} is not a model description: {one_line(repr(error))}") from error


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _config(kind: Any, fields: Mapping[str, Any]) -> Any:
    config = kind.from_dict(fields)
    check_types(config)
    return config


def check_types(config: Any) -> None:
    """JSON's values against the fields' types, which a dataclass does not look at."""
    hints = get_type_hints(type(config))
    for f in dataclasses.fields(config):
        if not _fits(getattr(config, f.name), hints[f.name]):
            kind = f.type.__name__ if isinstance(f.type, type) else str(f.type)
            raise UserError(
                f"{type(config).__name__}: {f.name} is {getattr(config, f.name)!r}, "
                f"expected {kind.removeprefix('typing.')}"
            )


def _fits(value: Any, hint: Any) -> bool:
    kinds = get_args(hint)
    if get_origin(hint) is Literal:
        return value in kinds
    if get_origin(hint) is tuple:
        if not isinstance(value, tuple):
            return False
        each = kinds[:1] * len(value) if kinds[-1] is ... else kinds
        return len(each) == len(value) and all(map(_fits, value, each))
    if dataclasses.is_dataclass(hint):
        check_types(value)
    if hint is float:
        return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
    return type(value) is hint if hint in (int, bool, str) else True
