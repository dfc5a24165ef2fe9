"""Why a record is not imported, and how many may be that way before the import stops."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from memo_jax.data import clip
from memo_jax.errors import UserError, one_line

REASONS: Mapping[str, str] = clip.REASONS | {
    "checksum": "bytes that are not what their checksum says",
    "truncated": "the file ends within it",
    "example": "no tf.train.Example or SequenceExample",
    "feature": "a feature that the map names is not there, or of another kind",
    "video": "a video that cannot be decoded",
    "sound": "no sound, or sound that cannot be decoded",
    "face": "no face to crop to",
}
"""What the codes mean."""

# The first records are judged as so many, because a few bad ones among a few tell nothing yet.
FEW = 1000


class Unusable(Exception):
    """A record that makes no clip; `code` is one of REASONS."""

    def __init__(self, code: str, text: object) -> None:
        self.code, self.text = code, one_line(text)[:300]
        super().__init__(f"{code}: {self.text}")


@dataclass
class Tally:
    """Counts of the records of all files.

    Attributes:
      limit: more than this share of them makes no clips: `judge` raises.
      seen: all records, those that were lost too.
      bad: how many make no clip, by code.
      names: of those in order, and why.
    """

    limit: float
    seen: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    names: list[tuple[str, str]] = field(default_factory=list)

    def add_good(self, count: int = 1) -> None:
        """Count records that make clips."""
        self.seen += count

    def add_bad(self, name: str, code: str, text: str, lost: int) -> None:
        """Count one that makes none, or the `lost` ones that one damage costs."""
        self.seen += lost
        self.bad[code] += lost
        self.names.append((name, f"{code}: {text}"))

    def judge(self, *, whole: bool = False) -> None:
        """Raises UserError where too many make no clips, of all records if that is the `whole`."""
        if self.bad.total() > self.limit * (self.seen if whole else max(self.seen, FEW)):
            raise UserError(
                f"{self}; that is more than {self.limit:.3g} of them: mend them, or allow more by "
                "--bad-share"
            )

    def __str__(self) -> str:
        text = f"{self.bad.total()} of {self.seen} records make no clip"
        if self.bad:
            why = ", ".join(f"{n} {code} ({REASONS[code]})" for code, n in self.bad.items())
            first = "; ".join(f"{name} {reason}" for name, reason in self.names[:3])
            text = f"{text}: {why}; the first: {first}"
        return text
