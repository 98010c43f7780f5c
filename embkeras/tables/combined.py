"""CombinedEmbedding: several tables over the same ids, as one embedding layer.

Whatever the way of combining, the vector of an id depends on the id alone, so that the layer is one table and `matrix()`
can give it. Nothing has a bias, so that padding, zeros in every source, is zeros in the result.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from embkeras.errors import ArgumentError
from embkeras.tables.row_io import table_of_calls
from embkeras.tables.stand_ins import stand_in_for

COMBINATIONS = ("concat", "mean", "weighted", "attention")
_CONTEXTUAL = (
    "Contextual meta-embeddings weigh the sources of a word by the words around it, so an id would have no vector of its "
    'own, and the layer no matrix(). combine="attention" weighs them by the word alone. Received: "contextual".'
)


def combine_embeddings(
    layers: Sequence[keras.layers.Layer],
    *,
    combine: str = "concat",
    output_dim: int | None = None,
    found: Sequence[np.ndarray] | None = None,
    name: str = "embedding",
    dtype: Any = None,
) -> "CombinedEmbedding":
    """One built embedding layer out of several, which stay what they are: frozen, trainable, or partly so.

    Args:
        layers: what `build_embedding` returned, each with a name of its own, over the same ids. With `output_dim` it may
            be one alone: that is a projection to another width.
        combine: "concat" puts the vectors side by side; "mean" averages them (Coates & Bollegala 2018, Frustratingly
            Easy Meta-Embedding); "weighted" learns one weight a source, "attention" one a source and word (dynamic
            meta-embeddings: Kiela, Wang & Cho 2018, Dynamic Meta-Embeddings for Improved Sentence Representations).
        output_dim: width of the result after a learned projection without bias: of the vectors side by side for
            "concat", of each source for the others. By default there is no projection, and all but "concat" want
            sources of one width; only "attention" always projects.
        found: for each layer the bool array (V,) of the ids that its source has, `aligned.found`. A source that lacks a
            word then has weight 0 there and its row learns nothing; the others share the weight. A word that no source
            has ("[UNK]") is weighed as if all had it. By default every source has every word. Not for "concat", which
            weighs nothing: what `align` filled in stays in its place.
        name: the layer's name. Schedules find the layers inside as "embedding/static".
        dtype: dtype or dtype policy, as for any Keras layer.

    Returns:
        A layer from integer ids (batch, time) to vectors (batch, time, output_dim); `.matrix()` gives them as one table.

    Raises:
        ArgumentError: no such layers, or two that do not fit each other, another `combine`, no width, or masks that do
            not fit.

    Example:
        The channels of Kim 2014 (Convolutional Neural Networks for Sentence Classification), one of them frozen:

        >>> from embkeras.tables.builders import build_embedding
        >>> from embkeras.vectors.align import AlignedMatrix
        >>> from embkeras.text.vocabulary import Vocabulary
        >>> vocabulary = Vocabulary(["", "[UNK]", "cat"])
        >>> aligned = AlignedMatrix(np.array([[0, 0], [1, 2], [3, 4]], "float32"), vocabulary)
        >>> layer = combine_embeddings(
        ...     [build_embedding(aligned, name="static"), build_embedding(aligned, trainable=True, name="tuned")]
        ... )
        >>> layer(np.array([[2, 0]])).numpy().tolist()
        [[[3.0, 4.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]]]
        >>> [variable.path for variable in layer.trainable_variables]
        ['tuned/embeddings']

        A projection alone; trained, it folds into a table of its own:

        >>> narrow = combine_embeddings([build_embedding(aligned)], output_dim=1, name="narrow")
        >>> folded = build_embedding(AlignedMatrix(narrow.matrix(), vocabulary))
        >>> bool(np.allclose(folded(np.arange(3)), narrow(np.arange(3))))
        True
    """
    layer = CombinedEmbedding(layers, combine, output_dim, name=name, dtype=dtype)
    layer.build()
    if found is not None:
        layer.assign_found(found)
    return layer


@keras.saving.register_keras_serializable("embkeras")
class CombinedEmbedding(keras.layers.Layer):
    """Several embedding layers over the same ids as one; `combine_embeddings` makes one.

    Setting its `trainable` sets that of the layers inside, as with any Keras layer: to freeze or thaw one of them, name
    it ("embedding/tuned"). A layer inside is not to be used elsewhere in the model as well: a .keras file would hold its
    weights at one of the two places, and Keras refuses to load it.

    Args:
        layers: embedding layers with a `matrix()`, alike in input_dim, mask_zero and padding_id.
        combine: "concat", "mean", "weighted" or "attention", as for `combine_embeddings`.
        output_dim: width after a projection; None for none.
        **kwargs: as for any Keras layer.

    Attributes:
        sources: the layers inside.
        input_dim, mask_zero, padding_id: as those of the layers inside.
        output_dim: width of the result.

    Input shape: integer ids of any shape. Output shape: the same with output_dim behind.
    """

    def __init__(
        self,
        layers: Sequence[keras.layers.Layer],
        combine: str = "concat",
        output_dim: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.sources = _check_sources(layers)
        self.combine = _check_combine(combine, len(self.sources), output_dim)
        first, widths = self.sources[0], [source.output_dim for source in self.sources]
        self.input_dim, self.mask_zero, self.padding_id = first.input_dim, first.mask_zero, _padding_of(first)
        self.output_dim = _width(widths, combine, output_dim, self.sources)
        self._projects = output_dim is not None or combine == "attention"
        self.supports_masking = self.mask_zero
        self.autocast = False  # ids that come as float32 would lose their last digits in float16
        for source in self.sources:  # here, so that paths of their variables are the same made new and loaded
            if not source.built:
                source.build()

    def build(self, input_shape: Any = None) -> None:
        """Make the projections, what the weights are learned by, and the map of who has which word."""
        if self.built:
            return
        widths = {f"projection_{source.name}": source.output_dim for source in self.sources}
        if self.combine == "concat":
            widths = {"projection": sum(widths.values())}
        # Orthogonal, so that at the start vectors keep their distances, as far as the width allows. Weights and no Dense
        # layers, since Model.quantize would quantize those, and a file would not say so.
        self._projections = [
            self.add_weight(shape=(width, self.output_dim), initializer="orthogonal", name=name)
            for name, width in widths.items()
            if self._projects
        ]
        self._scores = self._found = None
        if self.combine in ("weighted", "attention"):  # zeros: at the start both are the mean
            size = len(self.sources) if self.combine == "weighted" else self.output_dim
            self._scores = self.add_weight(shape=(size,), initializer="zeros", name="scores")
        if self.combine != "concat":
            # A variable, since a constant would be written into every graph.
            shape = (self.input_dim, len(self.sources))
            self._found = self.add_weight(shape=shape, initializer="ones", dtype="int8", name="found", trainable=False)

    def assign_found(self, found: Sequence[np.ndarray]) -> None:
        """Say which ids each source has; the others it has no say in.

        Args:
            found: for each layer a bool array of shape (input_dim,).

        Raises:
            ArgumentError: the layer is not built or puts vectors side by side, or masks of another number, kind or shape.
        """
        self._check_built()
        if self._found is None:
            raise ArgumentError(
                f'combine="concat" puts all vectors side by side and weighs none, so it takes no found '
                f"(layer {self.name!r}): the rows that align filled in stay where they are."
            )
        masks = [np.asarray(mask) for mask in found]
        if len(masks) != len(self.sources):
            raise ArgumentError(f"found takes one mask for each of {len(self.sources)} layers. Received: {len(masks)}.")
        for mask, source in zip(masks, self.sources, strict=True):
            if mask.dtype != bool or mask.shape != (self.input_dim,):
                raise ArgumentError(
                    f"found must be bool of the shape ({self.input_dim},). "
                    f"Received: {mask.dtype} of the shape {mask.shape} for layer {source.name!r}."
                )
        table = np.stack(masks, axis=1)
        table[~table.any(axis=1)] = True
        self._found.assign(table.astype(np.int8))

    def call(self, inputs: Any) -> Any:
        """The combined vectors of `inputs`, in the layer's compute dtype."""
        stand_in = stand_in_for(self)
        if stand_in is not None:
            return stand_in(inputs)
        vectors = [ops.cast(source(inputs), self.compute_dtype) for source in self.sources]
        if self.combine == "concat":
            vectors = [ops.concatenate(vectors, axis=-1)]
        if self._projects:
            kernels = [ops.cast(kernel, self.compute_dtype) for kernel in self._projections]
            vectors = [ops.matmul(each, kernel) for each, kernel in zip(vectors, kernels, strict=True)]
        if self.combine == "concat":
            return vectors[0]
        stacked = ops.stack(vectors, axis=-2)
        weights = ops.cast(self._weights(inputs, stacked), stacked.dtype)
        return ops.sum(stacked * weights[..., None], axis=-2)

    def _weights(self, inputs: Any, stacked: Any) -> Any:
        """The weight of each source for each id, (..., sources), in float32; each id's add up to 1."""
        scores = 0.0  # of the mean
        if self.combine == "weighted":
            scores = ops.convert_to_tensor(self._scores)
        elif self.combine == "attention":
            scores = ops.einsum("...sd,d->...s", ops.cast(stacked, "float32"), ops.convert_to_tensor(self._scores))
        ids = ops.cast(inputs, "int64")
        found = tf.nn.embedding_lookup(self._found.value, ids) > 0
        return tf.nn.softmax(tf.where(found, scores, float("-inf")))

    def matrix(self) -> np.ndarray:
        """What the layer gives for each id as one float32 table, shape (input_dim, output_dim), up to rounding.

        Raises:
            ArgumentError: the layer is not built.
        """
        self._check_built()
        return table_of_calls(self)

    def _check_built(self) -> None:
        if not self.built:
            raise ArgumentError(f"Layer {self.name!r} has no table yet: build it, or call it once, first.")

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        """Which ids are not padding, where id 0 is masked."""
        return ops.not_equal(inputs, 0) if self.mask_zero else None

    def compute_output_spec(self, inputs: Any) -> keras.KerasTensor:
        """The shape of the ids with output_dim behind."""
        return keras.KerasTensor((*inputs.shape, self.output_dim), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The settings, and those of the layers inside; tables and map are weights."""
        layers = [keras.saving.serialize_keras_object(source) for source in self.sources]
        width = self.output_dim if self._projects else None
        return {**super().get_config(), "layers": layers, "combine": self.combine, "output_dim": width}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CombinedEmbedding":
        """A layer of these settings, whose tables are empty until weights are loaded."""
        layers = [keras.saving.deserialize_keras_object(each) for each in config["layers"]]
        return cls(**{**config, "layers": layers})


def _check_sources(layers: Any) -> list[keras.layers.Layer]:
    """The layers as a list, if they are embedding layers over the same ids."""
    sources = list(layers) if isinstance(layers, Sequence) else [layers]
    for source in sources:
        if not isinstance(source, keras.layers.Layer) or not hasattr(source, "matrix"):
            raise ArgumentError(
                f"combine_embeddings takes layers that build_embedding made. Received: {type(source).__name__}."
            )
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ArgumentError(
            f"Layers that are combined need names of their own: build_embedding(..., name=...). "
            f"Received: {', '.join(map(repr, names))}."
        )
    for source in sources[1:]:
        for what in ("input_dim", "mask_zero", "padding_id"):
            first, other = (
                _padding_of(each) if what == "padding_id" else getattr(each, what) for each in (sources[0], source)
            )
            if first != other:
                raise ArgumentError(
                    f"Layers that are combined read the same ids and have the same {what}. "
                    f"Received: {first} for layer {names[0]!r}, {other} for layer {source.name!r}."
                )
    return sources


def _padding_of(layer: keras.layers.Layer) -> int | None:
    return getattr(layer, "padding_id", 0 if layer.mask_zero else None)


def _check_combine(combine: Any, count: int, output_dim: Any) -> str:
    if isinstance(combine, str) and combine == "contextual":
        raise ArgumentError(_CONTEXTUAL)
    if combine not in COMBINATIONS:
        raise ArgumentError(f"combine must be one of {', '.join(COMBINATIONS)}. Received: {combine!r}.")
    if count < 2 and not (count and combine == "concat" and output_dim is not None):
        raise ArgumentError(
            f'There must be two layers to combine, or one with combine="concat" and an output_dim to project it to. '
            f"Received: {count} with combine={combine!r}, output_dim={output_dim!r}."
        )
    return combine


def _width(widths: list[int], combine: str, output_dim: Any, sources: list[keras.layers.Layer]) -> int:
    """The width of the result."""
    if output_dim is not None:
        if isinstance(output_dim, bool) or not isinstance(output_dim, int | np.integer) or output_dim < 1:
            raise ArgumentError(f"output_dim must be an integer >= 1, or None. Received: {output_dim!r}.")
        return int(output_dim)
    if combine == "concat":
        return sum(widths)
    if len(set(widths)) > 1:
        named = ", ".join(f"{width} of layer {each.name!r}" for width, each in zip(widths, sources, strict=True))
        raise ArgumentError(
            f"combine={combine!r} wants vectors of one width, or an output_dim to project them to. Received: {named}."
        )
    return widths[0]
