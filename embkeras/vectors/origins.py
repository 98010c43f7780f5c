"""Where each row of an aligned matrix came from, in 2 bytes a row: a pair of strings for each would take 64."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from embkeras.text.vocabulary import Vocabulary

EXACT, OOV, SPECIAL = "exact", "oov", "special"


class Origins(Sequence[tuple[str, str]]):
    """For each id (spelling found, how); the spelling is "" where none was found. Begins with "special" and "oov".

    Args:
        vocabulary: whose tokens they are.

    Examples:
        >>> origins = Origins(Vocabulary(["", "[UNK]", "cat", "Dog"]))
        >>> origins.mark([2], "exact")
        >>> origins.spelled(3, "dog", "lower")
        >>> origins[1:]
        (('', 'special'), ('cat', 'exact'), ('dog', 'lower'))
    """

    def __init__(self, vocabulary: Vocabulary):
        self._tokens, self._special = vocabulary.tokens, sorted(vocabulary.special_ids)
        self._codes, self._names = np.zeros(len(vocabulary), np.uint16), {OOV: 0}
        self._spellings: dict[int, str] = {}  # where it is not the token
        self.mark(self._special, SPECIAL)

    def mark(self, ids: Any, how: str) -> None:
        """Say how the rows of some ids (an array of ids, or a mask) came to be; special ones stay special."""
        self._codes[ids] = self._names.setdefault(how, len(self._names))
        self._codes[self._special] = self._names.setdefault(SPECIAL, len(self._names))

    def spelled(self, id_: int, spelling: str, how: str) -> None:
        """Say in which spelling the row of an id was found."""
        self._codes[id_] = self._names.setdefault(how, len(self._names))
        self._spellings[id_] = spelling

    def __len__(self) -> int:
        return len(self._codes)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        names = list(self._names)
        for id_, code in enumerate(self._codes.tolist()):
            how = names[code]
            yield (self._tokens[id_] if how == EXACT else self._spellings.get(id_, "")), how

    def __getitem__(self, place: Any) -> Any:
        """The pair of an id, or a tuple of those of a slice."""
        ids = range(len(self))[place]  # raises IndexError for an id out of range
        if isinstance(ids, range):
            return tuple(self[id_] for id_ in ids)
        how = list(self._names)[self._codes[ids]]
        return (self._tokens[ids] if how == EXACT else self._spellings.get(ids, "")), how

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]
