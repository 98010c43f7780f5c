"""Heads: models for a task on a pre-trained encoder."""

import keras

from embkeras._checks import number, one_of, shown, whole_number
from embkeras.encoders.layers import FirstToken
from embkeras.encoders.reading import PretrainedEncoder
from embkeras.errors import ArgumentError
from embkeras.tables.embedding import check_name
from embkeras.tables.pooling import MaskedMean

_POOLS = ("cls", "mean")


def build_encoder_classifier(
    read: PretrainedEncoder,
    num_classes: int,
    *,
    pool: str | None = None,
    dropout: float = 0.1,
    name: str = "classifier",
) -> keras.Model:
    """A text classifier on an encoder: integer ids (batch, time) -> `scores` (batch, num_classes).

    One flat model: `token_ids`, the token table `token_embedding` (a `PretrainedEmbedding`), positions, `transformer_layer_0`
    and so on, one vector a text, `scores`. The padding mask is made inside. The scores are softmax probabilities, to be
    compiled with "sparse_categorical_crossentropy"; usual rates are 2e-5 to 1e-4 (Devlin et al. 2019). Everything trains until
    you or a schedule freeze it: `gradual_unfreeze(read.layer_groups)`.

    Args:
        read: what `load_pretrained` returned. Its folder is read again, so that each model has weights of its own.
        num_classes: at least 2.
        pool: "cls" takes the vector of the first token, "mean" the mean over the tokens; by default `read.pool`.
        dropout: share of features dropped before the last layer in training.
        name: name of the model.

    Raises:
        ArgumentError: not a PretrainedEncoder, an unknown `pool`, or a size out of range.
        EncoderError: the folder's tensors are damaged, or others than its config.json describes.

    Example:
        >>> read = load_pretrained("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> model = build_encoder_classifier(read, 2)  # doctest: +SKIP
        >>> model(read.tokenizer.encode_batch(["good morning", "hm"])).shape  # doctest: +SKIP
        TensorShape([2, 2])
    """
    if not isinstance(read, PretrainedEncoder):
        raise ArgumentError(
            f"build_encoder_classifier takes what load_pretrained(folder) returns. Received: {shown(read)}."
        )
    num_classes = whole_number(num_classes, "num_classes", least=2)
    dropout = number(dropout, "dropout", least=0, below=1)
    pool = read.pool if pool is None else one_of(pool, "pool", _POOLS)
    name = check_name(name)
    ids = keras.Input((None,), dtype="int64", name="token_ids")
    vectors, mask = read.vectors(ids)
    text = FirstToken(name="pool")(vectors) if pool == "cls" else MaskedMean(name="pool")(vectors, mask=mask)
    text = keras.layers.Dropout(dropout, name="dropout")(text)
    scores = keras.layers.Dense(num_classes, activation="softmax", dtype="float32", name="scores")(text)
    return keras.Model(ids, scores, name=name)
