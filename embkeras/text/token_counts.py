"""TokenCounts: the tokens of a corpus, counted in parts that together make the vocabulary of the whole."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from embkeras._checks import sequence, shown, whole_number
from embkeras.errors import VocabularyError
from embkeras.text.tokenizer import WORDS, Tokenizer, check_tokenizer
from embkeras.text.vocabulary import Vocabulary, tokenized


@dataclass(frozen=True, eq=False, repr=False)
class TokenCounts:
    """How often each token occurs in some parts of a corpus, and where it came first.

    Count each part wherever it lies, add the counts in any order, and take the vocabulary: it is the one that
    `Vocabulary.from_texts` makes of the whole corpus, ids and fingerprint included. Counts are small next to texts, and can
    be pickled, so any engine can do the adding.

    Attributes:
        counts: token -> occurrences.
        partitions: the numbers of the parts.
        tokenizer: what split them.

    Examples:
        >>> first = TokenCounts.of(["a cat", "a dog"], partition=0)
        >>> second = TokenCounts.of(["the dog"], partition=1)
        >>> (second + first).vocabulary().tokens
        ('', '[UNK]', 'a', 'dog', 'cat', 'the')

        The guide "More than one machine" has the lines for Dask and Spark.
    """

    _found: Mapping[str, tuple[int, tuple[int, int]]] = field()  # occurrences; part, and the token's rank in it
    partitions: frozenset[int]
    tokenizer: Tokenizer

    @classmethod
    def of(cls, texts: Iterable[str], *, partition: int = 0, tokenizer: Tokenizer = WORDS) -> "TokenCounts":
        """Count one part of a corpus.

        Args:
            texts: the texts of this part, in their order; an iterator is read once.
            partition: the number of the part, from 0. Tokens of equal counts are ordered by it, then by their place in it.
            tokenizer: splits the texts; the same for all parts.

        Returns:
            The counts of this part, to be added to those of the others.

        Raises:
            VocabularyError: a `partition` below 0, not a Tokenizer, a single string, or something that is not a text.
        """
        check_tokenizer(tokenizer)
        partition = whole_number(partition, "partition", least=0, error=VocabularyError)
        texts = sequence(texts, "texts", error=VocabularyError)
        counter = Counter(token for tokens in tokenized(texts, tokenizer) for token in tokens)
        found = {token: (count, (partition, rank)) for rank, (token, count) in enumerate(counter.items())}
        return cls(found, frozenset([partition]), tokenizer)

    def __add__(self, other: "TokenCounts") -> "TokenCounts":
        """The counts of both.

        Args:
            other: counts of other parts.

        Returns:
            New counts; the two stay as they are.

        Raises:
            VocabularyError: a part that is in both, or parts that were split in another way.
        """
        if not isinstance(other, TokenCounts):
            return NotImplemented
        if twice := self.partitions & other.partitions:
            raise VocabularyError(
                f"Each part of a corpus counts once, and has a number of its own: TokenCounts.of(texts, partition=...). "
                f"Received twice: partition {min(twice)}."
            )
        if self.tokenizer != other.tokenizer:
            raise VocabularyError(
                f"All parts must be split alike. Received: {shown(self.tokenizer)} and {shown(other.tokenizer)}."
            )
        fewer, more = sorted((self._found, other._found), key=len)
        found = dict(more)
        for token, (count, place) in fewer.items():
            known = found.get(token)
            found[token] = (count, place) if known is None else (known[0] + count, min(known[1], place))
        return TokenCounts(found, self.partitions | other.partitions, self.tokenizer)

    def __radd__(self, other: object) -> "TokenCounts":
        """So that `sum(parts)` works, which begins at 0."""
        return self if other == 0 and isinstance(other, int) else NotImplemented

    @property
    def counts(self) -> Mapping[str, int]:
        """Token -> occurrences, in the order of the first appearance."""
        ordered = sorted(self._found.items(), key=lambda item: item[1][1])
        return MappingProxyType({token: count for token, (count, _) in ordered})

    def vocabulary(self, max_tokens: int | None = None, min_count: int = 1) -> Vocabulary:
        """The vocabulary that `Vocabulary.from_texts` makes of all texts, if all parts are in.

        Args:
            max_tokens: size of the vocabulary, at least 3: special tokens are included.
            min_count: occurrences that a token needs to get an id.

        Returns:
            The vocabulary, with its counts.

        Raises:
            VocabularyError: a part is missing, `max_tokens` < 3, `min_count` < 1, or no token is left.
        """
        missing = set(range(max(self.partitions))) - self.partitions
        if missing:
            raise VocabularyError(
                f"Parts are missing: partition {min(missing)} of {max(self.partitions) + 1}, counted from 0. "
                f"Received: {len(self.partitions)} parts."
            )
        return Vocabulary.from_counts(self.counts, max_tokens, min_count, tokenizer=self.tokenizer)

    def __len__(self) -> int:
        """The number of different tokens."""
        return len(self._found)

    def __repr__(self) -> str:
        total = sum(count for count, _ in self._found.values())
        return f"TokenCounts({len(self):,} tokens that occur {total:,} times, partitions {len(self.partitions)})"
