"""vectors_from_encoder: a static vector for each word of a vocabulary, from a pre-trained encoder."""

from typing import Any

import numpy as np
import tensorflow as tf

from embkeras._arrays import check_finite
from embkeras._checks import flag, one_of, shown, whole_number
from embkeras._progress import progress as shown_progress
from embkeras.encoders.reading import PretrainedEncoder
from embkeras.errors import ArgumentError, EncoderError, VocabularyError
from embkeras.text.pieces import PieceTokenizer
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.fallbacks import FALLBACKS, spellings
from embkeras.vectors.postprocess import reduce_width, weight_by_frequency, weight_by_rank
from embkeras.vectors.store import KeyedVectors, Provenance

_WEIGHTS = ("frequency", "rank")


def vectors_from_encoder(
    read: PretrainedEncoder,
    vocabulary: Vocabulary,
    *,
    dim: int | None = None,
    weigh: str | None = None,
    batch_size: int = 256,
    progress: bool | None = None,
) -> KeyedVectors:
    """Run each word of a vocabulary through an encoder: vectors for `align`, as if they came from a file.

    A word's vector is the mean of its pieces' vectors behind the last block; special pieces such as "[CLS]" don't count. The
    word is split as behind a space, without other words around it. This is the first step of model2vec
    (https://github.com/MinishLab/model2vec/blob/main/docs/what_is_model2vec.md); `dim` and `weigh` are the other two, in this
    order.

    The table is for models that keep it frozen; it costs what any table of that width costs. A word has the same vector in
    every sentence, so the encoder itself classifies better.

    Args:
        read: what `load_pretrained` returned, whole or trimmed. The smaller pieces of a trimmed one make other vectors.
        vocabulary: words, such as those of `Vocabulary.from_texts`. Its special ids are no words.
        dim: reduce the vectors to this width by principal component analysis; by default they are as wide as the encoder.
        weigh: "frequency" multiplies each vector by `weight_by_frequency` of the vocabulary's counts, "rank" by
            `weight_by_rank` for words in order of frequency (see `embkeras.vectors.postprocess`).
        batch_size: words that run at once. They run in order of length.
        progress: whether to show a progress bar.

    Returns:
        float32 vectors, in the order of the vocabulary. They lack words of which the encoder's tokenizer knows no piece (white
        space, control characters, most emoji): `align` fills their rows. Of a word with more pieces than the encoder takes, only
        the first count. `align` refuses to look for other words than these.

    Raises:
        ArgumentError: not a PretrainedEncoder, an argument out of range, too few words for `dim`, or `weigh="frequency"` for a
            vocabulary without counts.
        VocabularyError: not a vocabulary of words, or a word that is no valid Unicode.
        EncoderError: the tokenizer knows no piece of any word, the encoder returns NaN or infinity, or its file is damaged.

    Examples:
        >>> read = load_pretrained("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> vectors = vectors_from_encoder(read, vocabulary, dim=128)  # doctest: +SKIP
        >>> layer = build_embedding(align(vectors, vocabulary), trainable=False)  # doctest: +SKIP
    """
    if not isinstance(read, PretrainedEncoder):
        raise ArgumentError(
            f"vectors_from_encoder takes what load_pretrained(folder) returns. Received: {shown(read)}."
        )
    _check_words(vocabulary)
    if dim is not None:
        dim = whole_number(dim, "dim", least=1, most=read.width)
    if weigh is not None:
        one_of(weigh, "weigh", _WEIGHTS)
    if weigh == "frequency" and vocabulary.counts is None:
        raise ArgumentError(
            f"weigh='frequency' needs a vocabulary with counts, as Vocabulary.from_texts makes it; weigh='rank' needs words in "
            f"order of frequency alone. Received: {vocabulary!r}, which has no counts."
        )
    batch_size = whole_number(batch_size, "batch_size", least=1)
    rows = _Rows(read, vocabulary)
    if dim is not None and dim >= len(rows.words):
        raise ArgumentError(f"dim must be below the number of words. Received: {dim} for {len(rows.words)} words.")
    matrix = _means(read, rows, batch_size, None if progress is None else flag(progress, "progress"))
    check_finite(matrix, f"What the encoder in {str(read.folder)!r} returns", tokens=rows.words, error=EncoderError)
    if dim is not None:
        matrix = reduce_width(matrix, dim)
    if weigh is not None:
        counts = (
            None
            if vocabulary.counts is None
            else vocabulary.counts[[vocabulary.token_to_id[word] for word in rows.words]]
        )
        matrix = weight_by_rank(matrix) if weigh == "rank" else weight_by_frequency(matrix, counts)
    provenance = Provenance(str(read.folder), "encoder", rows=len(rows.words), wanted=rows.looked_for)
    return KeyedVectors(rows.words, matrix, provenance=provenance)


