"""Folders of corpora that say what they hold in formats of their own."""

import re
from pathlib import Path

import yaml

from memo_jax.errors import UserError, one_line
from memo_jax.train.emotion.readers import Folder, Listing, Recording, add, rows


def iemocap(folder: Path) -> Listing:
    """Labels are in Session*/dialog/EmoEvaluation/*.txt, behind times and the utterance's name."""
    listing, sounds = Listing(), Folder(folder)
    line = re.compile(r"^\[[\d. -]+\]\t(\w+)\t(\w{3})\t", re.MULTILINE)
    for file in sorted(folder.glob("**/EmoEvaluation/*.txt")):
        for name, label in line.findall(file.read_text("utf-8", errors="replace")):
            # The first letter names who wore the markers, the last part who speaks.
            speaker = name[:5] + name.rsplit("_", 1)[-1][0]
            add(listing, sounds, name, label, speaker)
    return listing


def m3ed(folder: Path) -> Listing:
    """annotation.json: film -> clip -> Dialog -> utterance; speakers are A and B of a clip, with
    names that hold throughout the film."""
    listing, sounds = Listing(), Folder(folder)
    for file in folder.glob("**/annotation.json"):
        for film in rows(file):
            for clip in (clip for name, clip in film.items() if name != "key"):
                for name, said in clip["Dialog"].items():
                    who = clip["SpeakerInfo"][said["Speaker"]]["Name"]
                    label = said["EmoAnnotation"]["final_main_emo"]
                    path = f"{said['Speaker']}_{name}"
                    add(listing, sounds, path, label, f"{film['key']} {who}")
    return listing


def pavoque(folder: Path) -> Listing:
    """A YAML file beside each long recording lists its sentences: prompt, style, start and end."""
    listing, sounds = Listing(), Folder(folder)
    for file in sorted(folder.glob("**/*.yaml")):
        path = sounds.find(file.relative_to(folder).with_suffix("").as_posix())
        try:
            entries = yaml.load(
                file.read_text("utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            )
        except (ValueError, yaml.YAMLError) as error:
            raise UserError(f"{file} cannot be read: {one_line(error)}") from error
        for entry in entries:
            if path is None:
                listing.skipped.append(f"{file.name}: {entry['prompt']}")
                continue
            times = float(entry["start"]), float(entry["end"])
            listing.recordings.append(Recording(path, entry["style"], "speaker", *times))
    return listing


def jamendo(folder: Path) -> Listing:
    """autotagging_moodtheme.tsv: track, artist, album, path, duration, then tags to the line's end.

    The archives' files may be named `.low.mp3` where the sheet says `.mp3`.
    """
    listing, sounds = Listing(), Folder(folder)
    for file in folder.glob("**/autotagging_moodtheme.tsv"):
        for line in file.read_text("utf-8").splitlines()[1:]:
            _, artist, _, path, _, *tags = line.split("\t")
            low = path.removesuffix(".mp3") + ".low"
            label = "|".join(tag.rpartition("---")[2] for tag in tags)
            add(listing, sounds, low if sounds.find(low) else path, label, artist)
    return listing
