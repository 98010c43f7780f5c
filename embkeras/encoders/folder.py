"""What a folder of a pre-trained encoder holds, read and checked; without Keras, unless it is a preset of keras-hub."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from embkeras._checks import HUB_NAME, hub_command
from embkeras._checks import path as checked_path
from embkeras.encoders.families import Architecture, architecture_of
from embkeras.encoders.tensors import opened, read_json
from embkeras.errors import EncoderError, MissingDependencyError
from embkeras.text.vocabulary import Vocabulary

CONFIG = "config.json"


def read_folder(folder: str | os.PathLike[str]) -> tuple[Path, dict[str, Any], Architecture, Vocabulary]:
    """The folder, the contents of its config.json, the architecture that it describes, and the tokenizer.

    Raises:
        EncoderError: a missing or damaged file, another kind of model, or settings that differ from those described.
        VocabularyError: a missing or damaged tokenizer, or one with more pieces than the encoder's table has rows.
        MissingDependencyError: keras-hub, tokenizers or safetensors is not installed.
    """
    folder = checked_path(folder, "folder")
    if not folder.is_dir():
        advice = f" {str(folder)!r} is a file: pass the folder that holds it." if folder.exists() else ""
        if HUB_NAME.fullmatch(folder.as_posix()) and not folder.parent.exists():
            advice = f" To fetch {str(folder)!r} from the Hugging Face Hub first: {hub_command(folder.as_posix())}"
        raise EncoderError(
            f"load_pretrained takes the folder of a Hugging Face model, or a preset of keras-hub, on this machine. "
            f"There is no folder {str(folder.absolute())!r}.{advice}"
        )
    config, preset = read_json(folder / CONFIG), is_preset(folder)
    if not preset:
        architecture = architecture_of(config, str(folder / CONFIG))
    if importlib.util.find_spec("keras_hub") is None:
        raise MissingDependencyError(
            'An encoder\'s blocks need keras-hub, which is not installed: python -m pip install "embkeras[contextual]".'
        )
    if preset:
        from embkeras.encoders.presets import preset_config, preset_tokenizer

        config = preset_config(folder)
        architecture = architecture_of(config, str(folder / CONFIG))
        tokenizer = preset_tokenizer(folder, config["model_type"], architecture.vocabulary_size)
    else:
        with opened(folder, architecture.family) as tensors:  # refuse other files now, not when a model is built
            tensors.check(architecture.shapes())
        tokenizer = Vocabulary.from_tokenizer(folder, size=architecture.vocabulary_size)
    if tokenizer.padding_id != architecture.padding_id:
        raise EncoderError(
            f"Tokenizer and config.json of {str(folder)!r} must name the same padding. "
            f"Received: id {tokenizer.padding_id} and pad_token_id {architecture.padding_id}."
        )
    return folder, config, architecture, tokenizer


def is_preset(folder: Path) -> bool:
    """Whether the folder's config.json is that of a preset of keras-hub."""
    config = read_json(folder / CONFIG)
    return "model_type" not in config and "registered_name" in config