def _check_words(vocabulary: Any) -> None:
    """Refuse what is not a vocabulary of words."""
    if not isinstance(vocabulary, Vocabulary):
        raise ArgumentError(f"vectors_from_encoder takes a Vocabulary. Received: {shown(vocabulary)}.")
    if isinstance(vocabulary.tokenizer, PieceTokenizer):
        raise VocabularyError(
            f"vectors_from_encoder takes a vocabulary of words, such as Vocabulary.from_texts(texts). Received: the pieces of "
            f"an encoder, {vocabulary!r}."
        )
    if not vocabulary.token_to_id:
        raise VocabularyError(
            f"vectors_from_encoder needs a word: all ids of the vocabulary are special. Received: {vocabulary!r}."
        )


class _Rows:
    """The words whose pieces the encoder knows.

    Attributes:
        words: in the order of the vocabulary.
        ids: of each word, as the encoder takes them.
        counted: for each id whether it is a piece of the word.
        looked_for: all words of the vocabulary, and other spellings of those left out.
    """

    def __init__(self, read: PretrainedEncoder, vocabulary: Vocabulary):
        tokenizer = read.tokenizer.tokenizer
        before, behind = (0, 0) if tokenizer is None else tokenizer.frame
        no_words = [*read.tokenizer.special_ids, *read.tokenizer.encode("")]
        self.words: list[str] = []
        self.ids: list[np.ndarray] = []
        self.counted: list[np.ndarray] = []
        left_out = []
        for word, id_ in vocabulary.token_to_id.items():
            try:
                ids = read.tokenizer.encode(f" {word}")
            except VocabularyError as error:
                raise VocabularyError(f"Token {word!r} (id {id_}) can't be split into pieces: {error}") from None
            end = min(len(ids), read.max_length) - behind
            ids = np.concatenate([ids[:end], ids[len(ids) - behind :]])
            counted = ~np.isin(ids, no_words)
            counted[:before] = counted[end:] = False
            if counted.any():
                self.words.append(word)
                self.ids.append(ids)
                self.counted.append(counted)
            else:
                left_out.append(word)
        if not self.words:
            raise EncoderError(
                f"The tokenizer in {str(read.folder)!r} knows no piece of any of the {len(left_out):,} words. "
                f"Received: words such as {shown(left_out[:3])}."
            )
        others = (spelling for word in left_out for spelling, _ in spellings(word, tuple(FALLBACKS)))
        self.looked_for = frozenset(vocabulary.token_to_id).union(others)


def _means(read: PretrainedEncoder, rows: _Rows, batch_size: int, asked: bool | None) -> np.ndarray:
    """The mean of each word's vectors, float32 of shape (words, width)."""
    model = read.model()

    specs = [tf.TensorSpec((None, None), tf.int64), tf.TensorSpec((None, None), tf.float32)]

    @tf.function(input_signature=specs, autograph=False)
    def means(ids: tf.Tensor, counted: tf.Tensor) -> tf.Tensor:
        vectors = tf.cast(model(ids, training=False), tf.float32)  # of another type under mixed precision
        return tf.einsum("btw,bt->bw", vectors, counted) / tf.reduce_sum(counted, axis=1, keepdims=True)

    found = np.empty((len(rows.words), read.width), np.float32)
    order = np.argsort([len(ids) for ids in rows.ids], kind="stable")  # padding costs as much as pieces
    with shown_progress("running words through the encoder", asked) as report:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            shape = len(batch), len(rows.ids[batch[-1]])
            ids, counted = np.full(shape, read.tokenizer.padding_id, np.int64), np.zeros(shape, np.float32)
            for filled, place in enumerate(batch):
                ids[filled, : len(rows.ids[place])] = rows.ids[place]
                counted[filled, : len(rows.ids[place])] = rows.counted[place]
            found[batch] = means(ids, counted)
            report(start + len(batch), len(order))
    return found
