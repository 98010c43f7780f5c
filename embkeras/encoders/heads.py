"""Heads: models for a task on a pre-trained encoder.

Each is one flat model: `token_ids`, the token table `token_embedding` (a `PretrainedEmbedding`), positions,
`transformer_layer_0` and so on, and the head. Masks and segments are made inside. Everything trains until you or a schedule
freeze it: `gradual_unfreeze(read.layer_groups)`.
"""

from typing import Any

import keras

from embkeras._checks import flag, number, one_of, shown, whole_number
from embkeras.encoders.layers import ContextMask, FirstToken, PlaceProbabilities, UnitLength
from embkeras.encoders.reading import PretrainedEncoder
from embkeras.encoders.spans import SPAN_OUTPUTS, PairFrame
from embkeras.errors import ArgumentError
from embkeras.tables.embedding import check_name
from embkeras.tables.pooling import MaskedMean

_POOLS = ("cls", "mean", "pooler")


def build_encoder_classifier(
    read: PretrainedEncoder,
    num_classes: int,
    *,
    pool: str | None = None,
    pairs: bool = False,
    multi_label: bool = False,
    dropout: float = 0.1,
    name: str = "classifier",
) -> keras.Model:
    """A text classifier on an encoder: integer ids (batch, time) -> `scores` (batch, num_classes).

    The scores are softmax probabilities, to be compiled with "sparse_categorical_crossentropy". Usual rates are 2e-5 to 1e-4
    (Devlin et al. 2019).

    Args:
        read: what `load_pretrained` returned. Its folder is read again, so that each model has weights of its own.
        num_classes: at least 2.
        pool: "cls" takes the vector of the first token, "mean" the mean over the tokens; by default `read.pool`. "pooler"
            takes the first token through one more dense layer, as transformers' classifiers do: BERT and ALBERT come with it.
        pairs: rows are pairs of texts, from `read.tokenizer.encode_pairs`.
        multi_label: each class is true or not by itself: scores are sigmoid probabilities, to be compiled with
            "binary_crossentropy".
        dropout: share of features dropped before the last layer in training.
        name: name of the model.

    Returns:
        A model with the output `scores`, (batch, num_classes), not compiled.

    Raises:
        ArgumentError: not a PretrainedEncoder, an unknown `pool`, or a size out of range.
        EncoderError: the folder's tensors are damaged, or others than its config.json describes.

    Examples:
        >>> read = load_pretrained("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> model = build_encoder_classifier(read, 2)  # doctest: +SKIP
        >>> model(read.tokenizer.encode_batch(["good morning", "hm"])).shape  # doctest: +SKIP
        TensorShape([2, 2])
    """
    num_classes = whole_number(num_classes, "num_classes", least=2)
    activation = "sigmoid" if flag(multi_label, "multi_label") else "softmax"
    return _on_text(read, num_classes, activation, "scores", pool, pairs, dropout, name)


def build_encoder_regressor(
    read: PretrainedEncoder,
    num_outputs: int = 1,
    *,
    pool: str | None = None,
    pairs: bool = False,
    dropout: float = 0.1,
    name: str = "regressor",
) -> keras.Model:
    """Numbers for a text: integer ids (batch, time) -> `values` (batch, num_outputs), to be compiled with "mse".

    Args:
        read: what `load_pretrained` returned.
        num_outputs: numbers for each text.
        pool: as for `build_encoder_classifier`.
        pairs: as for `build_encoder_classifier`.
        dropout: as for `build_encoder_classifier`.
        name: as for `build_encoder_classifier`.

    Returns:
        A model with the output `values`, (batch, num_outputs), not compiled.

    Raises:
        ArgumentError: not a PretrainedEncoder, an unknown `pool`, or a size out of range.
        EncoderError: the folder's tensors are damaged, or others than its config.json describes.

    Examples:
        >>> model = build_encoder_regressor(load_pretrained("all-MiniLM-L6-v2"))  # doctest: +SKIP
    """
    num_outputs = whole_number(num_outputs, "num_outputs", least=1)
    return _on_text(read, num_outputs, None, "values", pool, pairs, dropout, name)


def build_encoder_tagger(
    read: PretrainedEncoder, num_tags: int, *, dropout: float = 0.1, name: str = "tagger"
) -> keras.Model:
    """A tag for each token: integer ids (batch, time) -> softmax `scores` (batch, time, num_tags).

    `encode_tagged` makes its ids, labels and weights: a word's tag belongs to its first piece.

    Args:
        read: what `load_pretrained` returned.
        num_tags: at least 2.
        dropout: share of features dropped before the last layer in training.
        name: name of the model.

    Returns:
        A model with the output `scores`, (batch, time, num_tags), not compiled.

    Raises:
        ArgumentError: not a PretrainedEncoder, or a size out of range.
        EncoderError: the folder's tensors are damaged, or others than its config.json describes.

    Examples:
        >>> read = load_pretrained("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> model = build_encoder_tagger(read, 3)  # doctest: +SKIP
        >>> ids, labels, weights = encode_tagged(read.tokenizer, sentences, tags)  # doctest: +SKIP
        >>> model.compile("adam", "sparse_categorical_crossentropy")  # doctest: +SKIP
        >>> model.fit(ids, labels, sample_weight=weights)  # doctest: +SKIP
    """
    num_tags = whole_number(num_tags, "num_tags", least=2)
    ids, vectors, _ = _encoded(read, dropout)
    return keras.Model(ids, _dense(vectors, num_tags, "softmax", "scores", dropout), name=check_name(name))


