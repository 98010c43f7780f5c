"""build_embedding and build_classifier: from an aligned matrix to a Keras layer, and to a whole model."""

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np

from embkeras._checks import flag, number, one_of, shown, whole_number
from embkeras.errors import ArgumentError
from embkeras.tables.embedding import PretrainedEmbedding, check_dtype, check_name
from embkeras.tables.partial_rows import RowEmbedding, check_mask, check_no_padding
from embkeras.tables.pooling import MaskedConvolutions, MaskedMean, PadToLength
from embkeras.tables.shared_map import MAPS, MappedEmbedding
from embkeras.tables.storage import STORAGE
from embkeras.vectors import postprocess
from embkeras.vectors.aligned import AlignedMatrix

ARCHITECTURES = ("lstm", "cnn", "mean")
CNN_WIDTHS = (3, 4, 5)


def build_embedding(
    aligned: AlignedMatrix,
    *,
    trainable: bool | str | np.ndarray = False,
    mask_zero: bool | None = None,
    stored: str = "float32",
    name: str = "embedding",
    dtype: Any = None,
) -> PretrainedEmbedding:
    """A built Keras layer whose row i is `aligned.values[i]`.

    Args:
        aligned: what `align` returned; V rows of width D.
        trainable: where the layer starts. False freezes the table, True lets all rows move, "oov" only the rows of words
            missing from the vectors ("[UNK]" included, padding not), and a bool array of shape (V,) the rows where it is
            true; the others then stay bit-identical under any optimizer. "map" trains one matrix that moves all rows
            alike, also those of words that training never reads, and "map+rows" that and each row by itself
            (`embkeras.tables.shared_map`). Schedules can freeze and unfreeze all of these. A schedule that unfreezes a
            layer around the table unfreezes the table too, unless you set `layer.trainable = False` yourself.
        mask_zero: id 0 is padding and masked for the layers that follow; by default if the vocabulary has a padding id.
        stored: "float16" or "int8" (with one scale a row) keep the rows that don't train in half or a quarter of the
            memory; `layer.accuracy` says how close they stay. Not with `trainable=True`.
        name: the layer's name, by which schedules find it: ASCII letters, digits, "_", "." and "-".
        dtype: of the vectors: a type of floats or a policy of one, as for any Keras layer.

    Returns:
        A layer from integer ids (batch, time) to vectors (batch, time, D); `.matrix()` returns the table. The row of the
        padding is zeros, and gets no gradient.

    Raises:
        ArgumentError: not an AlignedMatrix, an invalid `trainable` or one that includes the padding row or no row,
            `mask_zero` although id 0 is a word, `stored` with a table that trains as a whole, a `dtype` that isn't of floats, or
            a name that no graph can have.

    Examples:
        >>> import numpy as np
        >>> from embkeras.text.vocabulary import Vocabulary
        >>> vocabulary = Vocabulary(["", "[UNK]", "cat"])
        >>> layer = build_embedding(AlignedMatrix(np.eye(3, dtype="float32"), vocabulary))
        >>> layer(np.array([[2, 0]])).shape, layer.trainable_variables
        (TensorShape([1, 2, 3]), [])
    """
    if not isinstance(aligned, AlignedMatrix):
        raise ArgumentError(
            f"build_embedding takes what align() returns; wrap your own matrix as AlignedMatrix(matrix, vocabulary). "
            f"Received: {type(aligned).__name__}."
        )
    one_of(stored, "stored", STORAGE)
    rows = None if isinstance(trainable, bool | np.bool_) else _rows_to_train(trainable, aligned)
    vocabulary = aligned.vocabulary
    mask_zero = vocabulary.padding_id is not None if mask_zero is None else flag(mask_zero, "mask_zero")
    if mask_zero and vocabulary.padding_id != 0:
        raise ArgumentError(
            f"mask_zero=True would hide id 0, which is {vocabulary.tokens[0]!r} and not padding "
            f"(padding_id={vocabulary.padding_id}). Pass mask_zero=False, or give the vocabulary padding_id 0 "
            f"(StringLookup: mask_token='')."
        )
    name, dtype = check_name(name), check_dtype(dtype, name)
    settings = {"mask_zero": mask_zero, "padding_id": vocabulary.padding_id, "name": name, "dtype": dtype}
    size = len(vocabulary), aligned.output_dim
    if rows is None and stored == "float32":
        layer = PretrainedEmbedding(*size, trainable=bool(trainable), **settings)
        layer.build()
    elif rows is None and trainable:
        raise ArgumentError(
            f'A table that trains as a whole is stored as float32. Received: trainable=True with stored="{stored}".'
        )
    else:
        count = 0 if rows is None else int(rows.sum())
        mapped = _is_map(trainable)
        kind = MappedEmbedding if mapped else RowEmbedding
        layer = kind(*size, count, stored=stored, trainable=mapped or count > 0, **settings)
        layer.build()
        if rows is not None:
            layer.train_rows(rows)
    layer.assign_table(aligned.values)
    layer.mark_not_pretrained(~aligned.found)
    return layer


