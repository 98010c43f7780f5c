"""What lies in an export's `assets/`: vocabulary, tokens, class names, and the card that programs read."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras import __version__
from embkeras._arrays import BLOCK
from embkeras.serving.contract import Contract, token_lines
from embkeras.serving.folding import Folded, embeddings_of
from embkeras.serving.names import CARD_FILE, CLASSES_FILE, TOKENS_FILE, VOCABULARY_FILE
from embkeras.serving.text_encoder import tokenizer_fingerprint
from embkeras.tables.addresses import walk


def write_assets(contract: Contract, folder: Path, no_texts: str | None) -> list[str]:
    """Vocabulary, tokens and class names; gives the names of all assets but the tokens, which a table brings along."""
    contract.vocabulary.save(folder / VOCABULARY_FILE)
    names = [VOCABULARY_FILE, CARD_FILE]
    if no_texts is None:
        (folder / TOKENS_FILE).write_bytes(token_lines(contract.vocabulary).encode("utf-8", "surrogatepass"))
    if contract.class_names is not None:
        (folder / CLASSES_FILE).write_bytes("".join(f"{name}\n" for name in contract.class_names).encode("utf-8"))
        names.append(CLASSES_FILE)
    return names


def card_of(
    name: str,
    model: keras.Model,
    contract: Contract,
    stored: Folded,
    dtype: str,
    embed: str | None,
    no_texts: str | None,
) -> dict[str, Any]:
    """The card: what the export is, as plain data."""
    tables = {}
    for path, layer in embeddings_of(model).items():
        near = stored.accuracy.get(path) or getattr(layer, "accuracy", None)
        tables[path] = {
            "rows": layer.input_dim,
            "width": layer.output_dim,
            "sha256": _sha256(layer.matrix()),
            "accuracy": None if near is None else f"{dtype}, {near}",
            **({} if near is None else asdict(near)),
        }
    return {
        "format": "embkeras.saved_model",
        "version": 3,
        "name": name,
        "vocabulary_fingerprint": contract.vocabulary.fingerprint,
        "tokenizer_fingerprint": tokenizer_fingerprint(contract.vocabulary),
        "vocabulary_size": len(contract.vocabulary),
        "padding_id": contract.vocabulary.padding_id,
        "tables": tables,
        "dtype": dtype,
        "precision": _precision(model),
        "outputs": list(contract.outputs),
        "class_names": None if contract.class_names is None else list(contract.class_names),
        "bad_ids": contract.bad_ids,
        "least": contract.least,
        "most": contract.most,
        "warm_up": list(contract.warm_up),
        "embed": embed,
        "no_texts": no_texts,
        "embkeras": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }


def _precision(model: keras.Model) -> str:
    """The coarsest type in which a layer computes."""
    types = {layer.compute_dtype for _, layer in walk(model)}
    return next((dtype for dtype in ("bfloat16", "float16") if dtype in types), "float32")


def _sha256(matrix: np.ndarray) -> str:
    """SHA-256 over the shape and the float32 rows of a table, as 64 hexadecimal digits."""
    digest = hashlib.sha256(repr(matrix.shape).encode())
    step = max(1, BLOCK // matrix.shape[1])
    for start in range(0, len(matrix), step):
        digest.update(np.ascontiguousarray(matrix[start : start + step], "<f4"))
    return digest.hexdigest()


def write_card(folder: Path, card: Mapping[str, Any]) -> None:
    """The card that programs read."""
    Path(folder, CARD_FILE).write_text(json.dumps(card, indent=1), encoding="ascii")
