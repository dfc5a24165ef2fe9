"""The one table of corpora: languages, speakers, what their labels mean, how to read them.

The paper trains on 25: 23 of EmoBox's, RAVDESS-song and MTG-Jamendo. Which 23 of the 32 that
EmoBox has was not to be found out, so all 32 are here. Label names and layouts are those of the
corpora and of EmoBox's metadata (Ma et al., Interspeech 2024). To correct a meaning, correct its
row: labels are compared without regard to case.
"""

import difflib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from memo_jax.audio.emotion import EMOTIONS
from memo_jax.errors import UserError, one_line
from memo_jax.train.emotion import layouts
from memo_jax.train.emotion.readers import (
    LISTINGS,
    Listing,
    Reader,
    Recording,
    Sheet,
    listed,
    named,
    tabled,
)

CLASSES = ("angry", "disgusted", "fearful", "happy", "neutral", "sad", "surprised", "others")
"""The paper's eight."""

OUTPUT = {name: EMOTIONS.index("other" if name == "others" else name) for name in CLASSES}
"""Class -> the classifier's output. The release's ninth output, "unknown", is never a target."""

LEFT_OUT = ""
"""Stands for a class where annotators did not agree, or where a label names no emotion."""


@dataclass(frozen=True)
class Corpus:
    """One corpus.

    Attributes:
      title: as papers write it.
      speakers: whether it names its speakers.
      classes: label (casefolded) -> one of `CLASSES`, or `LEFT_OUT`.
      read: lists its folder.
      pattern: where a path says the label and the speaker (`readers.named`).
    """

    title: str
    language: str
    speakers: bool
    classes: dict[str, str]
    read: Reader
    pattern: str = ""

    def class_of(self, label: str) -> str:
        """The class of a label, or of several joined by "|".

        Several mean one class when they agree, apart from those that are left out; "others" gives
        way to a class that says more. Raises KeyError for a label that is not in the table.
        """
        found = {self.classes[part.strip().casefold()] for part in label.split("|")} - {LEFT_OUT}
        if len(found) > 1:
            found.discard("others")
        return found.pop() if len(found) == 1 else LEFT_OUT


def merge(left_out: str = "", **classes: str) -> dict[str, str]:
    """{label: class} of the labels that each class merges, divided by spaces."""
    assert set(classes) <= set(CLASSES), classes
    pairs = [(label, name) for name, labels in classes.items() for label in labels.split()]
    pairs += [(label, LEFT_OUT) for label in left_out.split()]
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


def _by_name(title: str, language: str, pattern: str, aside: str = "", **classes: str) -> Corpus:
    speakers = "(?P<speaker>" in pattern
    return Corpus(title, language, speakers, merge(**classes), named(pattern, aside), pattern)


def _ravdess(title: str, channel: str, other: str) -> Corpus:
    # Files are modality-channel-emotion-intensity-statement-repetition-actor; modality 3 is sound.
    ending = r"-\d\d-\d\d-\d\d"
    return _by_name(
        title,
        "English",
        rf"03-{channel}-(?P<label>\d\d){ending}-(?P<speaker>\d\d)",
        rf"(?:0[12]-\d\d|03-{other})-\d\d{ending}-\d\d",
        neutral="01 neutral 02 calm",
        happy="03 happy",
        sad="04 sad",
        angry="05 angry",
        fearful="06 fearful",
        disgusted="07 disgust",
        surprised="08 surprised",
    )


_ENGLISH = {
    "angry": "angry anger",
    "disgusted": "disgusted disgust",
    "fearful": "fearful fear",
    "happy": "happy happiness joy",
    "neutral": "neutral neutrality",
    "sad": "sad sadness",
    "surprised": "surprised surprise",
}
_MELD = "dia{Dialogue_ID}_utt{Utterance_ID}"