def _is_map(trainable: Any) -> bool:
    return isinstance(trainable, str) and trainable in MAPS


def _rows_to_train(trainable: Any, aligned: AlignedMatrix) -> np.ndarray:
    """The mask that `trainable` stands for."""
    padding = aligned.vocabulary.padding_id
    if isinstance(trainable, str) and trainable == "oov":
        mask = ~aligned.found
    elif _is_map(trainable):
        mask = np.full(len(aligned.vocabulary), trainable == "map+rows")
    elif isinstance(trainable, np.ndarray):
        mask = check_mask(trainable, len(aligned.vocabulary))
    else:
        raise ArgumentError(
            f'trainable must be True, False, "oov" or a bool array of shape ({len(aligned.vocabulary)},), "map" or '
            f'"map+rows". Received: {trainable!r}.'
        )
    if isinstance(trainable, str) and padding is not None:
        mask[padding] = False
    if not mask.any() and not _is_map(trainable):
        raise ArgumentError("trainable selects no row. Pass trainable=False for a frozen table.")
    check_no_padding(mask, padding)
    return mask


def build_classifier(
    aligned_or_layer: AlignedMatrix | keras.layers.Layer,
    num_classes: int,
    *,
    architecture: str | Callable[[Any], Any] = "lstm",
    units: int | None = None,
    dropout: float = 0.3,
    trainable: bool | str | np.ndarray | None = None,
    rescale: float | None = None,
    name: str = "classifier",
) -> keras.Model:
    """A text classifier on an embedding: integer ids (batch, time) -> `scores` (batch, num_classes).

    The scores are softmax probabilities, to be compiled with "sparse_categorical_crossentropy". A text gets the same
    scores alone, padded to any length and in any batch, and an empty text has defined scores.

    Args:
        aligned_or_layer: what `align` returned, or an embedding layer with `mask_zero=True`.
        num_classes: at least 2.
        architecture: "lstm" is a bidirectional LSTM (Hochreiter & Schmidhuber 1997); "cnn" convolutions of widths 3,
            4, 5 with max-over-time (Kim 2014); "mean" the mean of the vectors and one hidden layer (Iyyer et al. 2015).
            Or a new layer or a function of your own, from the vectors (batch, time, D) with their mask to one vector for each
            text, (batch, features). Padding may not change its answer, which is tried with some ids of the table.
        units: units of the LSTM in each direction, filters of each width, or units of the hidden layer; by default 64.
            Not with an architecture of your own, which has its own.
        dropout: share of features dropped before the last layer in training.
        trainable: which rows of the table train, as for `build_embedding`; by default none. Only with what `align`
            returned: a layer keeps its own setting.
        rescale: multiply the table by one factor, so that the entries of the rows found have this standard deviation
            (`embkeras.vectors.postprocess.rescale`), such as 0.1; by default it stays as it is. Only with what `align`
            returned. Drift is then measured from the table as it is in the layer, `layer.matrix()` before `fit`.
        name: name of the model.

    Returns:
        A model with one output, `scores`, not compiled.

    Raises:
        ArgumentError: an unknown architecture, a layer that has weights already, or one that returns something else than a
            vector for each text, another one when a text is padded, or no finite numbers for an empty text; a size out of
            range, a layer without a mask, or `trainable` or `rescale` with a layer.

    Examples:
        >>> import numpy as np
        >>> from embkeras.text.vocabulary import Vocabulary
        >>> vocabulary = Vocabulary(["", "[UNK]", "cat"])
        >>> model = build_classifier(AlignedMatrix(np.eye(3, dtype="float32"), vocabulary), 2, architecture="mean")
        >>> model(np.array([[2, 1]])).shape
        TensorShape([1, 2])
    """
    own = callable(architecture) and not isinstance(architecture, type)
    if not own and not (isinstance(architecture, str) and architecture in ARCHITECTURES):
        raise ArgumentError(
            f"architecture must be a layer or function from the vectors of each text to one vector, or one of "
            f"{', '.join(ARCHITECTURES)}. Received: {shown(architecture)}."
        )
    if isinstance(architecture, keras.layers.Layer) and architecture.weights:
        raise ArgumentError(
            f"architecture must be a layer without weights yet, or a function: models that are built on one layer share its "
            f"weights. To share them, pass a function that calls it. Received: layer {architecture.name!r}, which has weights."
        )
    if own and units is not None:
        raise ArgumentError(
            f"units is for the architectures {', '.join(ARCHITECTURES)}; one of your own has its own. Received: "
            f"units={shown(units)}."
        )
    num_classes = whole_number(num_classes, "num_classes", least=2)
    units = whole_number(64 if units is None else units, "units", least=1)
    dropout = number(dropout, "dropout", least=0, below=1)
    embedding = aligned_or_layer
    if not isinstance(embedding, keras.layers.Layer):
        if rescale is not None and isinstance(embedding, AlignedMatrix):
            std = number(rescale, "rescale", above=0)
            embedding = embedding.transformed(partial(postprocess.rescale, std=std))
        embedding = build_embedding(embedding, trainable=False if trainable is None else trainable)
    elif rescale is not None:
        raise ArgumentError(
            f"rescale applies to a layer that build_classifier makes, but layer {embedding.name!r} was made before: build it "
            f"from aligned.transformed(rescale). Received: rescale={shown(rescale)}."
        )
    elif trainable is not None:
        raise ArgumentError(
            f"trainable applies to a layer that build_classifier makes, but layer {embedding.name!r} was made before: "
            f"set layer.trainable, or pass trainable to build_embedding. Received: trainable={trainable!r}."
        )
    if not getattr(embedding, "mask_zero", False):
        raise ArgumentError(
            f"A classifier that ignores padding needs an embedding with mask_zero=True. Received: layer {embedding.name!r}."
        )
    ids = keras.Input((None,), dtype="int64", name="token_ids")
    length = max(CNN_WIDTHS) if architecture == "cnn" else 1
    vectors = embedding(PadToLength(length, name="at_least")(ids))
    if callable(architecture):
        features = architecture(vectors)
        _check_features(features, ids, min(getattr(embedding, "input_dim", 2), 9))
    elif architecture == "lstm":
        features = keras.layers.Bidirectional(keras.layers.LSTM(units), name="encoder")(vectors)
    elif architecture == "cnn":
        features = MaskedConvolutions(units, CNN_WIDTHS, name="encoder")(vectors)
    else:
        features = MaskedMean(name="encoder")(vectors)
        features = keras.layers.Dense(units, activation="relu", name="hidden")(features)
    features = keras.layers.Dropout(dropout, name="dropout")(features)
    scores = keras.layers.Dense(num_classes, activation="softmax", dtype="float32", name="scores")(features)
    return keras.Model(ids, scores, name=check_name(name))


def _check_features(features: Any, ids: Any, count: int) -> None:
    """Refuse what an architecture returned if it isn't one vector for each text, the same however the text is padded.

    Tried with the first `count` ids, each as a text; id 0 is an empty one.
    """
    if not isinstance(features, keras.KerasTensor) or len(features.shape) != 2 or features.shape[1] is None:
        raise ArgumentError(
            f"architecture must return one vector for each text, of shape (batch, features). Received: {shown(features)}."
        )
    texts = np.arange(count)[:, None]
    alone, padded = (np.array(keras.Model(ids, features)(np.pad(texts, [(0, 0), (0, more)]))) for more in (0, 8))
    apart = np.abs(alone - padded).max(axis=1)
    wrong = ~(apart <= 0.01 * np.nanmax(np.abs(alone), initial=0))  # NaN too
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ArgumentError(
            f"architecture must return the same for a text alone and padded, and finite numbers for an empty one: use layers "
            f"that take the mask, such as keras.layers.GRU or embkeras.tables.pooling.MaskedMean. Received: "
            f"{shown(alone[row].tolist())} for a text of id {row}, and {shown(padded[row].tolist())} with 8 ids of padding."
        )
