"""What of a data set could not be used: how many, why, and which."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from memo_jax.data.clip import REASONS
from memo_jax.errors import UserError

NAMED = 100  # records; a list that is longer is read by nobody, and states hold it


@dataclass
class Report:
    """Counts of records that were seen, each time that they were.

    Attributes:
      limit: more than this share of them cannot be used: `judge` raises.
      after: records seen before that is judged.
      seen: records, those that could not be used too.
      reasons: how many could not be used, by their code in `clip.REASONS`.
      names: the first ones that could not be used, by name, and why.
      fallbacks: references that were of the same clip because no other was there.
    """

    limit: float = 0.01
    after: int = 100
    seen: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    names: dict[str, str] = field(default_factory=dict)
    fallbacks: int = 0

    @property
    def bad(self) -> int:
        """How many could not be used."""
        return self.reasons.total()

    def add(self, good: int, bad: Iterable[tuple[str, str, str]]) -> None:
        """Count `good` records, and bad ones as (name, code, text)."""
        self.seen += good
        for name, code, text in bad:
            self.seen += 1
            self.reasons[code] += 1
            if len(self.names) < NAMED:
                self.names.setdefault(name, f"{code}: {text}")

    def judge(self) -> None:
        """Raises UserError when more than `limit` of at least `after` records are bad."""
        if self.seen >= self.after and self.bad > self.limit * self.seen:
            raise UserError(f"{self}; more than {self.limit:.3g} of them: mend the data set")

    def __str__(self) -> str:
        """One line: how many, why, and the first few names."""
        text = f"{self.bad} of {self.seen} records cannot be used"
        if self.bad:
            why = ", ".join(f"{n} {code} ({REASONS[code]})" for code, n in self.reasons.items())
            first = "; ".join(f"{name} {reason}" for name, reason in [*self.names.items()][:3])
            text = f"{text}: {why}; the first: {first}"
        if self.fallbacks:
            text = f"{text}; {self.fallbacks} references are of the same clip"
        return text

    def to_dict(self) -> dict[str, Any]:
        """The counts, as JSON can hold them."""
        return {
            "seen": self.seen,
            "reasons": dict(self.reasons),
            "names": dict(self.names),
            "fallbacks": self.fallbacks,
        }

    def restore(self, counts: Mapping[str, Any]) -> None:
        """Go on from what `to_dict` gave."""
        self.seen, self.fallbacks = int(counts["seen"]), int(counts["fallbacks"])
        self.reasons, self.names = Counter(counts["reasons"]), dict(counts["names"])