CORPORA = {
    "aesdd": _by_name(
        "AESDD",
        "Greek",
        r"(?P<label>[a-z])\d+ *\(0*(?P<speaker>\d+)\)[^/]*",
        angry="a",
        disgusted="d",
        fearful="f",
        happy="h",
        sad="s",
    ),
    "ased": _by_name(
        "ASED",
        "Amharic",
        r"(?P<label>[a-z])\d+-\d+-\d+-\d+-(?P<speaker>\d+)",
        angry="a",
        fearful="f",
        happy="h",
        neutral="n",
        sad="s",
    ),
    "asvpesd": _by_name(
        "ASVP-ESD",
        "mixed",
        r"\d+-\d+-(?P<label>\d\d)-\d+-\d+-(?P<speaker>\d+)-[^/]*",
        others="01 11 12 13",  # boredom, pain, disappointment, breath
        neutral="02",
        happy="03 09 10",  # and excited, pleasure
        sad="04",
        angry="05",
        fearful="06",
        disgusted="07",
        surprised="08",
        left_out="17",
    ),
    "cafe": _by_name(
        "CaFE",
        "French",
        r"(?P<speaker>\d\d)-(?P<label>[a-z])-\d-\d",
        angry="c",
        disgusted="d",
        happy="j",
        neutral="n",
        fearful="p",
        surprised="s",
        sad="t",
    ),
    "casia": _by_name(
        "CASIA", "Mandarin", r"(?P<speaker>[^/]+)/(?P<label>[a-z]+)/[^/]+", **_ENGLISH
    ),
    "cremad": _by_name(
        "CREMA-D",
        "English",
        r"(?P<speaker>\d{4})_[a-z]+_(?P<label>[a-z]+)_[a-z]+",
        angry="ang",
        disgusted="dis",
        fearful="fea",
        happy="hap",
        neutral="neu",
        sad="sad",
    ),
    "emns": Corpus(
        "EMNS",
        "English",
        False,  # one speaker
        merge(
            **_ENGLISH | {"happy": "happy happiness joy excited excitement"},
            others="sarcastic sarcasm",
        ),
        tabled(
            Sheet("**/metadata.csv", "{audio_recording}", "emotion", delimiter="|", anywhere=True)
        ),
    ),
    "emodb": _by_name(
        "EmoDB",
        "German",
        r"(?P<speaker>\d\d)[a-z]\d\d(?P<label>[a-z])[a-z]?",
        angry="w anger",
        others="l boredom boredem",
        disgusted="e disgust",
        fearful="a fear",
        happy="f happy happiness",
        sad="t sad sadness",
        neutral="n neutral",
    ),
    "emovdb": _by_name(
        "EmoV-DB",
        "English",
        r"(?P<speaker>[a-z]+)_(?P<label>[a-z]+)/[^/]+",
        **_ENGLISH | {"happy": "amused"},
        others="sleepy",
    ),
    "emovo": _by_name(
        "EMOVO",
        "Italian",
        r"(?P<label>[a-z]+)-(?P<speaker>[mf]\d)-[a-z]\d",
        neutral="neu",
        disgusted="dis",
        happy="gio",
        fearful="pau",
        angry="rab",
        surprised="sor",
        sad="tri",
    ),
    "emozionalmente": Corpus(
        "Emozionalmente",
        "Italian",
        True,
        merge(**_ENGLISH),
        tabled(Sheet("**/samples.csv", "{file_name}", "emotion_expressed", "actor")),
    ),
    "enterface": _by_name(
        "eNTERFACE",
        "English",
        r"s_?(?P<speaker>\d+)_(?P<label>[a-z]+)_?\d*",
        angry="an",
        disgusted="di",
        fearful="fe",
        happy="ha",
        sad="sa",
        surprised="su",
    ),
    "esd": _by_name(
        "ESD",
        "English, Mandarin",
        r"(?P<speaker>\d{4})/(?P<label>[^/]+)/(?:(?:train|test|evaluation)/)?[^/]+",
        **_ENGLISH,
    ),
    "iemocap": Corpus(
        "IEMOCAP",
        "English",
        True,
        merge(
            angry="ang",
            disgusted="dis",
            fearful="fea",
            happy="hap exc",  # excited, as EmoBox merges it
            neutral="neu",
            sad="sad",
            surprised="sur",
            others="fru oth",
            left_out="xxx",
        ),
        layouts.iemocap,
        r"(?P<speaker>Ses\d\d)[FM]_[^/]+_(?P<voice>[FM])[^_/]*",
    ),
    "jlcorpus": _by_name(
        "JL-Corpus",
        "English",
        r"(?P<speaker>(?:fe)?male\d)_(?P<label>[a-z]+)_[^/]+",
        angry="angry",
        happy="happy excited",
        neutral="neutral",
        sad="sad",
        fearful="anxious",
        others="apologetic assertive concerned encouraging",
    ),
    "m3ed": Corpus("M3ED", "Mandarin", True, merge(**_ENGLISH), layouts.m3ed),
    "mead": _by_name(
        "MEAD",
        "English",
        r"(?P<speaker>[mw]\d+)/audio/(?P<label>[a-z]+)/level_\d/[^/]+",
        r"(?:[mw]\d+/)?video/.*",
        **_ENGLISH,
        others="contempt",
    ),
    "meld": Corpus(
        "MELD",
        "English",
        True,
        merge(**_ENGLISH),
        tabled(
            *(
                Sheet(f"**/{part}_sent_emo.csv", f"{place}/{_MELD}", "Emotion", "Speaker")
                for part, place in (
                    ("train", "train_splits"),
                    ("dev", "dev_splits_complete"),
                    ("test", "output_repeated_splits_test"),
                )
            )
        ),
    ),
    "mer2023": Corpus(
        "MER2023",
        "Mandarin",
        False,
        merge(**_ENGLISH | {"fearful": "worried"}),
        tabled(Sheet("**/*-label.csv", "{name}", "discrete")),
    ),
    # Its files name a kind of voice (woman, man, child), not who speaks.
    "mesd": _by_name("MESD", "Spanish", r"(?P<label>[a-z]+)_[fmc]_[ab]_[^/]+", **_ENGLISH),
    "msppodcast": Corpus(
        "MSP-Podcast",
        "English",
        True,
        merge(
            angry="a",
            disgusted="d",
            fearful="f",
            happy="h",
            neutral="n",
            sad="s",
            surprised="u",
            others="c o",  # contempt, other
            left_out="x",  # no agreement
        ),
        tabled(Sheet("**/labels_con*ensus.json", "{key}", "EmoClass", "SpkrID")),
    ),
    "oreau": _by_name(
        "Oreau",
        "French",
        r"(?P<speaker>\d\d)[^/]{3}(?P<label>[a-z])[^/]*",
        angry="c",
        disgusted="d",
        happy="j",
        neutral="n",
        fearful="p",
        surprised="s",
        sad="t",
    ),
    "pavoque": Corpus(
        "PAVOQUE",
        "German",
        False,  # one speaker
        merge(angry="angry", happy="happy", neutral="neutral", sad="sad", others="poker"),
        layouts.pavoque,
    ),
    "polish": _by_name(
        "Polish",
        "Polish",
        r"(?P<speaker>[^/._]+)\.(?P<label>[a-z])_[^/]+",
        angry="a",
        neutral="n",
        fearful="s",
    ),
    "ravdess": _ravdess("RAVDESS", "01", "02"),
    "resd": Corpus(
        "RESD",
        "Russian",
        False,
        merge(**_ENGLISH | {"happy": "happiness enthusiasm"}),
        tabled(
            Sheet("**/train.csv", "{path}", "emotion"), Sheet("**/test.csv", "{path}", "emotion")
        ),
    ),
    "savee": _by_name(
        "SAVEE",
        "English",
        r"(?P<speaker>[a-z]{2})[_/](?P<label>[a-z]+)\d\d",
        angry="a",
        disgusted="d",
        fearful="f",
        happy="h",
        neutral="n",
        sad="sa",
        surprised="su",
    ),
    "shemo": _by_name(
        "ShEMO",
        "Persian",
        r"(?P<speaker>[fm]\d\d)(?P<label>[a-z])\d+",
        angry="a angry",
        fearful="f fearful",
        happy="h happy",
        neutral="n neutral",
        sad="s sad",
        surprised="w surprised",
    ),
    "subesco": _by_name(
        "SUBESCO",
        "Bangla",
        r"(?P<voice>[fm])_(?P<speaker>\d+)_[^/]+_s_\d+_(?P<label>[a-z]+)_\d+",
        **_ENGLISH,
    ),
    "tess": _by_name(
        "TESS",
        "English",
        r"(?P<speaker>[oy]a)f?_[^/_]+_(?P<label>[a-z]+)",  # one file lacks its f
        **_ENGLISH | {"surprised": "ps"},
    ),
    "turevdb": _by_name(
        "TurEV-DB",
        "Turkish",
        r"(?P<label>[a-z]+)/(?P<speaker>[^/_]+)_[^/]+",
        angry="angry",
        happy="happy",
        neutral="calm",
        sad="sad",
    ),
    "urdu": _by_name(
        "URDU",
        "Urdu",
        r"(?P<speaker>s[mf]\d+)_f\d+_(?P<label>[a-z])\d+",
        angry="a",
        happy="h",
        neutral="n",
        sad="s",
    ),
    "ravdess-song": _ravdess("RAVDESS-song", "02", "01"),
    "mtg-jamendo": Corpus(
        "MTG-Jamendo",
        "music",
        True,  # artists
        # Its 59 tags mix moods with uses, genres and themes, which say nothing of an emotion. The
        # paper does not say how it merged them.
        merge(
            happy="fun funny happy hopeful party positive upbeat uplifting",
            sad="melancholic sad",
            fearful="horror",
            neutral="calm meditative mellow relaxing soft",
            others="cool dark deep drama dramatic dream emotional energetic epic groovy heavy "
            "inspiring love motivational powerful romantic sexy",
            left_out="action adventure advertising ambiental background ballad children christmas "
            "commercial corporate documentary fast film game holiday melodic movie nature retro "
            "slow soundscape space sport summer trailer travel",
        ),
        layouts.jamendo,
    ),
}


