"""A SentencePiece model, as the `tokenizers` library splits texts: the tokenizers of ALBERT and XLM-RoBERTa.

Kudo & Richardson 2018. One thing differs, as it does in Hugging Face's own files: in a model with a table of
characters, the library drops combining marks that don't merge with the character before.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from embkeras._checks import shown
from embkeras.errors import VocabularyError
from embkeras.text.pieces import PieceTokenizer, tokenizers_package

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # types of pieces besides the normal ones, 1
_UNIGRAM = 1
_SPACE = "\u2581"
# Message -> number of a field, its name, kind and default. Only what decides how a text is split.
_FIELDS: dict[str, list[tuple[int, str, str, str | None]]] = {
    "Piece": [(1, "piece", "STRING", None), (2, "score", "FLOAT", None), (3, "type", "INT32", "1")],
    "Trainer": [
        (3, "model_type", "INT32", "1"),
        (24, "treat_whitespace_as_suffix", "BOOL", None),
        (35, "byte_fallback", "BOOL", None),
    ],
    "Normalizer": [
        (2, "precompiled_charsmap", "BYTES", None),
        (3, "add_dummy_prefix", "BOOL", "true"),
        (4, "remove_extra_whitespaces", "BOOL", "true"),
        (5, "escape_whitespaces", "BOOL", "true"),
    ],
    "Model": [
        (1, "pieces", "Piece", None),
        (2, "trainer_spec", "Trainer", None),
        (3, "normalizer_spec", "Normalizer", None),
    ],
}
_XLM_ROBERTA = ("<s>", "<pad>", "</s>", "<unk>")  # fairseq's first pieces, in place of SentencePiece's first three


def albert_pieces(file: Path) -> PieceTokenizer:
    """ALBERT's tokenizer: the pieces of a SentencePiece model with their own ids, between "[CLS]" and "[SEP]".

    Args:
        file: the model, such as "spiece.model" or keras-hub's "vocabulary.spm".

    Raises:
        VocabularyError: not a SentencePiece model, one of another kind, or without the special pieces.
        MissingDependencyError: tokenizers is not installed.
    """
    model = _read(file)
    return _made(file, model, [(each.piece, each.score) for each in model.pieces], "[CLS]", "[SEP]", [])


def xlm_roberta_pieces(file: Path) -> PieceTokenizer:
    """XLM-RoBERTa's tokenizer: the pieces of a SentencePiece model, their ids one higher, between "<s>" and "</s>".

    Args:
        file: the model, such as "sentencepiece.bpe.model" or keras-hub's "vocabulary.spm".

    Raises:
        VocabularyError: not a SentencePiece model, one of another kind, or whose first piece isn't the unknown one.
        MissingDependencyError: tokenizers is not installed.
    """
    model = _read(file)
    if model.pieces[0].type != _UNKNOWN:
        raise VocabularyError(
            f"The first piece of an XLM-RoBERTa's SentencePiece model must be the unknown one. "
            f"Received: {shown(model.pieces[0].piece)} in {str(file)!r}."
        )
    scored = [(each.piece, each.score) for each in model.pieces[3:]]
    ends = [(piece, 0.0) for piece in _XLM_ROBERTA]
    return _made(file, model, [*ends, *scored, ("<mask>", 0.0)], "<s>", "</s>", [*_XLM_ROBERTA, "<mask>"])


def _read(file: Path) -> Any:
    """The model's message. Refuses what the library can't follow."""
    try:
        model = _messages()["Model"].FromString(file.read_bytes())
    except OSError as error:
        raise VocabularyError(f"Cannot read the pieces {str(file)!r}: {error.strerror}.") from None
    except DecodeError as error:
        raise VocabularyError(f"{str(file)!r} is not a SentencePiece model: {error}.") from None
    if len(model.pieces) < 4:
        raise VocabularyError(f"{str(file)!r} is not a SentencePiece model: it has {len(model.pieces)} pieces.")
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    others = {each.type for each in model.pieces} - {1, _UNKNOWN, _CONTROL, _USER_DEFINED}
    for wrong, what in (
        (trainer.model_type != _UNIGRAM, f"model_type {trainer.model_type} (1, unigram, can be read)"),
        (trainer.byte_fallback, "byte_fallback"),
        (trainer.treat_whitespace_as_suffix, "treat_whitespace_as_suffix"),
        (not normalizer.escape_whitespaces, "escape_whitespaces false"),
        (bool(others), f"pieces of the types {sorted(others)} (1 to 4 can be read)"),
        (sum(each.type == _UNKNOWN for each in model.pieces) != 1, "not exactly one unknown piece"),
    ):
        if wrong:
            raise VocabularyError(
                f"This SentencePiece model would be followed wrongly. Received: {what} in {str(file)!r}. Pass the folder of the "
                f"original model, with a tokenizer.json."
            )
    return model


def _made(
    file: Path, model: Any, scored: list[tuple[str, float]], start: str, end: str, more: Sequence[str]
) -> PieceTokenizer:
    """The tokenizer of pieces and their scores; the place of a piece is its id."""
    library = tokenizers_package()
    names = [piece for piece, _ in scored]
    special = [each.piece for each in model.pieces if each.type in (_UNKNOWN, _CONTROL) and each.piece in names]
    marked = [each.piece for each in model.pieces if each.type == _USER_DEFINED]
    missing = {start, end, *more}.difference(names)
    if missing or len(set(names)) < len(names):
        what = f"no piece {', '.join(sorted(missing))}" if missing else "the same piece twice"
        raise VocabularyError(f"{str(file)!r} is not the SentencePiece model of such an encoder. Received: {what}.")
    unknown = next(each.piece for each in model.pieces if each.type == _UNKNOWN)
    made = library.Tokenizer(library.models.Unigram(scored, names.index(unknown)))
    made.normalizer = _normalizer(library, file, model.normalizer_spec)
    made.decoder = library.decoders.Metaspace()
    made.add_special_tokens(list(dict.fromkeys([*special, *more, start, end])))
    made.add_tokens([library.AddedToken(piece, normalized=False) for piece in marked])
    of_segment = "0" if more else "1"  # XLM-RoBERTa has one segment, and two ends between texts
    made.post_processor = library.processors.TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {end} " + (f"{end} " if more else "") + f"$B:{of_segment} {end}:{of_segment}",
        special_tokens=[(piece, names.index(piece)) for piece in (start, end)],
    )
    return PieceTokenizer(made.to_str())


def _normalizer(library: Any, file: Path, spec: Any) -> Any:
    steps = []
    if spec.precompiled_charsmap:
        try:
            steps.append(library.normalizers.Precompiled(spec.precompiled_charsmap))
        except Exception as error:  # the library raises Exception itself
            raise VocabularyError(f"The table of characters in {str(file)!r} is damaged: {error}.") from None
    if spec.remove_extra_whitespaces:
        # SentencePiece removes its own sign of a space too, at the end only. With ^ and $ each line would have ends.
        for pattern, text in ((rf"\A +| *[ {_SPACE}]+\z", ""), (" {2,}", " ")):
            steps.append(library.normalizers.Replace(library.Regex(pattern), text))
    if spec.add_dummy_prefix:
        steps.append(library.normalizers.Prepend(_SPACE))
    steps.append(library.normalizers.Replace(" ", _SPACE))
    return library.normalizers.Sequence(steps)


@lru_cache(maxsize=1)
def _messages() -> dict[str, Any]:
    """The classes of SentencePiece's messages, by our short names."""
    file = FileDescriptorProto(name="sentence_pieces.proto", package="embkeras", syntax="proto2")
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for number, name, kind, default in fields:
            field = described.field.add(name=name, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL)
            if kind in _FIELDS:
                field.type, field.type_name = FieldDescriptorProto.TYPE_MESSAGE, f".embkeras.{kind}"
            else:
                field.type = getattr(FieldDescriptorProto, f"TYPE_{kind}")
            if name == "pieces":
                field.label = FieldDescriptorProto.LABEL_REPEATED
            if default is not None:
                field.default_value = default
    pool = DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"embkeras.{name}")) for name in _FIELDS}
