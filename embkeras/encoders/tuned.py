"""save_tuned and load_tuned: what training added to a pre-trained model, in a file of its own.

The file holds the weights that differ from the base, and those that the base doesn't have: LoRA's A and B, adapters, biases, the
head. It is a safetensors file. Its metadata name each weight of the base with a digest, say which layers have LoRA or adapters,
and hold a digest of that and of the tensors, so that a file from another base, or a damaged one, is refused.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from embkeras import _files
from embkeras._arrays import check_finite
from embkeras._checks import flag, shown
from embkeras._checks import path as checked_path
from embkeras.encoders import parts
from embkeras.encoders.base import base_digest, digest, fingerprint, named_weights, values_of
from embkeras.encoders.bottlenecks import others
from embkeras.encoders.lora import check_built_model
from embkeras.encoders.reading import PretrainedEncoder
from embkeras.encoders.tensors import safetensors_package
from embkeras.errors import ArgumentError, EncoderError, OutputError

_FORMAT, _EARLIER = "embkeras tuned 2", "embkeras tuned 1"  # the digest of an earlier file is that of its tensors alone


def save_tuned(
    model: keras.Model,
    path: str | os.PathLike[str],
    *,
    base: PretrainedEncoder | keras.Model | None = None,
    overwrite: bool = False,
) -> list[str]:
    """Write what training changed: weights that differ from the base, and all that the base doesn't have.

    Whether a weight trained doesn't count, only whether it is what it was. So the head is always in the file, also one that
    was frozen. Of adapters, those in use are. `load_tuned` puts the file on the same base.

    Args:
        model: a model on a pre-trained encoder, with LoRA (`enable_lora`) or without.
        path: the file to write, usually NAME.safetensors.
        base: what the model was built from: what `load_pretrained` returned, or any model of the same layers before its
            training. By default it is known from the building; after `keras.models.load_model` it is not.
        overwrite: replace the file if it exists.

    Returns:
        The names of the weights in the file.

    Raises:
        ArgumentError: not a built model, or the base isn't known, or has none of the model's weights.
        EncoderError: a weight is NaN or infinity.
        OutputError: the file exists, or can't be written.
        MissingDependencyError: safetensors is not installed.

    Examples:
        >>> model = build_encoder_classifier(read, 2)  # doctest: +SKIP
        >>> enable_lora(model, 8, "transformer_layer_*")  # doctest: +SKIP
        >>> model.fit(ids, labels)  # doctest: +SKIP
        >>> save_tuned(model, "tweets.safetensors")  # doctest: +SKIP
    """
    check_built_model(model, "save_tuned")
    path, overwrite = checked_path(path, "path"), flag(overwrite, "overwrite")
    safetensors_package()
    import safetensors.numpy

    if not overwrite and os.path.lexists(path):
        raise OutputError(f"Cannot write {str(path)!r}: it exists. Pass overwrite=True to replace it.")
    unused = others(model)
    weights = {name: weight for name, weight in named_weights(model).items() if id(weight) not in unused}
    digests = _base_of(model, weights, base)
    tensors = {}
    for name, weight in weights.items():
        values = np.ascontiguousarray(values_of(weight))
        if name not in digests or digest(values) != digests[name]:
            floats = values.astype(np.float32) if values.dtype.name == "bfloat16" else values  # no float to NumPy
            if floats.dtype.kind == "f":
                check_finite(floats.reshape(1, -1), f"Weight {name!r}", error=EncoderError)
            tensors[name] = values
    settings = json.dumps(parts.settings(model))
    metadata = {
        "format": _FORMAT,
        "base": fingerprint(digests),
        "weights": json.dumps(digests),
        "parts": settings,
        "contents": _contents(tensors, settings),
    }
    data = safetensors.numpy.save(tensors, metadata)
    with _files.written_beside(path, overwrite=overwrite) as beside:
        beside.write_bytes(data)
    return list(tensors)


def load_tuned(model: keras.Model, path: str | os.PathLike[str]) -> list[str]:
    """Put what `save_tuned` wrote, or a LoRA folder of PEFT, on a model of the same base.

    LoRA is enabled in the layers that had it, unless they have it already, and so are adapters, which are in use then; the
    model keeps those of other names. Weights that are not in the file must be those of
    the base. Nothing changes if anything doesn't fit.

    A folder of PEFT (https://huggingface.co/docs/peft) has adapter_config.json and adapter_model.safetensors. It names its
    base without a fingerprint, so only the shapes are compared. Build the model as transformers does, with `pool="pooler"`:
    its classifier reads the first token through one more layer.

    Args:
        model: such as `build_encoder_classifier(read, 2)` makes, of the same `read` and with the same head.
        path: the file, or the folder.

    Returns:
        The names of the weights that were set.

    Raises:
        ArgumentError: not a built model, or layers that can't have the LoRA or the adapters of the file.
        EncoderError: another base, other weights or shapes than the model has, a damaged file, or settings of PEFT that
            can't be followed.
        MissingDependencyError: safetensors is not installed.

    Examples:
        >>> model = build_encoder_classifier(read, 2)  # doctest: +SKIP
        >>> load_tuned(model, "tweets.safetensors")  # doctest: +SKIP
    """
    check_built_model(model, "load_tuned")
    path = checked_path(path, "path")
    if path.is_dir():
        from embkeras.encoders.peft import read_peft

        tensors, wanted = read_peft(path, model)
        digests: dict[str, str] = {}
    else:
        tensors, digests, wanted = _read(path)
    where = str(path)
    plan = parts.plan(model, wanted, where)
    unused = others(model, plan.name)
    weights = {name: weight for name, weight in named_weights(model).items() if id(weight) not in unused}
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    shapes |= plan.shapes
    known = None if path.is_dir() else {*tensors, *digests}
    _check_names(shapes, tensors, known, model, where)
    for name, shape in shapes.items():
        if name in tensors and tensors[name].shape != shape:
            raise EncoderError(
                f"{name!r} of {where!r} must have the shape {shape}, as in model {model.name!r}. "
                f"Received: {tensors[name].shape}."
            )
    _check_base(weights, tensors, digests, where)
    plan.carry_out(model)
    changed = {name: weight for name, weight in named_weights(model).items() if name in tensors}
    for name, weight in changed.items():
        weight.assign(tensors[name])
    return list(changed)


def _base_of(
    model: keras.Model, weights: Mapping[str, keras.Variable], base: PretrainedEncoder | keras.Model | None
) -> dict[str, str]:
    """The digests of the weights that the base has, by their names in the model."""
    if base is None:
        found = {name: known for name, weight in weights.items() if (known := base_digest(weight))}
        if not found:
            raise ArgumentError(
                f"save_tuned can't know what training changed in model {model.name!r}: none of its weights was made by "
                f"load_pretrained in this process. Pass base=: what load_pretrained returned, or the model before its training."
            )
        return found
    if isinstance(base, PretrainedEncoder):
        of = base.model()
    elif isinstance(base, keras.Model) and base.built:
        of = base
    else:
        raise ArgumentError(f"base must be what load_pretrained returned, or a built model. Received: {shown(base)}.")
    theirs = {name: weight for name, weight in named_weights(of).items() if name in weights}
    same = {name: digest(values_of(w)) for name, w in theirs.items() if tuple(w.shape) == tuple(weights[name].shape)}
    if not same:
        raise ArgumentError(
            f"base has none of the weights of model {model.name!r}, such as {next(iter(weights), '')!r}. "
            f"Received: {shown(base)}."
        )
    return same


def _contents(tensors: Mapping[str, np.ndarray], settings: str) -> str:
    """A digest of all tensors and their names, and of the settings of LoRA and adapters."""
    whole = hashlib.sha256(settings.encode("utf-8", "surrogatepass"))
    for name in sorted(tensors):
        whole.update(f"{name} {digest(tensors[name])}\n".encode())
    return whole.hexdigest()


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str], Any]:
    """The tensors of a file, the digests of its base's weights by name, and the settings of its parts."""
    safetensors = safetensors_package()
    if reason := _files.not_a_file(path):
        raise EncoderError(f"Cannot read {str(path)!r}: {reason}.")
    try:
        with safetensors.safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except Exception as error:  # the library's own error has no public parent but Exception
        raise EncoderError(f"{str(path)!r} is not a complete safetensors file: {error}.") from None
    if metadata.get("format") not in (_FORMAT, _EARLIER):
        raise EncoderError(
            f"{str(path)!r} is not a file of save_tuned: its metadata must say format {_FORMAT!r}. "
            f"Received: {shown(metadata.get('format'))}."
        )
    try:
        digests, wanted = (json.loads(metadata[name]) for name in ("weights", "parts"))
        covered = metadata["parts"] if metadata["format"] == _FORMAT else ""
        if metadata["contents"] != _contents(tensors, covered) or metadata["base"] != fingerprint(digests):
            raise ValueError("its contents don't match their digest")
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise EncoderError(f"{str(path)!r} is damaged: {error}. Write or fetch it again.") from None
    return tensors, digests, wanted


def _check_names(
    shapes: Mapping[str, Any],
    tensors: Mapping[str, np.ndarray],
    known: set[str] | None,
    model: keras.Model,
    where: str,
) -> None:
    """Refuse weights that the model doesn't have, and those that the file doesn't know."""
    if strange := [name for name in sorted(tensors) if name not in shapes]:
        raise EncoderError(
            f"Model {model.name!r} has no weight {strange[0]!r}, which is{_and_others(strange)} in {where!r}. Build it as the "
            f"saved one was built."
        )
    if known is None:
        return
    if missing := [name for name in shapes if name not in known]:
        raise EncoderError(
            f"{where!r} has no weight {missing[0]!r}, which is{_and_others(missing)} in model {model.name!r}. Build it as the "
            f"saved one was built."
        )
    if lost := [name for name in known if name not in shapes]:
        raise EncoderError(
            f"{where!r} belongs to another base: its {lost[0]!r}{_and_others(lost)} is not in model {model.name!r}."
        )


def _check_base(
    weights: Mapping[str, keras.Variable], tensors: Mapping[str, np.ndarray], digests: Mapping[str, str], where: str
) -> None:
    """Refuse a model whose other weights aren't those of the file's base."""
    found = {
        name: base_digest(weights[name]) or known if name in tensors else digest(values_of(weights[name]))
        for name, known in digests.items()
    }
    other = [name for name, known in digests.items() if found[name] != known]
    if other:
        raise EncoderError(
            f"{where!r} belongs to another base: its fingerprint is {fingerprint(digests)}, that of this model "
            f"{fingerprint(found)}. {len(other)} of {len(found)} weights differ: {other[0]!r}{_and_others(other)}. Load it into "
            f"a model newly built on the base that it was trained on."
        )


def _and_others(names: list[str]) -> str:
    return "" if len(names) == 1 else f" with {len(names) - 1} others"
