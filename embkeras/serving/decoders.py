"""export_decoder: a SavedModel that scores the next token, and takes and returns what it keeps of the earlier ones."""

import json
import os
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras._checks import flag, one_of, shown, whole_number
from embkeras._checks import path as checked_path
from embkeras._files import written_beside
from embkeras.encoders.bottlenecks import adapter_in_use, adapters_of, unread
from embkeras.encoders.decoders.reading import PretrainedDecoder
from embkeras.encoders.decoders.stepping import Steps
from embkeras.errors import ArgumentError, OutputError, SavedModelError
from embkeras.serving import names
from embkeras.serving.folding import fold
from embkeras.serving.packed_matrices import BITS, Unpacked, UnpackedKernel, UnpackedTable
from embkeras.serving.reasons import reason
from embkeras.tables.addresses import walk
from embkeras.tables.embedding import PretrainedEmbedding
from embkeras.tables.stand_ins import stand_ins

CACHE, EXTRA = "cache", "assets.extra"
DECODER_FILE, TOKENIZER_FILE = "decoder.json", "tokenizer.json"
_DTYPES = ("float32", *BITS)
_TOLERANCE = 1e-4  # relative to the largest score


def export_decoder(
    model: keras.Model,
    read: PretrainedDecoder,
    path: str | os.PathLike[str],
    *,
    version: int | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
    check: bool = True,
) -> Path:
    """Write `path/<version>/`, which any runtime of TensorFlow can continue texts with.

    The signature `serving_default` takes

    - `token_ids`, int64 (batch, time): all ids so far, short texts filled with the padding id, on either side;
    - `cache`, float32 (batch, blocks, 2, key_value_heads, kept, head_width): at first with kept = 0, then what the last answer
      returned;

    and returns `scores`, float32 (batch, V), of every token behind each text, and the next `cache`, with kept = time (and the
    soft prompts, if there are any). Only the tokens behind `kept` are computed. A client appends the token that it chooses to
    `token_ids`, until it is one of `stop_ids`.

    `assets.extra/decoder.json` has these sizes, the padding id, `stop_ids` and `max_length`; `assets.extra/tokenizer.json` the
    tokenizer. LoRA is written into the stored kernels. The model doesn't change.

    Args:
        model: from `read.model()`, trained or not.
        read: what `load_decoder` returned.
        path: the model's folder; TensorFlow Serving calls this `base_path`.
        version: a new number; by default the next free one, from 1.
        dtype: how weights are stored: "float32"; "int8"; or "int4", the kernels in 4 bits and the tables in 8. Packed weights are
            unpacked once, when the export is loaded: they save disk and transfer, not memory. A Python process that unloads
            such an export keeps that memory.
        overwrite: replace the version if it exists.
        check: load the export, and compare its scores with those of the graph that was stored.

    Returns:
        The folder of this version.

    Raises:
        ArgumentError: another model, or an argument out of its choices.
        SavedModelError: the version exists, or the export doesn't return what the model returns.
        OutputError: the folder can't be written.

    Examples:
        >>> export_decoder(model, read, "saved_models/smollm2", dtype="int4")  # doctest: +SKIP
        PosixPath('saved_models/smollm2/1')
    """
    if not isinstance(read, PretrainedDecoder):
        raise ArgumentError(f"export_decoder takes what load_decoder(path) returned. Received: {shown(read)}.")
    steps, folder = Steps.of(model, read), checked_path(path, "path")
    one_of(dtype, "dtype", _DTYPES)
    overwrite, check = flag(overwrite, "overwrite"), flag(check, "check")
    if version is not None:
        version = whole_number(version, "version", least=1, most=names.LARGEST_VERSION)
    existing = names.versions(folder)
    version = max(existing, default=0) + 1 if version is None else version
    if version in existing and not overwrite:
        raise SavedModelError(
            f"Version {version} of {str(folder)!r} already exists. Pass overwrite=True to replace it."
        )
    target = existing.get(version, folder / str(version))
    module = tf.Module()
    card = _card(steps, read, dtype)
    with _stored(module, model, dtype):
        signature = _signature(steps).get_concrete_function()
    with ExitStack() as stack:
        stack.callback(_free, module)
        beside = stack.enter_context(written_beside(target, overwrite=overwrite))
        try:
            tf.saved_model.save(module, str(beside), signatures={names.SERVING: signature})
        except tf.errors.OpError as error:  # what TensorFlow raises for a full disk
            raise OutputError(f"Cannot write {str(target)!r}: {reason(error.message)}") from error
        extra = beside / EXTRA
        extra.mkdir(exist_ok=True)
        (extra / DECODER_FILE).write_text(json.dumps(card, indent=1), "utf-8")
        tokenizer: Any = read.tokenizer.tokenizer
        (extra / TOKENIZER_FILE).write_text(tokenizer.definition, "utf-8")
        if check:
            _check(beside, module, signature, card, str(target))
    return target


