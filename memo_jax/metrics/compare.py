"""Two folders of videos -> the papers' table. Videos stream by, and what is left fits in memory."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from memo_jax.errors import UserError, one_line
from memo_jax.io.boxes import FaceFinder
from memo_jax.io.face import ArcFace, HaarFinder, OnnxFinder
from memo_jax.io.image import read_image
from memo_jax.io.paths import fail
from memo_jax.metrics.emotion import Emotion, EmotionJudge, OnnxEmotions, read_asked
from memo_jax.metrics.expression import Expression, Regressor
from memo_jax.metrics.features import FrameFeatures, WindowFeatures
from memo_jax.metrics.gather import Gathered, merged_curves
from memo_jax.metrics.identity import Identity
from memo_jax.metrics.inception import Preparation
from memo_jax.metrics.meters import Cache, Meter, measure
from memo_jax.metrics.networks import load_i3d, load_inception
from memo_jax.metrics.quality import Quality
from memo_jax.metrics.report import write_text
from memo_jax.metrics.rows import rows_of, warnings_of
from memo_jax.metrics.sync import MouthMeter, SyncMeter
from memo_jax.metrics.table import Broken, Example, Table
from memo_jax.metrics.videos import BrokenVideo, Where, list_videos, name_of
from memo_jax.weights.cache import sha256
from memo_jax.weights.judging import found_judges

WEIGHTS = {
    "fid": "InceptionV3 of 2015-12-05, for FID and KID",
    "fvd": "I3D of Kinetics-400, for FVD",
    "syncnet": "SyncNet, for Sync-C and Sync-D",
    "face_detector": "SCRFD as ONNX, which finds faces and their landmarks",
    "face_embedder": "ArcFace as ONNX, for identity; it needs the face detector",
    "regressor": "a 3DMM regressor as ONNX, for E-FID",
}
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
EXAMPLES = 6


@dataclass(frozen=True)
class Settings:
    """How videos are read.

    Attributes:
      fps: frames per second at which all are measured, so that both sets are seen alike.
      faces: "find" searches them; "portrait" takes every picture for the square around a head.
      preparation: of FID's pictures.
      step: FID sees every frame, or every `step`th.
      expression: columns of the regressor's output; None where they are known.
      portraits: a folder of pictures, by the videos' names, of whom videos should show.
      cache: where arrays are kept; None for the user's cache.
      keep: whether they are.
    """

    fps: float = 25.0
    faces: Where = "find"
    preparation: Preparation = "pytorch"
    step: int = 1
    expression: slice | None = None
    portraits: Path | None = None
    cache: Path | None = None
    keep: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.fps <= 120 or self.step < 1:
            raise UserError(
                f"fps {self.fps:g} and FID's step {self.step}; expected 1 to 120, and 1 at least"
            )


def compare(
    real: Path,
    generated: Path,
    output: Path,
    *,
    weights: Mapping[str, Path],
    settings: Settings | None = None,
    judge: EmotionJudge | None = None,
    asked: Path | None = None,
    quiet: bool = False,
) -> Table:
    """The table of a folder of generated videos beside a folder of real ones.

    A measure whose weights are not given is in the table with the reason. A video that cannot be
    read is listed and left out. Every video's own figures go to `videos.jsonl` in `output`.

    Args:
      real: a folder; videos of one name in both are pairs.
      generated: a folder.
      output: a folder, made where it is missing.
      weights: files by the names in `WEIGHTS`.
      settings: how videos are read.
      judge: of the emotion that faces show.
      asked: a CSV of the emotions asked for, by the videos' names (`emotion.read_asked`).
      quiet: no progress bar.

    Raises:
      UserError: no videos, none that can be read, weights that are not those meant, emotions of
        no video.
    """
    settings = settings or Settings()
    folders = {"real": Path(real), "generated": Path(generated)}
    paths = {key: list_videos(folder, f"--{key}") for key, folder in folders.items()}
    if strangers := sorted(set(weights) - set(WEIGHTS)):
        raise UserError(f"weights for {', '.join(strangers)}; expected some of {list(WEIGHTS)}")
    finder, where = _finder(weights, settings)
    meters = _meters(weights, settings)
    emotions = _asked(judge, asked, paths, folders)
    if judge is not None:
        meters.append(Emotion(judge))
    cache = Cache(settings.cache) if settings.cache else Cache.default()
    cache = cache if settings.keep else Cache(None)
    sets = {name: Gathered(settings.fps) for name in paths}
    broken: list[Broken] = []
    lines: list[str] = []
    with tqdm(total=sum(map(len, paths.values())), unit="video", disable=quiet) as bar:
        for key in ("real", "generated"):
            for path in paths[key]:
                name = name_of(path, folders[key])
                try:
                    found = measure(
                        path, meters, fps=settings.fps, finder=finder, where=where, cache=cache
                    )
                except BrokenVideo as error:
                    broken.append(Broken(key, name, one_line(error)))
                else:
                    reference = _reference(key, name, found, sets["real"], meters, finder, settings)
                    line = sets[key].add(name, found, reference, emotions.get(name))
                    lines.append(json.dumps({"set": key, "name": name} | line))
                bar.update()
    for key, one in sets.items():
        if not one.videos:
            first = next(b for b in broken if b.set == key)
            raise UserError(
                f"none of the {len(paths[key])} {key} videos can be measured; the first, "
                f"{first.name}: {first.reason}"
            )
    write_text(Path(output) / "videos.jsonl", "\n".join(lines) + "\n")
    rows, counts = rows_of(sets["real"], sets["generated"], meters)
    return Table(
        about=_about(folders, sets, settings, finder, weights),
        rows=rows,
        warnings=warnings_of(sets["real"], sets["generated"]),
        broken=tuple(broken),
        curves=merged_curves(sets),
        counts=counts,
        offsets={key: one.offsets for key, one in sets.items() if one.offsets},
        examples=_examples(paths, folders, broken),
    )


def _finder(weights: Mapping[str, Path], settings: Settings) -> tuple[FaceFinder | None, str]:
    """What finds faces, and a word that tells it apart."""
    if settings.faces == "portrait":
        return None, "portrait"
    if "face_detector" in weights:
        finder = OnnxFinder(weights["face_detector"])
        return finder, f"scrfd {sha256(Path(weights['face_detector']))}"
    return HaarFinder(), "haar"


def _meters(weights: Mapping[str, Path], settings: Settings) -> list[Meter]:
    if "face_embedder" in weights and (
        "face_detector" not in weights or settings.faces == "portrait"
    ):
        raise UserError(
            "a face embedder needs landmarks of faces that were found; give a face detector too, "
            "such as scrfd_10g_bnkps.onnx, and search faces"
        )
    meters: list[Meter] = [Quality(), MouthMeter()]
    if path := weights.get("fid"):
        inception = load_inception(path, preparation=settings.preparation)
        meters.append(FrameFeatures(inception, sha256(Path(path)), settings.step))
    if path := weights.get("fvd"):
        meters.append(WindowFeatures(load_i3d(path), sha256(Path(path))))
    if path := weights.get("syncnet"):
        from memo_jax.judges import syncnet

        meters.append(SyncMeter(syncnet.load(path), sha256(Path(path))))
    if path := weights.get("face_embedder"):
        meters.append(Identity(ArcFace(path), sha256(Path(path))))
    else:
        meters.append(Identity(None))
    if path := weights.get("regressor"):
        regressor = Regressor(path, settings.expression)
        meters.append(Expression(regressor, sha256(Path(path))))
    return meters


def _asked(
    judge: EmotionJudge | None,
    asked: Path | None,
    paths: dict[str, list[Path]],
    folders: dict[str, Path],
) -> dict[str, int]:
    """Name -> class of the judge."""
    if asked is None:
        return {}
    if judge is None:
        raise UserError("emotions are given and no judge of them; give --emotion-judge too")
    wanted = read_asked(asked, judge.classes)
    names = {name_of(path, folders[key]) for key, some in paths.items() for path in some}
    if not names & set(wanted):
        raise UserError(
            f"emotions {str(asked)!r} are of no video; expected names such as {min(names)!r}"
        )
    return {name: judge.classes.index(emotion) for name, emotion in wanted.items()}


def _reference(
    key: str,
    name: str,
    found: dict[str, dict[str, np.ndarray]],
    real: Gathered,
    meters: list[Meter],
    finder: FaceFinder | None,
    settings: Settings,
) -> np.ndarray | None:
    """The embedding of whom a video should show: a real one its own first face; a generated one
    the portrait of its name, else the first face of the real video of its name."""
    if key == "real":
        embeddings = found["identity"]["embeddings"]
        return embeddings[0] if len(embeddings) else None
    if settings.portraits is not None:
        meter = next(m for m in meters if isinstance(m, Identity))
        stems = [settings.portraits / f"{name}{suffix}" for suffix in PICTURES]
        for path in stems:
            if path.is_file():
                picture = read_image(path)
                faces = finder.find(picture) if finder else []
                embedded = meter.embed(picture, faces[0] if faces else None)
                if embedded is None:
                    raise fail(f"portrait {str(path)!r} shows no face that is found")
                return embedded
    return real.references.get(name)


def _examples(
    paths: dict[str, list[Path]], folders: dict[str, Path], broken: list[Broken]
) -> tuple[Example, ...]:
    """Generated videos from all over the set, those of real ones' names first."""
    out = {(b.set, b.name) for b in broken}
    real = {name_of(path, folders["real"]): path for path in paths["real"]}
    whole = [(name_of(p, folders["generated"]), p) for p in paths["generated"]]
    whole = [(name, path) for name, path in whole if ("generated", name) not in out]
    whole.sort(key=lambda one: one[0] not in real)
    pairs = [one for one in whole if one[0] in real] or whole
    chosen = [pairs[i * len(pairs) // EXAMPLES] for i in range(EXAMPLES)]
    shown = [
        Example(name, path, real[name] if name in real and ("real", name) not in out else None)
        for name, path in dict(chosen).items()
    ]
    return tuple(shown)


def _about(
    folders: dict[str, Path],
    sets: dict[str, Gathered],
    settings: Settings,
    finder: FaceFinder | None,
    weights: Mapping[str, Path],
) -> dict[str, str]:
    kind = "taken to be where portraits have them" if finder is None else type(finder).__name__
    return {
        **{name: f"{folders[name]}, {one.videos} videos" for name, one in sets.items()},
        "read at": f"{settings.fps:g} frames per second",
        "faces": kind,
        "FID's pictures": f"one frame of {settings.step}, prepared as {settings.preparation}'s",
        "weights": ", ".join(f"{name} {path}" for name, path in weights.items()) or "none",
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a comparison; `from_options` reads them."""
    group = parser.add_argument_group("comparing two folders of videos")
    group.add_argument("--real", metavar="DIR", help="real videos")
    group.add_argument("--generated", metavar="DIR", help="generated videos")
    for name, what in WEIGHTS.items():
        option = f"--{name.replace('_', '-')}-weights"
        group.add_argument(option, metavar="FILE", help=f"{what}; off for none")
    group.add_argument("--portraits", metavar="DIR", help="pictures, by the videos' names")
    group.add_argument("--fps", type=float, default=25.0, help="at which all videos are read")
    group.add_argument(
        "--faces",
        choices=("find", "portrait"),
        default="find",
        help="find them, or take every picture for the square around a head",
    )
    group.add_argument(
        "--fid-pictures",
        choices=("pytorch", "tensorflow"),
        default="pytorch",
        help="resized as pytorch-fid does, or as torch-fidelity and the first FID program do",
    )
    group.add_argument("--fid-step", type=int, default=1, help="FID sees every so many frames")
    group.add_argument(
        "--expression", metavar="A:B", help="columns of the regressor's output, for E-FID"
    )
    group.add_argument(
        "--emotion-judge",
        metavar="FILE",
        help="a classifier of faces' emotion as ONNX, or puppets, which knows drawn faces alone",
    )
    group.add_argument(
        "--emotion-classes", metavar="A,B,...", help="of the classifier, in its outputs' order"
    )
    group.add_argument(
        "--emotions", metavar="CSV", help="name,emotion: what was asked for, for emotion accuracy"
    )
    group.add_argument("--no-features-cache", action="store_true", help="keep no features on disk")


def from_options(args: argparse.Namespace) -> tuple[dict[str, Path], Settings]:
    """Weights and settings from parsed options. Weights that no option names are those in the
    judges' folder (`memo_jax.weights.judging`), where they are there.

    Raises:
      UserError: an option that cannot be what it is, or a file in the folder that is not the
        published one.
    """
    here = found_judges("memo_jax.evaluate")
    given = {name: getattr(args, f"{name}_weights") for name in WEIGHTS}
    given = {name: here.get(name) if path is None else path for name, path in given.items()}
    given = {name: None if path == "off" else path for name, path in given.items()}
    portraits = Path(args.portraits) if args.portraits else None
    if portraits is not None and not portraits.is_dir():
        raise fail(f"--portraits {args.portraits!r} is no folder; give one that holds pictures")
    settings = Settings(
        fps=args.fps,
        faces=args.faces,
        preparation=args.fid_pictures,
        step=args.fid_step,
        expression=_columns(args.expression),
        portraits=portraits,
        keep=not args.no_features_cache,
    )
    return {name: Path(path) for name, path in given.items() if path}, settings


def emotion_judge(args: argparse.Namespace) -> EmotionJudge | None:
    """The classifier that parsed options name, where it is a file.

    Raises:
      UserError: no such classifier, or options that do not go together.
    """
    classes = [name.strip() for name in (args.emotion_classes or "").split(",") if name.strip()]
    if args.emotion_judge in (None, "puppets"):
        if classes:
            raise UserError("--emotion-classes are of a file that --emotion-judge names")
        return None
    return OnnxEmotions(args.emotion_judge, classes)


def _columns(text: str | None) -> slice | None:
    if text is None:
        return None
    parts: list[Any] = text.split(":")
    if len(parts) != 2 or not all(p.isdecimal() for p in parts) or int(parts[0]) >= int(parts[1]):
        raise UserError(f"--expression {text!r}; expected two whole numbers such as 80:144")
    return slice(int(parts[0]), int(parts[1]))
