"""What the folders of known corpora say of a video: who it is, and which emotion.

Layouts are those that the corpora's own pages and download scripts state. Where these leave
something open, it is said here, and nothing is guessed: a person who is not named is "".
"""

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memo_jax.audio.emotion import EMOTIONS
from memo_jax.errors import UserError
from memo_jax.prepare.embed import Span

CLASSES = {
    "angry": "angry anger",
    "disgusted": "disgusted disgust",
    "fearful": "fearful fear",
    "happy": "happy happiness",
    "neutral": "neutral",
    "other": "contempt",
    "sad": "sad sadness",
    "surprised": "surprised surprise",
}
"""Class -> the labels of MEAD's folders and CelebV-HQ's table that mean it."""

_OF = {label: name for name, labels in CLASSES.items() for label in labels.split()}
assert set(CLASSES) <= set(EMOTIONS)


@dataclass(frozen=True)
class Facts:
    """What a corpus says of one video.

    Attributes:
      corpus: its name, "" for a plain folder.
      identity: who it is, unique within the corpus; "" unknown.
      emotion: the class of the whole video; "" unknown.
      spans: classes of parts of it, where the corpus has these.
      sound: a file with its sound, where the video may have none.
      licence: what may be done with it, as the corpus's page says.
    """

    corpus: str = ""
    identity: str = ""
    emotion: str = ""
    spans: tuple[Span, ...] = ()
    sound: str = ""
    licence: str = ""


class NotOfCorpus(Exception):
    """A file that the corpus's layout does not know; it is passed over."""


Adapter = Callable[[Path], Facts]


def facts(corpus: str, path: Path) -> Facts:
    """What the corpus says of a video.

    Raises:
      NotOfCorpus: the path is none of the corpus's.
      UserError: no such corpus, or its table is damaged.
    """
    if not corpus:
        return Facts()
    if corpus not in CORPORA:
        raise UserError(f"no corpus {corpus!r}; expected one of {', '.join(CORPORA)}")
    return CORPORA[corpus](path)


def hdtf(path: Path) -> Facts:
    """HDTF: `WDA_BarackObama_000.mp4`: subset (RD, WDA or WRA), video, number of the clip.

    Who speaks is known by the video's name alone, so videos that the lists number, such as
    BarbaraLee0 and BarbaraLee1, count as several people. No emotions are labelled.
    """
    found = re.fullmatch(r"(?P<who>(?:RD|WDA|WRA)_.+?)(?:_\d+)?", path.stem)
    if not found:
        raise NotOfCorpus(f"{path.name}, expected such as WDA_BarackObama_000.mp4")
    return Facts("HDTF", found["who"], licence="CC BY 4.0 for the lists; videos are YouTube's")


def vfhq(path: Path) -> Facts:
    """VFHQ: `Clip+VIDEO+P0+C0+F100-250.mp4`: YouTube video, person in it, clip, frames.

    Published as lists (and frames without sound): the clips must be cut out of the videos, with
    their sound, and keep their names. No emotions are labelled.
    """
    found = re.fullmatch(r"Clip\+(?P<who>[^+]+\+P\d+)\+C\d+\+F\d+-\d+", path.stem)
    if not found:
        raise NotOfCorpus(f"{path.name}, expected such as Clip+VIDEO+P0+C0+F100-250.mp4")
    return Facts("VFHQ", found["who"], licence="see VFHQ's page")


def celebv_hq(path: Path) -> Facts:
    """CelebV-HQ: `VIDEO_0.mp4` beside or below `celebvhq_info.json`, which labels emotions.

    The table names no person: clips of one video need not show the same one.
    """
    table = _table(path, "celebvhq_info.json", "clips")
    if path.stem not in table:
        raise NotOfCorpus(f"{path.stem} is not in celebvhq_info.json")
    known: dict[str, Any] = {"corpus": "CelebV-HQ", "licence": "non-commercial research only"}
    felt = table[path.stem].get("attributes", {}).get("emotion", {})
    labels = felt.get("labels", "")
    if not felt.get("sep_flag"):
        return Facts(emotion=_class(labels), **known)
    spans = (
        Span(float(part["start_sec"]), float(part["end_sec"]), _class(part["emotion"]))
        for part in labels
    )
    return Facts(spans=tuple(spans), **known)


def multitalk(path: Path) -> Facts:
    """MultiTalk: `multitalk_dataset/LANGUAGE/CLIP.mp4`; `annotations/LANGUAGE.json` knows the clip.

    Neither people nor emotions are labelled. The table, where it is there, says what belongs.
    """
    folder = next((p / "annotations" for p in path.parents if (p / "annotations").is_dir()), None)
    table = None if folder is None else folder / f"{path.parent.name}.json"
    if table is not None and table.is_file() and path.stem not in _read(table):
        raise NotOfCorpus(f"{path.stem} is not in {table.name}")
    return Facts("MultiTalk", licence="see MultiTalk's page")


def mead(path: Path) -> Facts:
    """MEAD: `M003/video/front/angry/level_1/001.mp4`, sound in `M003/audio/angry/level_1/001.m4a`.

    Whether the videos hold their sound was not to be found out: one without takes the file's.
    """
    found = re.fullmatch(
        r"(?:.*/)?(?P<top>(?P<who>[MW]\d+)[^/]*)/(?:video/)+(?P<camera>\w+)/(?P<label>[a-z]+)/"
        r"(?P<level>level_\d)/(?P<name>[^/]+)\.\w+",
        path.as_posix(),
    )
    if not found or found["label"] not in _OF:
        raise NotOfCorpus(f"{path}, expected such as M003/video/front/angry/level_1/001.mp4")
    top = Path(path.as_posix()[: found.end("top")])
    sound = top / "audio" / found["label"] / found["level"] / f"{found['name']}.m4a"
    return Facts(
        "MEAD",
        found["who"],
        _class(found["label"]),
        sound=str(sound) if sound.is_file() else "",
        licence="research only, see MEAD's page",
    )


CORPORA: dict[str, Adapter] = {
    "hdtf": hdtf,
    "vfhq": vfhq,
    "celebv-hq": celebv_hq,
    "multitalk": multitalk,
    "mead": mead,
}
"""By the name that `--corpus` takes; a plain folder needs none."""


def _class(label: str) -> str:
    return _OF.get(label.strip().casefold(), "")


def _table(path: Path, name: str, key: str) -> dict[str, Any]:
    """The table of that name in a folder above the video."""
    for folder in path.parents:
        if (folder / name).is_file():
            return _read(folder / name).get(key, {})
    raise UserError(f"no {name} in any folder above {path}; put the corpus's table there")


@functools.lru_cache(maxsize=64)
def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read; download it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is no table of clips; download it again")
    return found
