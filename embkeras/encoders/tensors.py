"""The tensors of a safetensors file, or of several with an index, by their names without the model's prefix."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from embkeras._checks import shown
from embkeras.encoders.families import WORDS, Family
from embkeras.errors import EncoderError, MissingDependencyError

_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_OLD_NORMS = {"weight": "gamma", "bias": "beta"}  # as checkpoints that came from TensorFlow call them
_HEADS = ("pooler", "cls", "classifier", "lm_head", "predictions", "sop_classifier", "qa_outputs", "vocab_")
_BUFFERS = ("position_ids", "token_type_ids", "rotary_emb.inv_freq")
_FOLDER = "load_pretrained takes the folder of a Hugging Face model: config.json, model.safetensors and a tokenizer."
_POINTER = b"version https://git-lfs"


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of the folder.

    Raises:
        EncoderError: no such file, or something else in it.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        advice = "" if path.exists() else f" {_FOLDER}"
        raise EncoderError(f"Cannot read {str(path)!r}: {error.strerror}.{advice}") from None
    except (ValueError, RecursionError) as error:
        raise EncoderError(f"{str(path)!r} is not JSON: {error}.") from None
    if not isinstance(data, dict):
        raise EncoderError(f"{str(path)!r} must contain a JSON object. Received: {shown(data)}.")
    return data


class Tensors:
    """Reads tensors as float32, by the names they have behind the prefix."""

    def __init__(self, names: dict[str, tuple[Any, str]], where: str):
        self._names, self.where = names, where
        self._read: set[str] = set()

    def __call__(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """The tensor of that name.

        Raises:
            EncoderError: there is none, it has another shape, or holds NaN or infinity.
        """
        file, full = self._found(name)
        try:
            stored = np.asarray(file.get_tensor(full))
        except Exception as error:  # the library's own error has no public parent but Exception
            raise EncoderError(f"Cannot read tensor {full!r} of {self.where}: {error}.") from None
        if stored.dtype.kind != "f" and stored.dtype.name != "bfloat16":
            raise EncoderError(f"Tensor {full!r} of {self.where} must be of floats. Received: {stored.dtype.name}.")
        value = stored.astype(np.float32)
        self._check_shape(full, value.shape, shape)
        if not np.isfinite(value).all():
            raise EncoderError(f"Tensor {full!r} of {self.where} must be finite as float32. Received: NaN or infinity.")
        return value

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Compare the file's header with the shapes of all tensors, without reading these.

        Raises:
            EncoderError: a tensor is missing, has another shape, or there are others.
        """
        for name, shape in shapes.items():
            file, full = self._found(name)
            try:
                found = tuple(file.get_slice(full).get_shape())
            except Exception as error:  # the library's own error has no public parent but Exception
                raise EncoderError(f"Cannot read tensor {full!r} of {self.where}: {error}.") from None
            self._check_shape(full, found, shape)
        self.check_all_read()

    def check_all_read(self) -> None:
        """Refuse tensors of the encoder that were not read: a model with them computes something else."""
        left = set(self._names) - self._read
        unread = sorted(name for name in left if not name.startswith(_HEADS) and not name.endswith(_BUFFERS))
        if unread:
            raise EncoderError(
                f"{self.where} has tensors that config.json doesn't describe: the model with them is another one. "
                f"Received: {', '.join(unread[:3])}{' and others' if len(unread) > 3 else ''}."
            )

    def _found(self, name: str) -> tuple[Any, str]:
        """The file with a tensor, and its full name there."""
        spelling = name
        stem, _, kind = name.rpartition(".")
        if name not in self._names and kind in _OLD_NORMS:
            spelling = f"{stem}.{_OLD_NORMS[kind]}"
        if spelling not in self._names:
            raise EncoderError(f"{self.where} has no tensor {name!r}, which its config.json asks for.")
        self._read.add(spelling)
        return self._names[spelling]

    def _check_shape(self, full: str, found: tuple[int, ...], shape: tuple[int, ...]) -> None:
        if found != shape:
            raise EncoderError(
                f"Tensor {full!r} of {self.where} must have the shape {shape}, as config.json says. Received: {found}."
            )


@contextmanager
def opened_files(folder: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """The tensors of a folder by their names, each as an open file and its name there, and where they are, for errors.

    Raises:
        EncoderError: no or a damaged file.
        MissingDependencyError: safetensors is not installed.
    """
    safetensors = safetensors_package()
    with ExitStack() as stack:
        names: dict[str, Any] = {}
        for path in _files(folder):
            try:
                file = stack.enter_context(safetensors.safe_open(str(path), framework="numpy"))
                names |= {name: (file, name) for name in file.keys()}  # noqa: SIM118 - no mapping
            except Exception as error:  # the library's own error has no public parent but Exception
                raise EncoderError(
                    f"{str(path)!r} is not a complete safetensors file: {error}. {_how_to_complete(path)}"
                ) from None
        yield names, str(folder / _FILE)


@contextmanager
def opened(folder: Path, family: Family) -> Iterator[Tensors]:
    """The tensors of an encoder's folder.

    Raises:
        EncoderError: no or a damaged file, or several encoders in one.
        MissingDependencyError: safetensors is not installed.
    """
    with opened_files(folder) as (names, where):
        found = [name.removesuffix(f"{WORDS}.weight") for name in names if name.endswith(f"{WORDS}.weight")]
        if len(found) != 1 or found[0] not in ("", family.prefix):
            raise EncoderError(
                f"The tensors of {where!r} must be those of one encoder: {family.prefix}{WORDS}.weight and so on, with or "
                f"without {family.prefix!r}. Received: {shown(found) if found else shown(sorted(names)[:3])}."
            )
        prefix = found[0]
        own = {name.removeprefix(prefix): value for name, value in names.items() if name.startswith(prefix)}
        yield Tensors(own, where)


def _how_to_complete(path: Path) -> str:
    """What to do about a file that can't be read."""
    try:
        with path.open("rb") as file:
            pointer = file.read(len(_POINTER)) == _POINTER
    except (OSError, UnicodeError):  # a name that no file can have
        pointer = False
    return "It is a Git LFS pointer: run git lfs pull in its folder." if pointer else "Fetch it again."


def _files(folder: Path) -> list[Path]:
    """The file of the tensors, or the files that the index names."""
    if (folder / _FILE).is_file():
        return [folder / _FILE]
    if (folder / _INDEX).is_file():
        index = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
            raise EncoderError(f"{str(folder / _INDEX)!r} has no weight_map of names.")
        return [folder / Path(name).name for name in sorted(set(index.values()))]
    others = "pytorch_model.bin", "tf_model.h5", "flax_model.msgpack", "model.weights.h5"
    beside = next((name for name in others if (folder / name).is_file()), None)
    raise EncoderError(
        f"There is no {_FILE} in {str(folder)!r}. "
        + (
            f"{beside} can't be read: write it anew with Hugging Face's "
            f"AutoModel.from_pretrained(folder).save_pretrained(folder)."
            if beside
            else _FOLDER
        )
    )


def safetensors_package() -> Any:
    """The module safetensors.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import ml_dtypes  # noqa: F401 - it comes with TensorFlow, and teaches NumPy the type bfloat16
        import safetensors
    except ImportError as error:
        raise MissingDependencyError(
            f'Reading an encoder needs the package {error.name}: python -m pip install "embkeras[contextual]".'
        ) from None
    return safetensors
