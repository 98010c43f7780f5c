"""load_pretrained: the folder of a pre-trained encoder, as layers of a flat Keras model.

Its blocks are keras-hub's `TransformerEncoder`, made with the activation, epsilon and dropout of config.json and filled from the
file itself. keras-hub's own converters ignore some of these settings, and need tensors that not every file has.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np

from embkeras._checks import flag, whole_number
from embkeras.encoders.base import in_float32, mark_base
from embkeras.encoders.families import NORM, POSITIONS, PROJECTION, SEGMENTS, WORDS, Architecture, Family
from embkeras.encoders.folder import is_preset, read_folder
from embkeras.encoders.layers import (
    PROMPTS,
    PaddingMask,
    PositionTable,
    SegmentTable,
    SoftPrompts,
    WithoutPrompts,
    gelu_tanh,
)
from embkeras.encoders.presets import preset_states, preset_tensors
from embkeras.encoders.prompts import prompt_ids
from embkeras.encoders.reference import hidden_states
from embkeras.encoders.remembers import remember
from embkeras.encoders.tensors import Tensors, opened, read_json
from embkeras.errors import ArgumentError, EncoderError, MissingDependencyError
from embkeras.tables.builders import build_embedding
from embkeras.tables.embedding import check_name
from embkeras.text.vocabulary import Vocabulary
from embkeras.vectors.aligned import AlignedMatrix

_TOLERANCE = 1e-4  # of hidden states, whose size is about 1
_POOLING = "1_Pooling/config.json"


class PretrainedEncoder:
    """An encoder that `load_pretrained` found in a folder. Each model built from it has layers of its own.

    Attributes:
        folder: where it is.
        config: the contents of its config.json; of a preset, the same settings by their Hugging Face names.
        tokenizer: its pieces, a `Vocabulary`: `encode_batch` makes the ids that its models take.
        max_length: the most tokens of a text, special ones included.
        width: the width of its vectors.
        pool: "mean" or "cls": how its authors made one vector of a text, if the folder says so; else "cls".
        prompts: how many virtual tokens its models put in front of a text; see `with_prompts`.
        blocks: the names of its blocks, from the input up: "transformer_layer_0", ...
        layer_groups: names of all its layers that train, from the input up, as `gradual_unfreeze` takes them.
    """

    def __init__(
        self,
        folder: Path,
        config: dict[str, Any],
        architecture: Architecture,
        tokenizer: Vocabulary,
        rows: np.ndarray | None = None,
        prompts: np.ndarray | None = None,
    ):
        self.folder, self.config, self.tokenizer = folder, config, tokenizer
        self._rows = np.arange(architecture.vocabulary_size) if rows is None else rows
        self._prompts = np.arange(0) if prompts is None else prompts  # the rows of the file's table that they begin as
        self.prompts = len(self._prompts)
        self.max_length, self.width = architecture.positions - self.prompts, architecture.width
        self.pool = _pool_of(folder)
        self._architecture = architecture
        self._names = {
            block: f"transformer_layer_{place}" for place, block in enumerate(dict.fromkeys(architecture.blocks))
        }
        self.blocks = tuple(self._names.values())
        below = ["token_embedding", "position_embedding", "segment_embedding", "embeddings_layer_norm"]
        below += ["embeddings_projection"] if architecture.projected else []
        if not architecture.segments:
            below.remove("segment_embedding")
        self.layer_groups: list[list[str]] = [below, *([block] for block in self.blocks)]

    def __repr__(self) -> str:
        kind = self.config["model_type"]
        prompts = f", {self.prompts} prompts" if self.prompts else ""
        return (
            f"PretrainedEncoder({kind}, {len(self.blocks)} blocks, width {self.width}, {len(self.tokenizer):,} pieces"
            f"{prompts})"
        )

    def trimmed(self, texts: Iterable[str], *, min_count: int = 1) -> "PretrainedEncoder":
        """The same encoder with only the pieces that these texts need: its token table has fewer rows.

        Vectors of these texts are the same; other words are spelled in smaller pieces. See `Vocabulary.trimmed`.

        Args:
            texts: the training texts.
            min_count: occurrences that a piece needs. Words with rarer ones are split into smaller pieces.

        Returns:
            A new object, whose `tokenizer` has other ids; this one stays as it is.

        Raises:
            VocabularyError: a tokenizer of another kind than word pieces, or what `Vocabulary.encode` raises.

        Examples:
            >>> read = load_pretrained("all-MiniLM-L6-v2").trimmed(texts)  # doctest: +SKIP
        """
        tokenizer = self.tokenizer.trimmed(texts, min_count=min_count)
        place = {token: id_ for id_, token in enumerate(self.tokenizer.tokens)}
        rows = self._rows[[place[token] for token in tokenizer.tokens]]
        return PretrainedEncoder(self.folder, self.config, self._architecture, tokenizer, rows, self._prompts)

    def with_prompts(
        self, count: int, *, start: str | Sequence[str] | None = None, seed: int = 0
    ) -> "PretrainedEncoder":
        """The same encoder with `count` virtual tokens in front of every text: prompt tuning (Lester et al. 2021).

        Their vectors are the layer "prompts" of its models. They take the first positions, so texts may have `count` tokens
        less; ids, masks and outputs are those of the text alone, and so is an export. To train only them, freeze the rest:
        `Phase(0, train=["prompts", "scores"])`.

        Args:
            count: how many.
            start: words, or the names of the classes: prompts begin as the vectors of their first `count` pieces, repeated
                where there are fewer. By default as pieces drawn at random.
            seed: of the drawing.

        Returns:
            A new object; this one stays as it is.

        Raises:
            ArgumentError: a `count` below 1 or that leaves no position for a text, an encoder that has prompts, or a word of
                `start` of which the tokenizer knows no piece.

        Examples:
            >>> read = load_pretrained("all-MiniLM-L6-v2").with_prompts(8, start=["negative", "positive"])  # doctest: +SKIP
            >>> model = build_encoder_classifier(read, 2)  # doctest: +SKIP
        """
        if self.prompts:
            raise ArgumentError(f"The encoder has prompts already. Received: {self!r}.")
        count = whole_number(count, "count", least=1, most=self.max_length - 1)
        ids = prompt_ids(self.tokenizer, count, start, whole_number(seed, "seed", least=0))
        return PretrainedEncoder(
            self.folder, self.config, self._architecture, self.tokenizer, self._rows, self._rows[ids]
        )

    def _separator(self) -> int | None:
        """The id that separates the texts of a pair; None where both are in one segment."""
        if self._architecture.segments < 2:
            return None
        return int(self.tokenizer.encode("")[-1])

    def model(self, name: str = "encoder") -> keras.Model:
        """A flat model from `token_ids` (batch, time) to the vectors behind the last block, (batch, time, width)."""
        ids = keras.Input((None,), dtype="int64", name="token_ids")
        return keras.Model(ids, self.vectors(ids)[0], name=check_name(name))

    def pooler(self) -> keras.layers.Layer:
        """The dense layer that transformers' classifiers have between the first token and the last layer.

        BERT and ALBERT come with one. For the others it is new, drawn at random.

        Returns:
            A built layer, new with each call: (batch, width) to (batch, width).

        Raises:
            EncoderError: the folder of a BERT or an ALBERT lacks it.
        """
        family, width = self._architecture.family, self.width
        dense = keras.layers.Dense(width, activation=family.pooler_activation, name="pooler")
        dense.build((None, width))
        if family.pooler is not None:
            with _opened(self.folder, family) as tensors:
                kernel = tensors(f"{family.pooler}.weight", (width, width)).T
                dense.set_weights([kernel, tensors(f"{family.pooler}.bias", (width,))])
            mark_base(dense)
        return dense

    def vectors(self, ids: Any, *, pairs: bool = False) -> tuple[Any, Any]:
        """New layers on symbolic ids (batch, time), filled from the folder.

        Args:
            ids: a `keras.Input`.
            pairs: rows are pairs of texts, as `tokenizer.encode_pairs` makes them: segments are found at the separators.

        Returns:
            The vectors behind the last block, (batch, time, width), and the mask of tokens that are no padding, bool
            (batch, time).

        Raises:
            EncoderError: the tensors are damaged, or others than config.json describes.
            MissingDependencyError: keras-hub or safetensors is not installed.
        """
        hub, of = _package(), self._architecture
        with _opened(self.folder, of.family) as tensors:
            table = tensors(f"{WORDS}.weight", (of.vocabulary_size, of.embedding_width))[self._rows]
            padding_id = int(self.tokenizer.padding_id or 0)  # load_pretrained refuses a tokenizer without one
            found = np.arange(len(table)) != padding_id
            aligned = AlignedMatrix(table, self.tokenizer, found=found)
            tokens = build_embedding(aligned, trainable=True, mask_zero=False, name="token_embedding")
            mark_base(tokens)
            x = tokens(ids)
            mask = seen = PaddingMask(padding_id, name="padding_mask")(ids)
            if self.prompts:
                rows = tensors(f"{WORDS}.weight", (of.vocabulary_size, of.embedding_width))[self._prompts]
                x = _filled(SoftPrompts(self.prompts, name=PROMPTS), x, [rows], base=False)
                seen = PaddingMask(padding_id, self.prompts, name="mask_with_prompts")(ids)
            first = of.family.unused_positions
            rows = tensors(f"{POSITIONS}.weight", (of.positions + first, of.embedding_width))[first:]
            x = _filled(PositionTable(of.positions, self.prompts, name="position_embedding"), x, [rows])
            if of.segments:
                rows = tensors(f"{SEGMENTS}.weight", (of.segments, of.embedding_width))
                separator = self._separator() if pairs else None
                segments = SegmentTable(of.segments, separator, self.prompts, name="segment_embedding")
                x = _filled(segments, x, [rows], *([] if separator is None else [ids]))
            norm = keras.layers.LayerNormalization(epsilon=of.epsilon, name="embeddings_layer_norm")
            x = _filled(norm, x, [tensors(f"{NORM}.{kind}", x.shape[-1:]) for kind in ("weight", "bias")])
            x = keras.layers.Dropout(of.dropout, name="embeddings_dropout")(x)
            if of.projected:
                kernel = tensors(f"{PROJECTION}.weight", (of.width, of.embedding_width)).T
                dense = keras.layers.Dense(of.width, name="embeddings_projection")
                x = _filled(dense, x, [kernel, tensors(f"{PROJECTION}.bias", (of.width,))])
            made: dict[str, keras.layers.Layer] = {}
            for block in of.blocks:
                if block not in made:
                    made[block] = hub.layers.TransformerEncoder(
                        of.inner_width,
                        of.heads,
                        dropout=of.dropout,
                        activation=gelu_tanh if of.activation == "gelu_tanh" else of.activation,
                        layer_norm_epsilon=of.epsilon,
                        name=self._names[block],
                    )
                    made[block].build(x.shape)
                    _fill_block(made[block], tensors, of, block)
                    remember(made[block])  # what is frozen, in a .keras file
                x = made[block](x, padding_mask=seen)
            tensors.check_all_read()
        if self.prompts:
            x = WithoutPrompts(self.prompts, name="without_prompts")(x)
        return x, mask


def load_pretrained(folder: str | os.PathLike[str], *, verify: bool = False) -> PretrainedEncoder:
    """Read a pre-trained encoder from the folder of a Hugging Face model, or from a preset of keras-hub.

    The model types bert, distilbert, roberta, xlm-roberta and albert are read, as config.json describes them: activation,
    epsilon of the norms, segments. What can't be followed exactly is refused. The presets of keras-hub of these kinds are
    read too. Its converter gives every BERT the tanh form of GELU: read a model that was converted to a preset from its
    original folder.

    Args:
        folder: with config.json, model.safetensors (or several with an index), and tokenizer.json or vocab.txt. Or what
            `save_to_preset` of a backbone and of its tokenizer wrote.
        verify: compare what the Keras model returns with a forward pass in NumPy, or with keras-hub's own model for a preset,
            on three short rows of ids. It builds the model once more, in float32.

    Returns:
        The encoder: its `tokenizer` turns texts into ids, and `build_encoder_classifier` puts a head on it.

    Raises:
        EncoderError: a missing or damaged file, another kind of model, tensors or settings that differ from those described,
            or a model that doesn't return what the reference returns.
        VocabularyError: a missing or damaged tokenizer, or one with more pieces than the encoder's table has rows.
        MissingDependencyError: keras-hub, tokenizers or safetensors is not installed.

    Examples:
        >>> read = load_pretrained("all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> ids = read.tokenizer.encode_batch(["good morning", "hm"], 64)  # doctest: +SKIP
        >>> read.model()(ids).shape  # doctest: +SKIP
        TensorShape([2, 64, 384])
    """
    verify = flag(verify, "verify")
    folder, config, architecture, tokenizer = read_folder(folder)
    _package()
    read = PretrainedEncoder(folder, config, architecture, tokenizer)
    if verify:
        _verify(read, architecture)
    return read


def _verify(read: PretrainedEncoder, of: Architecture) -> None:
    """Compare the Keras model with the reference, on rows of several lengths."""
    lengths = [min(length, of.positions) for length in (12, 5, 1)]
    ids = np.random.default_rng(0).integers(0, of.vocabulary_size, (3, lengths[0]))
    ids[ids == of.padding_id] = (of.padding_id + 1) % of.vocabulary_size
    for row, length in zip(ids, lengths, strict=True):
        row[length:] = of.padding_id
    preset = is_preset(read.folder)
    if preset:
        wanted = preset_states(read.folder, ids, of.padding_id)
    else:
        with opened(read.folder, of.family) as tensors:
            wanted = hidden_states(tensors, of, ids)
    with in_float32():
        got = np.asarray(read.model()(ids, training=False))
    error = float(np.abs(got - wanted)[ids != of.padding_id].max())
    if not error <= _TOLERANCE:
        raise EncoderError(
            f"The Keras model of {str(read.folder)!r} doesn't return what its file says: vectors differ by {error:.1e} from "
            f"{'those of keras-hub' if preset else 'a forward pass in NumPy'}, more than {_TOLERANCE:g}. Don't use it."
        )


def _opened(folder: Path, family: Family) -> AbstractContextManager[Tensors]:
    """The tensors of either kind of folder."""
    return nullcontext(preset_tensors(folder, family)) if is_preset(folder) else opened(folder, family)


def _filled(layer: keras.layers.Layer, x: Any, values: list[np.ndarray], *others: Any, base: bool = True) -> Any:
    """The output of a new layer on x, with these weights."""
    layer.build(x.shape)
    layer.set_weights(values)
    if base:
        mark_base(layer)
    return layer(x, *others)


def _fill_block(block: keras.layers.Layer, tensors: Tensors, of: Architecture, prefix: str) -> None:
    """Fill a block from the tensors of that prefix, by the paths of its variables."""
    shapes = of.shapes()
    for variable in block.weights:
        *_, inside, kind = variable.path.split("/")
        ours = next(
            name for name in of.family.tensors if name.endswith(inside) and f"/{name}/{kind}" in f"/{variable.path}"
        )
        name = f"{prefix}{of.family.tensors[ours]}.{'bias' if kind in ('bias', 'beta') else 'weight'}"
        variable.assign(tensors(name, shapes[name]).T.reshape(variable.shape))
    mark_base(block)


def _pool_of(folder: Path) -> str:
    """How sentence-transformers pools this encoder, where "mean" or "cls"."""
    if not (folder / _POOLING).is_file():
        return "cls"
    return "mean" if read_json(folder / _POOLING).get("pooling_mode_mean_tokens") is True else "cls"


def _package() -> Any:
    try:
        import keras_hub
    except ImportError as error:
        raise MissingDependencyError(
            f"An encoder's blocks need keras-hub, which can't be imported ({error}): "
            f'python -m pip install "embkeras[contextual]".'
        ) from None
    return keras_hub