def read_corpus(name: str, place: Path) -> tuple[list[tuple[Recording, str]], list[str]]:
    """The recordings of a corpus with the class of each, and what could not be used, by name.

    Args:
      name: of `CORPORA`, or any other for a listing whose labels are `CLASSES` themselves.
      place: the corpus's folder as published, or a listing (`readers.listed`).

    Raises:
      UserError: no such corpus or folder, labels that the table does not have (all are named), or
        more than a few files that are not what the corpus's are.
    """
    corpus = corpus_named(name, place)
    if place.suffix.lower() in LISTINGS and place.is_file():
        listing = listed(place, corpus.pattern)
    elif place.is_dir():
        try:
            listing = corpus.read(place)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{name}: {place} is not laid out as it is published: {one_line(repr(error))}"
            ) from error
    else:
        kinds = ", ".join(LISTINGS)
        raise UserError(f"{name}: {place} is no folder and no listing ({kinds}); check the path")
    listing = listing.judged(place)
    unknown: Counter[str] = Counter()
    found = []
    for recording in listing.recordings:
        try:
            kind = corpus.class_of(recording.label)
        except KeyError as error:
            unknown[error.args[0]] += 1
            continue
        if kind != LEFT_OUT:
            found.append((recording, kind))
    if unknown:
        labels = ", ".join(f"{label!r} ({n} files)" for label, n in unknown.most_common(12))
        raise UserError(
            f"{name} at {place} has labels that the table does not: {labels}; it has "
            f"{', '.join(corpus.classes)}"
        )
    if not found:
        raise UserError(f"{name} at {place}: every label is one that is left out")
    return found, listing.skipped


def corpus_named(name: str, place: Path) -> Corpus:
    """The corpus of that name; for a listing of another name, one whose labels are the classes.

    Raises:
      UserError: it is not in the table, and `place` is no listing.
    """
    if name in CORPORA:
        return CORPORA[name]
    if place.suffix.lower() not in LISTINGS:
        near = difflib.get_close_matches(name, CORPORA, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(
            f"no corpus {name!r}; {hint}expected one of {', '.join(CORPORA)}, or a listing of "
            "your own"
        )
    own = {label: label for label in CLASSES} | {"other": "others"}
    return Corpus(name, "", True, own, lambda folder: Listing())