def build_span_model(read: PretrainedEncoder, *, dropout: float = 0.1, name: str = "spans") -> keras.Model:
    """Where a context answers a question: integer ids (batch, time) -> `start` and `end`, each (batch, time).

    Each is the probability that the answer starts, or ends, at that place. It is 0 on the question, on special pieces and on
    padding; the first place stands for "no answer here". `encode_spans` makes ids and labels of questions, and
    `decode_spans` finds the best answers.

    Args:
        read: what `load_pretrained` returned. An encoder with segments has the question in the first and the context in the
            second.
        dropout: share of features dropped before the last layer in training.
        name: name of the model.

    Returns:
        A model with the outputs `start` and `end`, (batch, time) each, not compiled.

    Raises:
        ArgumentError: not a PretrainedEncoder, or `dropout` out of range.
        VocabularyError: a tokenizer that puts nothing in front of a pair of texts, or nothing between the two.
        EncoderError: the folder's tensors are damaged, or others than its config.json describes.

    Examples:
        >>> read = load_pretrained("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> model = build_span_model(read)  # doctest: +SKIP
        >>> windows = encode_spans(read.tokenizer, load_squad("train-v1.1.json"))  # doctest: +SKIP
        >>> losses = dict.fromkeys(["start", "end"], "sparse_categorical_crossentropy")  # doctest: +SKIP
        >>> model.compile(RowWiseAdamW(5e-5), losses)  # doctest: +SKIP
        >>> model.fit(windows.ids, windows.labels, epochs=2)  # doctest: +SKIP
        >>> decode_spans(model.predict(windows.ids), windows)[0].text  # doctest: +SKIP
        'Saint Bernadette Soubirous'
    """
    name = check_name(name)
    ids, vectors, _ = _encoded(read, dropout, pairs=True)
    frame = PairFrame(read.tokenizer)
    allowed = ContextMask(frame.between[0], sorted(frame.special), name="context_mask")(ids)
    scores = _dense(vectors, 2, None, "scores", dropout)
    places = {each: PlaceProbabilities(column, name=each)(scores, allowed) for column, each in enumerate(SPAN_OUTPUTS)}
    return keras.Model(ids, places, name=name)


def build_sentence_encoder(
    read: PretrainedEncoder, *, pool: str | None = None, normalize: bool = True, name: str = "sentences"
) -> keras.Model:
    """One vector for a text: integer ids (batch, time) -> `vectors` (batch, width).

    Args:
        read: what `load_pretrained` returned.
        pool: as for `build_encoder_classifier`.
        normalize: vectors have length 1, so that their dot product is the cosine.
        name: name of the model.

    Returns:
        A model with the output `vectors`, (batch, width), not compiled.

    Raises:
        ArgumentError: not a PretrainedEncoder, an unknown `pool`, or `normalize` other than True and False.
        EncoderError: the folder's tensors are damaged, or others than its config.json describes.

    Examples:
        >>> read = load_pretrained("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> vectors = build_sentence_encoder(read)(read.tokenizer.encode_batch(["so glad", "very happy"]))  # doctest: +SKIP
    """
    normalize, name = flag(normalize, "normalize"), check_name(name)
    ids, vectors, mask = _encoded(read)
    text = _pooled(read, vectors, mask, pool, "pool" if normalize else "vectors")
    return keras.Model(ids, UnitLength(name="vectors")(text) if normalize else text, name=name)


def _on_text(
    read: Any, units: int, activation: str | None, output: str, pool: Any, pairs: Any, dropout: Any, name: Any
) -> keras.Model:
    """A dense layer on one vector a text."""
    name = check_name(name)
    ids, vectors, mask = _encoded(read, dropout, pairs)
    return keras.Model(ids, _dense(_pooled(read, vectors, mask, pool), units, activation, output, dropout), name=name)


def _encoded(read: Any, dropout: Any = 0, pairs: Any = False) -> tuple[Any, Any, Any]:
    """Symbolic ids, the encoder's vectors of them, and the mask."""
    if not isinstance(read, PretrainedEncoder):
        raise ArgumentError(f"An encoder's head takes what load_pretrained(folder) returns. Received: {shown(read)}.")
    number(dropout, "dropout", least=0, below=1)
    ids = keras.Input((None,), dtype="int64", name="token_ids")
    return ids, *read.vectors(ids, pairs=flag(pairs, "pairs"))


def _pooled(read: PretrainedEncoder, vectors: Any, mask: Any, pool: Any, name: str = "pool") -> Any:
    pool = read.pool if pool is None else one_of(pool, "pool", _POOLS)
    if pool == "mean":
        return MaskedMean(name=name)(vectors, mask=mask)
    if pool == "cls":
        return FirstToken(name=name)(vectors)
    return keras.layers.Identity(name=name)(read.pooler()(FirstToken(name="first_token")(vectors)))


def _dense(x: Any, units: int, activation: str | None, name: str, dropout: float) -> Any:
    """The task's own layer; float32 also under mixed precision."""
    x = keras.layers.Dropout(dropout, name="dropout")(x)
    return keras.layers.Dense(units, activation=activation, dtype="float32", name=name)(x)
