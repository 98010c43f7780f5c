"""build_embedding and build_classifier: from an aligned matrix to a Keras layer, and to a whole model."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from embkeras.errors import ArgumentError
from embkeras.tables.embedding import PretrainedEmbedding
from embkeras.tables.partial_rows import RowEmbedding, check_mask
from embkeras.tables.pooling import MaskedConvolutions, MaskedMean, PadToLength
from embkeras.vectors.align import AlignedMatrix
from embkeras.vectors.pruning import SharedRows

CNN_WIDTHS = (3, 4, 5)


def build_embedding(
    aligned: AlignedMatrix,
    *,
    trainable: bool | str | np.ndarray = False,
    mask_zero: bool = True,
    stored: str = "float32",
    shared: SharedRows | None = None,
    name: str = "embedding",
    dtype: Any = None,
) -> PretrainedEmbedding:
    """A built Keras layer whose row i is `aligned.values[i]`.

    Args:
        aligned: what `align` returned; V rows of width D.
        trainable: False freezes the table, True lets all rows move, "oov" only those that the vectors did not give
            ("[UNK]" included, padding not), and a bool array of shape (V,) those where it is true; the others then stay
            bit-identical under any optimizer. Schedules freeze and thaw each of these forms.
        mask_zero: id 0 is padding and masked for the layers that follow.
        stored: "float16" or "int8" (with one scale a row) keep the rows that do not train in half or a quarter of the
            memory; `layer.accuracy` says how near they stay. Not with `trainable=True`.
        shared: what `share_rows` gave: ids that share a row have one row of the base. Not with `trainable=True`.
        name: the layer's name, by which schedules find it.
        dtype: dtype or dtype policy, as for any Keras layer.

    Returns:
        A layer from integer ids (batch, time) to vectors (batch, time, D); `.matrix()` gives the table back. The row of
        the padding is zeros, and gets no gradient.

    Raises:
        ArgumentError: no AlignedMatrix, another `trainable`, one that names the padding row or no row, `mask_zero`
            where id 0 is a word, or a small table that is to train as a whole.

    Example:
        >>> import numpy as np
        >>> from embkeras.text.vocabulary import Vocabulary
        >>> vocabulary = Vocabulary(["", "[UNK]", "cat"])
        >>> layer = build_embedding(AlignedMatrix(np.eye(3, dtype="float32"), vocabulary))
        >>> layer(np.array([[2, 0]])).shape, layer.trainable_variables
        (TensorShape([1, 2, 3]), [])
    """
    if not isinstance(aligned, AlignedMatrix):
        raise ArgumentError(
            f"build_embedding takes what align() returns; wrap a matrix of your own as AlignedMatrix(matrix, vocabulary). "
            f"Received: {type(aligned).__name__}."
        )
    rows = None if isinstance(trainable, bool) else _rows_to_train(trainable, aligned)
    vocabulary = aligned.vocabulary
    if mask_zero and vocabulary.padding_id != 0:
        raise ArgumentError(
            f"mask_zero=True would hide id 0, which is {vocabulary.tokens[0]!r} and not padding "
            f"(padding_id={vocabulary.padding_id}). Pass mask_zero=False, or give the vocabulary a padding id 0 "
            f"(StringLookup: mask_token='')."
        )
    settings = {"mask_zero": mask_zero, "padding_id": vocabulary.padding_id, "name": name, "dtype": dtype}
    size = len(vocabulary), aligned.output_dim
    if rows is None and stored == "float32" and shared is None:
        layer = PretrainedEmbedding(*size, trainable=trainable, **settings)
        layer.build()
    elif trainable is True:
        raise ArgumentError(
            f"A table that trains as a whole is float32, with a row for each id. "
            f"Received: trainable=True with stored={stored!r}, shared={shared}."
        )
    else:
        layer = _split_layer(size, rows, stored, shared, settings)
    layer.assign_table(aligned.values)
    return layer


def _split_layer(
    size: tuple[int, int], rows: np.ndarray | None, stored: str, shared: SharedRows | None, settings: dict[str, Any]
) -> RowEmbedding:
    if shared is not None and (not isinstance(shared, SharedRows) or len(shared.row_of) != size[0]):
        raise ArgumentError(f"shared takes what share_rows gives for these {size[0]} ids. Received: {shared}.")
    count = 0 if rows is None else int(rows.sum())
    kept = None if shared is None else len(shared.kept)
    layer = RowEmbedding(*size, count, stored=stored, stored_rows=kept, trainable=count > 0, **settings)
    layer.build()
    if shared is not None and kept < size[0]:
        layer.share_rows(shared.row_of, shared.kept)
    if rows is not None:
        layer.choose_rows(rows)
    return layer


def _rows_to_train(trainable: Any, aligned: AlignedMatrix) -> np.ndarray:
    """The mask that `trainable` stands for."""
    padding = aligned.vocabulary.padding_id
    if isinstance(trainable, str) and trainable == "oov":
        mask = ~aligned.found
        if padding is not None:
            mask[padding] = False
    elif isinstance(trainable, np.ndarray):
        mask = check_mask(trainable, len(aligned.vocabulary))
    else:
        raise ArgumentError(
            f'trainable must be True, False, "oov" or a bool array of shape ({len(aligned.vocabulary)},). '
            f"Received: {trainable!r}."
        )
    if not mask.any():
        raise ArgumentError("trainable names no row that trains: pass trainable=False for a frozen table.")
    if padding is not None and mask[padding]:
        raise ArgumentError(f"The padding row (id {padding}) never trains. Received: a mask that names it.")
    return mask


def build_classifier(
    aligned_or_layer: AlignedMatrix | keras.layers.Layer,
    num_classes: int,
    *,
    architecture: str = "lstm",
    units: int = 64,
    dropout: float = 0.3,
    trainable: bool = False,
    name: str = "classifier",
) -> keras.Model:
    """A text classifier on an embedding: integer ids (batch, time) -> `scores` (batch, num_classes).

    The scores are softmax probabilities, to be compiled with "sparse_categorical_crossentropy". A text gets the same
    scores alone, padded to any length and in any batch, and an empty text a defined answer.

    Args:
        aligned_or_layer: what `align` returned, or an embedding layer with `mask_zero=True`.
        num_classes: at least 2.
        architecture: "lstm" is a bidirectional LSTM (Hochreiter & Schmidhuber 1997); "cnn" convolutions of widths 3,
            4, 5 with max-over-time (Kim 2014); "mean" the mean of the vectors and one hidden layer (Iyyer et al. 2015).
        units: units of the LSTM in each direction, filters a width, or units of the hidden layer.
        dropout: share of features dropped before the last layer in training.
        trainable: whether the table may move, where the layer is made here.
        name: name of the model.

    Raises:
        ArgumentError: an unknown architecture, fewer than 2 classes, or a layer without a mask.

    Example:
        >>> import numpy as np
        >>> from embkeras.text.vocabulary import Vocabulary
        >>> vocabulary = Vocabulary(["", "[UNK]", "cat"])
        >>> model = build_classifier(AlignedMatrix(np.eye(3, dtype="float32"), vocabulary), 2, architecture="mean")
        >>> model(np.array([[2, 1]])).shape
        TensorShape([1, 2])
    """
    if architecture not in _ENCODERS:
        raise ArgumentError(f"architecture must be one of {', '.join(_ENCODERS)}. Received: {architecture!r}.")
    if num_classes < 2 or units < 1 or not 0 <= dropout < 1:
        raise ArgumentError(
            f"A classifier needs num_classes >= 2, units >= 1 and dropout in [0, 1). "
            f"Received: num_classes={num_classes}, units={units}, dropout={dropout}."
        )
    embedding = aligned_or_layer
    if not isinstance(embedding, keras.layers.Layer):
        embedding = build_embedding(aligned_or_layer, trainable=trainable)
    if not getattr(embedding, "mask_zero", False):
        raise ArgumentError(
            f"A classifier that ignores padding needs an embedding with mask_zero=True. Received: layer {embedding.name!r}."
        )
    length, encode = _ENCODERS[architecture]
    ids = keras.Input((None,), dtype="int64", name="token_ids")
    features = encode(embedding(PadToLength(length, name="at_least")(ids)), units)
    features = keras.layers.Dropout(dropout, name="dropout")(features)
    scores = keras.layers.Dense(num_classes, activation="softmax", dtype="float32", name="scores")(features)
    return keras.Model(ids, scores, name=name)


def _lstm(vectors: Any, units: int) -> Any:
    return keras.layers.Bidirectional(keras.layers.LSTM(units), name="encoder")(vectors)


def _cnn(vectors: Any, units: int) -> Any:
    return MaskedConvolutions(units, CNN_WIDTHS, name="encoder")(vectors)


def _mean(vectors: Any, units: int) -> Any:
    return keras.layers.Dense(units, activation="relu", name="hidden")(MaskedMean(name="encoder")(vectors))


# name -> the shortest text it can read, and its encoder
_ENCODERS: dict[str, tuple[int, Callable[[Any, int], Any]]] = {
    "lstm": (1, _lstm),
    "cnn": (max(CNN_WIDTHS), _cnn),
    "mean": (1, _mean),
}
