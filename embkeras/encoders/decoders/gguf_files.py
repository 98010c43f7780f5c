"""A GGUF file: its settings, tensors and tokenizer, read with the package `gguf`.

Tensors are unpacked one at a time, when they are asked for: the file is mapped into memory, not read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from embkeras._checks import shown
from embkeras.encoders.decoders.llama import Llama, llama_in_gguf, name_in_gguf
from embkeras.errors import EncoderError, MissingDependencyError, VocabularyError
from embkeras.text.pieces import PieceTokenizer
from embkeras.text.vocabulary import Vocabulary

MAGIC = b"GGUF"
_WORD, _CONTROL = 1, 3  # kinds of tokens
# How a byte-level tokenizer splits a text before it merges, by `tokenizer.ggml.pre`.
_DIGITS = {"type": "Digits", "individual_digits": True}
_LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _byte_level(use_regex: bool = True) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split(pattern: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


_SPLITS: dict[str, list[dict[str, Any]]] = {
    "default": [_byte_level()],
    "gpt-2": [_byte_level()],
    "smollm": [_DIGITS, _byte_level()],
    "llama-bpe": [_split(_LLAMA_3), _byte_level(use_regex=False)],
}


class GgufFile:
    """A GGUF file whose header has been read.

    Attributes:
        path: where it is.
        fields: its settings by name.
        shapes: the shapes of its tensors by their names there, kernels as (out, in).
        stored: how each tensor is stored, such as "F32" and "Q4_1".
        architecture: the settings of the decoder in it.

    Raises:
        EncoderError: no or a damaged file, another architecture, or tensors that don't fit the settings.
        MissingDependencyError: gguf is not installed.
    """

    def __init__(self, path: Path):
        self._gguf, self.path, self.where = _package(), path, repr(str(path))
        try:
            with path.open("rb") as file:
                begins = file.read(len(MAGIC))
        except OSError as error:
            raise EncoderError(f"Cannot read {self.where}: {error.strerror}.") from None
        if begins != MAGIC:
            raise EncoderError(f"{self.where} is no GGUF file. Received: a file that begins with {begins!r}.")
        try:
            reader = self._gguf.GGUFReader(path)
            self.fields: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
            self._tensors = {tensor.name: tensor for tensor in reader.tensors}
            self.shapes = {
                name: tuple(int(size) for size in reversed(tensor.shape.tolist()))
                for name, tensor in self._tensors.items()
            }
        except Exception as error:  # the library raises what NumPy raises
            raise EncoderError(f"{self.where} is not a complete GGUF file: {error}. Fetch it again.") from None
        self.stored = {name: tensor.tensor_type.name for name, tensor in self._tensors.items()}
        self.architecture = llama_in_gguf(self.fields, self.shapes, self.where)
        self._check(self.architecture)

    def _check(self, of: Llama) -> None:
        """Compare the header with the shapes of all tensors, without reading these."""
        wanted = {name_in_gguf(name): shape for name, shape in of.shapes().items()}
        for name, shape in wanted.items():
            if name not in self.shapes:
                raise EncoderError(f"{self.where} has no tensor {name!r}, which its settings ask for.")
            if self.shapes[name] != shape:
                raise EncoderError(
                    f"Tensor {name!r} of {self.where} must have the shape {shape}, as its settings say. "
                    f"Received: {self.shapes[name]}."
                )
        others = sorted(set(self.shapes) - set(wanted))
        if others:
            raise EncoderError(
                f"{self.where} has tensors that its settings don't describe: the model with them is another one. "
                f"Received: {', '.join(others[:3])}{' and others' if len(others) > 3 else ''}."
            )

    def __call__(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor that Hugging Face calls `name`, float32, its rows in Hugging Face's order.

        llama.cpp turns pairs of neighbours by a rotary position, Hugging Face the two halves of a head: the rows of query
        and key are stored in another order.
        """
        value = self.as_stored(name, shape)
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            head = self.architecture.head_width
            return value.reshape(-1, head // 2, 2, shape[1]).swapaxes(1, 2).reshape(shape)
        return value

    def as_stored(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The same with the rows in the order of the file."""
        tensor = self._tensors[name_in_gguf(name)]
        try:
            value = self._gguf.dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32)
        except (NotImplementedError, ValueError, KeyError) as error:
            raise EncoderError(
                f"Tensor {tensor.name!r} of {self.where}, stored as {tensor.tensor_type.name}, can't be unpacked: {error}."
            ) from None
        if not np.isfinite(value).all():
            raise EncoderError(f"Tensor {tensor.name!r} of {self.where} must be finite. Received: NaN or infinity.")
        return value

    @property
    def template(self) -> str | None:
        """The chat template, if there is one."""
        template = self.fields.get("tokenizer.chat_template")
        return template if isinstance(template, str) else None

    def stop_ids(self) -> list[Any]:
        """What the file says that ends a text, as it says it."""
        names = ("eos_token_id", "eot_token_id", "eom_token_id")
        found = (self.fields.get(f"tokenizer.ggml.{name}") for name in names)
        return [id_ for id_ in found if id_ is not None]

    def tokenizer(self) -> Vocabulary:
        """The tokens of the file as a Vocabulary, without padding.

        Raises:
            VocabularyError: a kind of tokenizer that can't be made from what the file says, or damaged tokens.
        """
        kind, split = self.fields.get("tokenizer.ggml.model"), self.fields.get("tokenizer.ggml.pre", "default")
        if kind != "gpt2" or not isinstance(split, str) or split not in _SPLITS:
            raise VocabularyError(
                f"A tokenizer is made from a GGUF file whose tokenizer.ggml.model is gpt2 and whose tokenizer.ggml.pre is "
                f"one of {', '.join(_SPLITS)}. Received: {shown(kind)} and {shown(split)} in {self.where}. Read the model's "
                f"Hugging Face folder instead, which has a tokenizer.json."
            )
        tokens, kinds = self._list("tokens", str), self._list("token_type", int)
        merges = self._list("merges", str)
        if len(kinds) != len(tokens) or any(merge.count(" ") != 1 for merge in merges):
            raise VocabularyError(
                f"The tokens of {self.where} need one token_type each and merges of two tokens. "
                f"Received: {len(tokens)} tokens, {len(kinds)} types, {len(merges)} merges."
            )
        added = [
            {"id": id_, "content": token, "single_word": False, "lstrip": False, "rstrip": False}
            | {"normalized": False, "special": kind == _CONTROL}
            for id_, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind != _WORD
        ]
        definition = {
            "version": "1.0",
            "added_tokens": added,
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": _SPLITS[split]},
            "post_processor": self._start(tokens, split),
            "decoder": _byte_level(),
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": split == "llama-bpe",
                "vocab": {token: id_ for id_, token in enumerate(tokens)},
                "merges": [merge.split(" ") for merge in merges],
            },
        }
        tokenizer = PieceTokenizer(json.dumps(definition))
        return Vocabulary(tokens, padding_id=None, oov_ids=(), tokenizer=tokenizer)

    def _start(self, tokens: list[str], split: str) -> Mapping[str, Any] | None:
        """What puts the first token in front of each text, if the file asks for one."""
        if not self.fields.get("tokenizer.ggml.add_bos_token", split == "llama-bpe"):
            return None
        id_ = self.fields.get("tokenizer.ggml.bos_token_id")
        if not isinstance(id_, int) or not 0 <= id_ < len(tokens):
            raise VocabularyError(
                f"{self.where} puts a token in front of each text, so it needs tokenizer.ggml.bos_token_id below "
                f"{len(tokens)}. Received: {shown(id_)}."
            )
        first = {"SpecialToken": {"id": tokens[id_], "type_id": 0}}
        text = [{"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B")]
        return {
            "type": "TemplateProcessing",
            "single": [first, text[0]],
            "pair": [first, text[0], text[1]],
            "special_tokens": {tokens[id_]: {"id": tokens[id_], "ids": [id_], "tokens": [tokens[id_]]}},
        }

    def _list(self, name: str, of: type) -> list[Any]:
        values = self.fields.get(f"tokenizer.ggml.{name}")
        if not isinstance(values, list) or not all(isinstance(each, of) for each in values):
            raise VocabularyError(f"{self.where} must have a list tokenizer.ggml.{name}. Received: {shown(values)}.")
        return values


def _package() -> Any:
    try:
        import gguf
    except ImportError as error:
        raise MissingDependencyError(
            f"Reading a GGUF file needs the package gguf, which can't be imported ({error}): "
            f'python -m pip install "embkeras[gguf]".'
        ) from None
    return gguf
