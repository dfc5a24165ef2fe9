"""Why a video or a part of one is not used, by short codes."""

from dataclasses import dataclass

from memo_jax.errors import one_line

REASONS = {
    "missing": "the file is not there, or may not be read",
    "empty": "the file has no bytes",
    "unreadable": "no media, or damaged so that nothing can be decoded",
    "truncated": "the file ends before the length that it states",
    "no-pictures": "no video stream",
    "rate": "a frame rate out of the range",
    "no-sound": "no audio stream, or one that does not cover the clip",
    "silent": "nothing to hear",
    "short": "a shot, or what is left of one, shorter than the shortest clip",
    "no-head": "no head is seen",
    "head-lost": "the head is away for a part of the shot",
    "two-heads": "more than one head",
    "cut-off": "the head is not whole in the picture",
    "small": "the head has too few pixels",
    "blurred": "not sharp",
    "exposure": "too dark or too bright",
    "quality": "below HyperIQA's threshold",
    "sync": "lips and sound do not go together",
    "offset": "the sound is shifted, by more than is corrected",
    "record": "a clip that the schema refuses",
    "review": "dropped in review",
    "failed": "an error of the program; the next run tries the video again",
}
"""Code -> what it means."""


class Reject(Exception):
    """This clip, or all of this video, is not used; `code` is one of REASONS."""

    def __init__(self, code: str, text: str):
        assert code in REASONS, code
        super().__init__(f"{code}: {one_line(text)}")
        self.code = code
        self.text = one_line(text)


@dataclass(frozen=True)
class Rejected:
    """A line of rejects.jsonl.

    Attributes:
      video: its name, relative to the input's folder.
      start: seconds from its start; with `end`, 0 where all of the video is meant.
      end: seconds.
      code: one of REASONS.
      text: one line.
    """

    video: str
    start: float
    end: float
    code: str
    text: str
