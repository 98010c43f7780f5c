"""load_decoder: a decoder in the form of Llama, from a GGUF file or the folder of a Hugging Face model, as a flat Keras model.

The file is checked before TensorFlow starts working: settings, and the shape of every tensor.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

import keras
import numpy as np

from embkeras._checks import flag, is_whole, shown, whole_number
from embkeras._checks import path as checked_path
from embkeras.encoders.base import in_float32, mark_base
from embkeras.encoders.decoders.chat import Chat
from embkeras.encoders.decoders.gguf_files import GgufFile
from embkeras.encoders.decoders.layers import CausalPlaces, DecoderBlock
from embkeras.encoders.decoders.llama import BLOCK, INSIDE, NORM, OUTPUT, WORDS, Llama, llama_of
from embkeras.encoders.decoders.reference import next_scores
from embkeras.encoders.layers import PROMPTS, SoftPrompts, WithoutPrompts
from embkeras.encoders.prompts import prompt_ids
from embkeras.encoders.remembers import remember
from embkeras.encoders.tensors import Tensors, opened_files, read_json
from embkeras.errors import ArgumentError, EncoderError, VocabularyError
from embkeras.tables.builders import build_embedding
from embkeras.tables.embedding import check_name
from embkeras.text.pieces import read_tokenizer
from embkeras.text.vocabulary import PADDING, Vocabulary
from embkeras.vectors.aligned import AlignedMatrix

_TOLERANCE = 1e-4  # of scores, relative to the largest
_PREFIX = "model."


class PretrainedDecoder:
    """A decoder that `load_decoder` found. Each model built from it has layers of its own.

    Attributes:
        path: the file or folder.
        tokenizer: its pieces, a `Vocabulary`, with one id more than the file has: that of the padding, so that no token of a
            text is ever taken for padding.
        max_length: the most tokens of a text that it was trained for.
        width: the width of its vectors.
        stop_ids: the ids that end a text.
        prompts: how many virtual tokens its models put in front of a text; see `with_prompts`.
        chat: the chat template: `read.chat(messages)` is the text that the decoder continues with an answer.
        blocks: the names of its blocks, from the input up: "transformer_layer_0", ...
        layer_groups: names of all its layers that train, from the input up, as `gradual_unfreeze` takes them.
    """

    def __init__(
        self,
        path: Path,
        architecture: Llama,
        tokenizer: Vocabulary,
        stop_ids: tuple[int, ...],
        chat: Chat,
        prompts: np.ndarray | None = None,
    ):
        self.path, self.tokenizer, self.stop_ids = path, tokenizer, stop_ids
        self._prompts = np.arange(0) if prompts is None else prompts  # the rows of the file's table that they begin as
        self.prompts = len(self._prompts)
        self.max_length, self.width = architecture.positions - self.prompts, architecture.width
        self.architecture, self.chat = architecture, chat
        self.blocks = tuple(f"transformer_layer_{place}" for place in range(architecture.layers))
        top = ["output_layer_norm"] if architecture.tied else ["output_layer_norm", "output_embedding"]
        self.layer_groups: list[list[str]] = [["token_embedding"], *([block] for block in self.blocks), top]

    def __repr__(self) -> str:
        prompts = f", {self.prompts} prompts" if self.prompts else ""
        pieces = len(self.tokenizer) - 1
        return f"PretrainedDecoder({len(self.blocks)} blocks, width {self.width}, {pieces:,} pieces{prompts})"

    def with_prompts(
        self, count: int, *, start: str | Sequence[str] | None = None, seed: int = 0
    ) -> "PretrainedDecoder":
        """The same decoder with `count` virtual tokens in front of every text: prompt tuning (Lester et al. 2021).

        Their vectors are the layer "prompts" of its models. They take the first positions, so texts may have `count` tokens
        less; every text of a packed row sees them. To train only them, freeze the other layers. An export keeps their keys and
        values in its cache, in front of those of the text.

        Args:
            count: how many.
            start: words: prompts begin as the vectors of their first `count` pieces, repeated where there are fewer. By default
                as pieces drawn at random.
            seed: of the drawing.

        Returns:
            A new object; this one stays as it is.

        Raises:
            ArgumentError: a `count` below 1 or that leaves no position for a text, a decoder that has prompts, or a `start`
                without a piece.

        Examples:
            >>> read = load_decoder("SmolLM2-135M-Instruct.Q4_1.gguf").with_prompts(8, start="Answer briefly.")  # doctest: +SKIP
        """
        if self.prompts:
            raise ArgumentError(f"The decoder has prompts already. Received: {self!r}.")
        count = whole_number(count, "count", least=1, most=self.max_length - 1)
        ids = prompt_ids(self.tokenizer, count, start, whole_number(seed, "seed", least=0))
        return PretrainedDecoder(self.path, self.architecture, self.tokenizer, self.stop_ids, self.chat, ids)

    def encode(self, text: str, *, inside: bool = False) -> list[int]:
        """The ids of a text.

        A token that the tokenizer puts in front of every text is put there once, though a chat template has written it too.

        Args:
            text: the text.
            inside: it continues another text, so nothing is put in front.

        Returns:
            The ids, special ones behind the text included; those in front of it only if `inside` is false.

        Raises:
            VocabularyError: not a text.
        """
        ids: list[int] = self.tokenizer.encode(text).tolist()
        tokenizer: Any = self.tokenizer.tokenizer
        before, _ = tokenizer.frame
        twice = before > 0 and ids[:before] == ids[before : 2 * before]
        return ids[before:] if inside or twice else ids

    def model(self, name: str = "decoder", *, packed: bool = False) -> keras.Model:
        """A flat model from `token_ids` (batch, time) to `scores` of every token as the next one, (batch, time, V + 1).

        Scores are logits; that of the padding, the last, is -30000.

        Args:
            name: its name.
            packed: several texts stand in each row: the model takes `segment_ids` too, as `encode_instructions` makes them, and
                no token sees one of another text.

        Returns:
            A model with weights of its own, not compiled.

        Raises:
            EncoderError: the tensors are damaged.
        """
        of, vocabulary = self.architecture, self.tokenizer
        name, ids = check_name(name), keras.Input((None,), dtype="int64", name="token_ids")
        inputs = [ids]
        if flag(packed, "packed"):
            inputs.append(keras.Input((None,), dtype="int32", name="segment_ids"))
        with _opened(self.path) as tensors:
            shapes = of.shapes()

            def table(tensor: str, layer: str) -> keras.layers.Layer:
                rows = np.zeros((of.vocabulary_size + 1, of.width), np.float32)
                rows[:-1] = tensors(tensor, shapes[tensor])
                found = np.arange(len(rows)) != vocabulary.padding_id
                aligned = AlignedMatrix(rows, vocabulary, found=found)
                made = build_embedding(aligned, trainable=True, mask_zero=False, name=layer)
                mark_base(made)
                return made

            words = table(WORDS, "token_embedding")
            seen = CausalPlaces(len(vocabulary) - 1, of.frequencies(), self.prompts, name="places")(*inputs)
            x = words(ids)
            if self.prompts:
                prompts = SoftPrompts(self.prompts, name=PROMPTS)
                prompts.build(x.shape)
                prompts.set_weights([tensors(WORDS, shapes[WORDS])[self._prompts]])
                x = prompts(x)
            for place, block_name in enumerate(self.blocks):
                block = DecoderBlock(
                    of.inner_width, of.heads, of.key_value_heads, of.head_width, of.epsilon, name=block_name
                )
                block.build(x.shape)
                _fill_block(block, tensors, shapes, BLOCK.format(place))
                remember(block)
                mark_base(block)
                x = block(x, *seen)
            if self.prompts:
                x = WithoutPrompts(self.prompts, name="without_prompts")(x)
            norm = keras.layers.RMSNormalization(epsilon=of.epsilon, name="output_layer_norm")
            norm.build(x.shape)
            norm.set_weights([tensors(NORM, shapes[NORM])])
            mark_base(norm)
            output = words if of.tied else table(OUTPUT, "output_embedding")
            scores = keras.layers.Activation("linear", dtype="float32", name="scores")(output.project(norm(x)))
        return keras.Model(inputs if packed else ids, scores, name=name)


def load_decoder(path: str | os.PathLike[str], *, verify: bool = False) -> PretrainedDecoder:
    """Read a decoder in the form of Llama: a GGUF file, or the folder of a Hugging Face model.

    Read are GGUF files of architecture "llama", with weights of any kind that the package `gguf` unpacks, and folders of
    model_type "llama" or "mistral". What can't be followed exactly is refused: biases, a sliding window, scaled rotary
    positions.

    Args:
        path: a .gguf file; or a folder with config.json, model.safetensors (or several with an index) and tokenizer.json.
        verify: compare the scores of the Keras model with a forward pass in NumPy on one short row of ids. It builds the
            model once more, in float32.

    Returns:
        The decoder: `read.model()` is its Keras model, and `generate(model, read, prompts)` continues texts.

    Raises:
        EncoderError: a missing or damaged file, another kind of model, tensors or settings that differ from those described,
            or a model that doesn't return what the reference returns.
        VocabularyError: a missing or damaged tokenizer, one of another kind, or with more pieces than the table has rows.
        MissingDependencyError: gguf, safetensors or tokenizers is not installed.

    Examples:
        >>> read = load_decoder("SmolLM2-135M-Instruct.Q4_1.gguf")  # doctest: +SKIP
        >>> generate(read.model(), read, ["The capital of France is"], max_new_tokens=2)  # doctest: +SKIP
        [' Paris.']
    """
    verify = flag(verify, "verify")
    path = checked_path(path, "path")
    if not path.exists():
        raise EncoderError(
            f"load_decoder takes a .gguf file or the folder of a Hugging Face model, on this machine. "
            f"There is no {str(path.absolute())!r}."
        )
    read = _read_folder(path) if path.is_dir() else _read_gguf(path)
    if verify:
        _verify(read)
    return read


def _read_gguf(path: Path) -> PretrainedDecoder:
    file = GgufFile(path)
    tokenizer = _with_padding(file.tokenizer(), file.architecture, str(path))
    tokens = {"bos_token": "bos_token_id", "eos_token": "eos_token_id"}
    names = {name: file.fields.get(f"tokenizer.ggml.{key}") for name, key in tokens.items()}
    named = {name: tokenizer.tokens[int(id_)] for name, id_ in names.items() if _is_id(id_, file.architecture)}
    stop_ids = _checked_stops(file.stop_ids(), file.architecture, str(path))
    chat = Chat(file.template, named, str(path))
    return PretrainedDecoder(path, file.architecture, tokenizer, stop_ids, chat)


def _read_folder(folder: Path) -> PretrainedDecoder:
    config = read_json(folder / "config.json")
    of = llama_of(config, repr(str(folder / "config.json")))
    with _opened(folder) as tensors:
        tensors.check(of.shapes())
    tokenizer = _with_padding(
        Vocabulary(**(read_tokenizer(folder, of.vocabulary_size) | {"padding_id": None, "oov_ids": ()})),
        of,
        str(folder),
    )
    settings = _optional(folder / "tokenizer_config.json")
    stops = _optional(folder / "generation_config.json").get("eos_token_id", config.get("eos_token_id"))
    stops = stops if isinstance(stops, list) else [] if stops is None else [stops]
    template = settings.get("chat_template")
    others: tuple[str, ...] = ()
    if isinstance(template, list):  # several by name; as in transformers, "default" is the one for plain messages
        by_name = {str(each.get("name")): each.get("template") for each in template if isinstance(each, dict)}
        template, others = by_name.get("default"), tuple(by_name)
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        try:
            template = beside.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise EncoderError(f"Cannot read {str(beside)!r}: {error}.") from None
    names = {name: _content(settings.get(name)) for name in ("bos_token", "eos_token")}
    named = {name: token for name, token in names.items() if token is not None}
    chat = Chat(template if isinstance(template, str) else None, named, str(folder), others)
    return PretrainedDecoder(folder, of, tokenizer, _checked_stops(stops, of, str(folder)), chat)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """What reads tensors, of a file or a folder."""
    if not path.is_dir():
        yield GgufFile(path)
        return
    with opened_files(path) as (names, where):
        yield Tensors({name.removeprefix(_PREFIX): value for name, value in names.items()}, where)


def _with_padding(tokenizer: Vocabulary, of: Llama, where: str) -> Vocabulary:
    """The vocabulary with the padding at its end."""
    if len(tokenizer) != of.vocabulary_size or PADDING in tokenizer.tokens:
        raise VocabularyError(
            f"The tokenizer of {where!r} must have {of.vocabulary_size} tokens, none of them empty. "
            f"Received: {len(tokenizer)}."
        )
    return Vocabulary(
        [*tokenizer.tokens, PADDING], padding_id=len(tokenizer), oov_ids=(), tokenizer=tokenizer.tokenizer
    )


def _is_id(id_: Any, of: Llama) -> TypeGuard[int]:
    return is_whole(id_) and 0 <= id_ < of.vocabulary_size


def _checked_stops(ids: Sequence[Any], of: Llama, where: str) -> tuple[int, ...]:
    for id_ in ids:
        if not _is_id(id_, of):
            raise EncoderError(
                f"Ids that end a text must be integers below {of.vocabulary_size}. Received: {shown(id_)} in {where!r}."
            )
    return tuple(dict.fromkeys(ids))


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _content(token: Any) -> str | None:
    token = token.get("content") if isinstance(token, Mapping) else token
    return token if isinstance(token, str) else None


def _fill_block(block: keras.layers.Layer, tensors: Any, shapes: Mapping[str, tuple[int, ...]], prefix: str) -> None:
    """Fill a block from the tensors of that prefix, by the paths of its variables."""
    for variable in block.weights:
        ours = next(name for name in INSIDE if f"/{name}/" in f"/{variable.path}")
        name = f"{prefix}{INSIDE[ours][0]}.weight"
        variable.assign(tensors(name, shapes[name]).T)


def _verify(read: PretrainedDecoder) -> None:
    """Compare the Keras model with the reference."""
    of = read.architecture
    ids = np.random.default_rng(0).integers(0, of.vocabulary_size, min(8, of.positions))
    with _opened(read.path) as tensors:
        wanted = next_scores(tensors, of, ids)
    with in_float32():
        got = np.asarray(read.model()(ids[None], training=False))[0, :, :-1]
    error, limit = float(np.abs(got - wanted).max()), _TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    if not error <= limit:
        raise EncoderError(
            f"The Keras model of {str(read.path)!r} doesn't return what its file says: scores differ by {error:.1e} from a "
            f"forward pass in NumPy, more than {limit:.1e}. Don't use it."
        )
