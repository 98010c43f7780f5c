"""Words with tags, as an encoder's pieces with labels: a word's tag belongs to its first piece."""

from collections.abc import Sequence

import numpy as np

from embkeras._checks import is_whole, sequence, shown, strings, whole_number
from embkeras.errors import ArgumentError, VocabularyError
from embkeras.text.pieces import PieceTokenizer
from embkeras.text.vocabulary import Vocabulary


def encode_tagged(
    vocabulary: Vocabulary,
    sentences: Sequence[Sequence[str]],
    tags: Sequence[Sequence[int]] | None = None,
    length: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, labels and weights of sentences that are split into words.

    Args:
        vocabulary: that of an encoder, `read.tokenizer`.
        sentences: the words of each.
        tags: the number of each word's tag; by default all are 0, for prediction.
        length: pieces of a row; longer sentences lose their last words. By default those of the longest.

    Returns:
        Ids int64, labels int64 and weights float32, each (sentences, length). The weight is 1 for the first piece of each
        word, whose label is the word's tag, and 0 elsewhere: pass it as `sample_weight`, and read predictions where it is 1.

    Raises:
        VocabularyError: another vocabulary, words that are no strings, or a `length` that leaves no room.
        ArgumentError: not one tag for each word, or a tag below 0.

    Examples:
        >>> ids, labels, weights = encode_tagged(read.tokenizer, [["Ann", "slept"]], [[1, 0]])  # doctest: +SKIP
    """
    tokenizer = vocabulary.tokenizer if isinstance(vocabulary, Vocabulary) else None
    if not isinstance(tokenizer, PieceTokenizer) or vocabulary.padding_id is None:
        raise VocabularyError(
            f"encode_tagged takes the vocabulary of an encoder, from Vocabulary.from_tokenizer, with padding. "
            f"Received: {shown(vocabulary)}."
        )
    before, behind = tokenizer.frame
    if length is not None:
        whole_number(length, "length", least=before + behind + 1, error=VocabularyError)
    sentences = [strings(words, "words", error=VocabularyError) for words in sequence(sentences, "sentences")]
    listed = [[0] * len(words) for words in sentences] if tags is None else list(sequence(tags, "tags"))
    if len(listed) != len(sentences):
        raise ArgumentError(
            f"tags must be one list a sentence. Received: {len(listed)} for {len(sentences)} sentences."
        )
    rows = []
    for place, (words, own) in enumerate(zip(sentences, listed, strict=True)):
        pieces, word_of = tokenizer.of_words(words)
        own = list(sequence(own, f"tags[{place}]"))
        if len(own) != len(words) or not all(is_whole(tag) and tag >= 0 for tag in own):
            raise ArgumentError(
                f"tags must be one integer >= 0 a word. Received: {shown(own)} for {len(words)} words of sentence {place}."
            )
        kept = list(range(len(pieces)))
        if length is not None and len(pieces) > length:
            kept = [*range(length - behind), *range(len(pieces) - behind, len(pieces))]
        first = [word is not None and (at == 0 or word_of[at - 1] != word) for at, word in enumerate(word_of)]
        rows.append([(pieces[at], own[word_of[at] or 0] if first[at] else 0, first[at]) for at in kept])
    shape = len(rows), length or max([1, *map(len, rows)])
    ids, labels, weights = np.full(shape, vocabulary.padding_id), np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    for place, row in enumerate(rows):
        for at, (piece, tag, first_of_word) in enumerate(row):
            ids[place, at] = vocabulary.token_to_id.get(piece, vocabulary.oov_id)
            labels[place, at], weights[place, at] = tag, first_of_word
    return ids.astype(np.int64), labels, weights