def _stored(module: tf.Module, model: keras.Model, dtype: str) -> AbstractContextManager[None]:
    """Put what is stored into the module; the context within which the layers read that."""
    if dtype == "float32":
        folded = fold(model)
        module.weights, module.resources = folded.variables(model), []
        return folded.reading()
    layers: dict[keras.layers.Layer, Any] = {}
    used, adapters = unread(model), [each for _, host in walk(model) for each in adapters_of(host).values()]
    inside = {id(each) for adapter in adapters for _, layer in walk(adapter) for each in (layer, *layer.variables)}
    for path, layer in walk(model):
        if layer in layers or id(layer) in inside:  # adapters are small, and stay as they are
            continue
        if isinstance(layer, PretrainedEmbedding):
            layers[layer] = UnpackedTable(Unpacked(layer.matrix(), 8, path), layer.compute_dtype)
        elif isinstance(layer, keras.layers.Dense):
            kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float32).T
            layers[layer] = UnpackedKernel(Unpacked(kernel, BITS[dtype], path), adapter_in_use(layer))
        else:
            continue
        used |= {id(variable) for variable in layer.variables} - inside
    module.resources = [each.matrix for each in layers.values()]
    shared = [variable.value for variable in model.variables if id(variable) not in used]
    module.weights = [*shared, *(part for each in module.resources for part in each.parts)]
    return stand_ins(layers)


def _signature(steps: Steps) -> Any:
    first = steps.blocks[0]
    shape = (None, len(steps.blocks), 2, first.key_value_heads, None, first.head_width)
    specs = tf.TensorSpec((None, None), tf.int64, names.TOKEN_IDS), tf.TensorSpec(shape, tf.float32, CACHE)

    def next_scores(token_ids: tf.Tensor, cache: tf.Tensor) -> dict[str, tf.Tensor]:
        kept = [(block[:, 0], block[:, 1]) for block in tf.unstack(cache, axis=1)]
        scores, now = steps(token_ids, kept)
        stacked = tf.stack([tf.stack(pair, axis=1) for pair in now], axis=1)
        # The padding's score, the last, is no choice.
        return {names.SCORES: scores[:, :-1], CACHE: tf.ensure_shape(tf.cast(stacked, tf.float32), shape)}

    return tf.function(next_scores, input_signature=specs)


def _card(steps: Steps, read: PretrainedDecoder, dtype: str) -> dict[str, Any]:
    first = steps.blocks[0]
    return {
        "cache": [len(steps.blocks), 2, first.key_value_heads, 0, first.head_width],
        "vocabulary_size": len(read.tokenizer) - 1,
        "vocabulary_fingerprint": read.tokenizer.fingerprint,
        "padding_id": read.tokenizer.padding_id,
        "stop_ids": list(read.stop_ids),
        "max_length": read.max_length,
        "dtype": dtype,
    }


def _check(folder: Path, module: Any, signature: Any, card: dict[str, Any], target: str) -> None:
    """Compare the loaded export with the graph that was stored, on a padded batch and one more token."""
    ids = np.random.default_rng(0).integers(0, card["vocabulary_size"], (2, 5))
    ids[1, 3:] = card["padding_id"]
    wanted = _two_steps(signature, ids, card)
    _free(module)  # what is loaded has memory of the same name
    got = _two_steps(tf.saved_model.load(str(folder)).signatures[names.SERVING], ids, card)
    error, limit = float(np.abs(got - wanted).max()), _TOLERANCE * max(1.0, float(np.abs(wanted).max()))
    if not error <= limit:
        raise SavedModelError(
            f"The export {target!r} doesn't return what the model returns: scores differ by {error:.1e}."
        )


def _two_steps(step: Any, ids: np.ndarray, card: dict[str, Any]) -> np.ndarray:
    """The scores behind all ids but the last, and behind all, the cache of the first step in the second."""
    first = step(token_ids=tf.constant(ids[:, :-1]), cache=tf.zeros((len(ids), *card["cache"])))
    second = step(token_ids=tf.constant(ids), cache=first[CACHE])
    return np.stack([np.asarray(each[names.SCORES]) for each in (first, second)])


def _free(module: Any) -> None:
    for resource in module.resources:
        resource.free()
