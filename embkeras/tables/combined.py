"""CombinedEmbedding: several tables over the same ids, as one embedding layer.

However the sources are combined, the vector of an id depends on the id alone, so the layer is one table, which `matrix()`
returns. Nothing has a bias: padding, zeros in every source, is zeros in the result.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from embkeras._checks import one_of, whole_number
from embkeras.errors import ArgumentError
from embkeras.tables.embedding import check_built, check_dtype, check_name
from embkeras.tables.partial_rows import check_mask
from embkeras.tables.projection import Projection
from embkeras.tables.resize import replace_map
from embkeras.tables.row_io import table_of_calls
from embkeras.tables.stand_ins import stand_in_for

COMBINATIONS = ("concat", "mean", "weighted", "attention")
_SHARED = ("input_dim", "mask_zero", "padding_id")  # the same in all sources


def combine_embeddings(
    layers: Sequence[keras.layers.Layer],
    *,
    combine: str = "concat",
    output_dim: int | None = None,
    found: Sequence[np.ndarray] | None = None,
    name: str = "embedding",
    dtype: Any = None,
) -> "CombinedEmbedding":
    """One built embedding layer out of several, each of which stays frozen, trainable, or partly trainable.

    Args:
        layers: what `build_embedding` returned, each with its own name, over the same ids. With `output_dim` a single
            layer is enough: that is a projection to another width.
        combine: "concat" puts the vectors side by side; "mean" averages them (Coates & Bollegala 2018, Frustratingly
            Easy Meta-Embedding); "weighted" learns one weight per source, "attention" one per source and word
            (dynamic meta-embeddings: Kiela, Wang & Cho 2018, Dynamic Meta-Embeddings for Improved Sentence Representations).
        output_dim: width of the result after a learned projection without bias: of the vectors side by side for
            "concat", of each source for the others. By default there is no projection, and all but "concat" need
            sources of one width; only "attention" always projects.
        found: for each layer the bool array (V,) of the ids that its source contains, `aligned.found`. A source without
            a word then has weight 0 there and its row learns nothing; the others share the weight. A word that no source
            contains ("[UNK]") is weighted as if all did. By default every source contains every word. Not for "concat",
            which has no weights: it uses the rows that `align` filled in.
        name: the layer's name. Schedules find the layers inside as "embedding/static".
        dtype: of the vectors: a type of floats or a policy of one, as for any Keras layer.

    Returns:
        A layer from integer ids (batch, time) to vectors (batch, time, output_dim); `.matrix()` returns them as one table.

    Raises:
        ArgumentError: not embedding layers, layers that don't match each other, an unknown `combine`, widths that can't
            be combined, masks that don't match the layers, or a `dtype` that isn't of floats.

    Examples:
        The channels of Kim 2014 (Convolutional Neural Networks for Sentence Classification), one of them frozen:

        >>> from embkeras.tables.builders import build_embedding
        >>> from embkeras.vectors.aligned import AlignedMatrix
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

        A projection alone; once trained, it folds into a table:

        >>> narrow = combine_embeddings([build_embedding(aligned)], output_dim=1, name="narrow")
        >>> folded = build_embedding(AlignedMatrix(narrow.matrix(), vocabulary))
        >>> bool(np.allclose(folded(np.arange(3)), narrow(np.arange(3))))
        True
    """
    layer = CombinedEmbedding(layers, combine, output_dim, name=check_name(name), dtype=check_dtype(dtype, name))
    layer.build()
    if found is not None:
        layer.assign_found(found)
    return layer


@keras.saving.register_keras_serializable("embkeras")
class CombinedEmbedding(Projection):
    """Several embedding layers over the same ids as one; `combine_embeddings` makes one.

    Setting its `trainable` sets that of the layers inside: to freeze or unfreeze one of them, name it ("embedding/tuned").
    Don't use a layer inside elsewhere in the model too: Keras would refuse to load a .keras file of that model.

    Args:
        layers: as for `combine_embeddings`.
        combine: as for `combine_embeddings`.
        output_dim: as for `combine_embeddings`.
        **kwargs: as for any Keras layer.

    Attributes:
        sources: the layers inside.
        input_dim, mask_zero, padding_id: those of the layers inside.
        output_dim: width of the result.

    Input shape: integer ids of any shape. Output shape: the same with output_dim at the end.
    """

    _found: Any

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
        self.input_dim, self.mask_zero, self.padding_id = first.input_dim, first.mask_zero, first.padding_id
        if output_dim is not None:
            self.output_dim = whole_number(output_dim, "output_dim", least=1)
        elif combine == "concat":
            self.output_dim = sum(widths)
        elif len(set(widths)) == 1:
            self.output_dim = widths[0]
        else:
            named = ", ".join(f"{each.output_dim} of layer {each.name!r}" for each in self.sources)
            raise ArgumentError(
                f"combine={combine!r} needs vectors of one width, or an output_dim to project them to. Received: {named}."
            )
        self._projects = output_dim is not None or combine == "attention"
        self.supports_masking = self.mask_zero
        self.autocast = False  # float32 ids would lose their last digits in float16
        for source in self.sources:  # here, so that new and loaded layers have the same variable paths
            if not source.built:
                source.build()

    def build(self, input_shape: Any = None) -> None:
        """Make the projections, the scores that weights are computed from, and the map of which source contains which id."""
        if self.built:
            return
        widths = {f"projection_{source.name}": source.output_dim for source in self.sources}
        if self.combine == "concat":
            widths = {"projection": sum(widths.values())}
        # Orthogonal, so that vectors keep their distances at the start, as far as the width allows. Weights, not Dense
        # layers: Model.quantize would quantize those, and a file would not say so.
        self._projections = [
            self.add_weight(shape=(width, self.output_dim), initializer="orthogonal", name=name)
            for name, width in widths.items()
            if self._projects
        ]
        self._scores = self._found = None
        if self.combine in ("weighted", "attention"):  # zeros: both start as the mean
            size = len(self.sources) if self.combine == "weighted" else self.output_dim
            self._scores = self.add_weight(shape=(size,), initializer="zeros", name="scores")
        if self.combine != "concat":
            # A variable, since a constant would be written into every graph.
            shape = (self.input_dim, len(self.sources))
            self._found = self.add_weight(shape=shape, initializer="ones", dtype="int8", name="found", trainable=False)

    def assign_found(self, found: Sequence[np.ndarray]) -> None:
        """Set which ids each source contains; for the others its weight is 0.

        Args:
            found: as for `combine_embeddings`.

        Raises:
            ArgumentError: the layer is not built or concatenates, or masks of the wrong number, dtype or shape.
        """
        check_built(self)
        if self._found is None:
            raise ArgumentError(
                f'combine="concat" has no weights, so it takes no found (layer {self.name!r}): '
                f"it uses the rows that align filled in."
            )
        masks = list(found) if isinstance(found, Iterable) else [found]
        if len(masks) != len(self.sources):
            raise ArgumentError(f"found takes one mask for each of {len(self.sources)} layers. Received: {len(masks)}.")
        masks = [
            check_mask(mask, self.input_dim, f"The found mask of layer {source.name!r}")
            for mask, source in zip(masks, self.sources, strict=True)
        ]
        self._found.assign(_with_a_source(np.stack(masks, axis=1)))

    def change_tokens(self, sources: np.ndarray, found: np.ndarray) -> None:
        """Follow a change of the vocabulary: known tokens keep what `assign_found` set, new ones get `found`.

        Args:
            sources: for each new id the id that its token had before, or -1 for a new token.
            found: bool of shape (new ids, layers).
        """
        self.input_dim = len(sources)
        if self._found is not None:
            table, known = _with_a_source(found), sources >= 0
            table[known] = ops.convert_to_numpy(self._found)[sources[known]]
            replace_map(self, "_found", table)

    def call(self, inputs: Any, reverse: bool = False, candidates: Any = None) -> Any:
        """The combined vectors of `inputs`, in the layer's compute dtype; with `reverse`, what `project` returns."""
        if reverse:
            return self.scores(inputs, candidates)
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
        """The weight of each source for each id, (..., sources), in float32; the weights of an id sum to 1."""
        scores = 0.0  # for the mean
        if self.combine == "weighted":
            scores = ops.convert_to_tensor(self._scores)
        elif self.combine == "attention":
            scores = ops.einsum("...sd,d->...s", ops.cast(stacked, "float32"), ops.convert_to_tensor(self._scores))
        ids = ops.cast(inputs, "int64")
        found = tf.nn.embedding_lookup(self._found.value, ids) > 0
        return tf.nn.softmax(tf.where(found, scores, float("-inf")))

    def matrix(self) -> np.ndarray:
        """What the layer returns for each id as one float32 table, shape (input_dim, output_dim), up to rounding.

        Raises:
            ArgumentError: the layer is not built.
        """
        check_built(self)
        return table_of_calls(self)

    def compute_output_spec(self, inputs: Any, reverse: bool = False, candidates: Any = None) -> keras.KerasTensor:
        """The shape of the ids with output_dim at the end, or of scores."""
        if reverse:
            return self.scores_spec(inputs, candidates)
        return keras.KerasTensor((*inputs.shape, self.output_dim), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The settings, with those of the layers inside."""
        layers = [keras.saving.serialize_keras_object(source) for source in self.sources]
        width = self.output_dim if self._projects else None
        return {**super().get_config(), "layers": layers, "combine": self.combine, "output_dim": width}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CombinedEmbedding":
        """A layer with these settings; its tables are empty until weights are loaded."""
        layers = [keras.saving.deserialize_keras_object(each) for each in config["layers"]]
        return cls(**{**config, "layers": layers})


def _with_a_source(found: np.ndarray) -> np.ndarray:
    """The masks (ids, layers) as int8; an id that no source contains counts as contained in all."""
    return (found | ~found.any(axis=1, keepdims=True)).astype(np.int8)


def _check_sources(layers: Any) -> list[keras.layers.Layer]:
    sources = list(layers) if isinstance(layers, Iterable) else [layers]
    for source in sources:
        needed = "matrix", "output_dim", *_SHARED
        if not isinstance(source, keras.layers.Layer) or not all(hasattr(source, each) for each in needed):
            raise ArgumentError(
                f"combine_embeddings takes layers made by build_embedding. Received: {type(source).__name__}."
            )
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ArgumentError(
            f"Layers to combine need different names: build_embedding(..., name=...). "
            f"Received: {', '.join(map(repr, names))}."
        )
    for source in sources[1:]:
        for what in _SHARED:
            first, other = getattr(sources[0], what), getattr(source, what)
            if first != other:
                raise ArgumentError(
                    f"Layers to combine must have the same {what}. "
                    f"Received: {first} for layer {names[0]!r}, {other} for layer {source.name!r}."
                )
    return sources


def _check_combine(combine: Any, count: int, output_dim: Any) -> str:
    if isinstance(combine, str) and combine == "contextual":
        raise ArgumentError(
            "Contextual meta-embeddings weight the sources of a word by the words around it, so an id would have no vector "
            'of its own, and the layer no matrix(). Use combine="attention", which weights them by the word alone. '
            'Received: "contextual".'
        )
    one_of(combine, "combine", COMBINATIONS)
    if count < 2 and not (count and combine == "concat" and output_dim is not None):
        raise ArgumentError(
            f'combine_embeddings needs two layers, or one with combine="concat" and an output_dim to project it to. '
            f"Received: {count} with combine={combine!r}, output_dim={output_dim!r}."
        )
    return combine
