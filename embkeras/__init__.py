"""embkeras: pre-trained word vectors in Keras, from the vector file to a SavedModel that takes token ids.

    vector file -> aligned matrix -> embedding layer -> training schedule -> drift report -> SavedModel

`import embkeras` does not import TensorFlow; the first name that needs it does.
"""

import importlib
from typing import TYPE_CHECKING, Any

from embkeras import errors

__version__ = "0.1.0"

# public name -> the module that defines it
_WITHOUT_KERAS = {
    "AlignedMatrix": "vectors.align",
    "DriftReport": "drift.report",
    "Encoder": "serving.text_encoder",
    "KeyedVectors": "vectors.store",
    "ServingClient": "serving.client",
    "Tokenizer": "text.tokenizer",
    "Vocabulary": "text.vocabulary",
    "align": "vectors.align",
    "drift_report": "drift.report",
    "load_vectors": "vectors.io.registry",
    "plot_comparison": "drift.plots",
    "plot_coverage": "drift.plots",
    "plot_drift": "drift.plots",
    "plot_training": "drift.plots",
    "save_vectors": "vectors.io.registry",
    "share_rows": "vectors.pruning",
}
_WITH_KERAS = {
    "DriftMonitor": "training.drift_monitor",
    "ExportedModel": "serving.local",
    "Phase": "training.schedule.phases",
    "PretrainedEmbedding": "tables.embedding",
    "ResumableBackup": "training.resume.backup",
    "RowWiseAdagrad": "training.optimizers.rules",
    "RowWiseAdam": "training.optimizers.rules",
    "RowWiseAdamW": "training.optimizers.rules",
    "RowWiseSGD": "training.optimizers.rules",
    "Strategy": "experiments.strategies",
    "TrainabilitySchedule": "training.schedule.callback",
    "WordDropout": "tables.word_dropout",
    "build_classifier": "tables.builders",
    "build_embedding": "tables.builders",
    "change_vocabulary": "training.change_vocabulary",
    "check_saved_model": "serving.check",
    "combine_embeddings": "tables.combined",
    "compare_strategies": "experiments.runs",
    "export_saved_model": "serving.export",
    "gradual_unfreeze": "training.schedule.callback",
    "unfreeze_at": "training.schedule.callback",
    "unfreeze_rows": "training.schedule.rows",
}
__all__ = sorted(["errors", *_WITHOUT_KERAS, *_WITH_KERAS])

if TYPE_CHECKING:  # for editors and type checkers; at run time __getattr__ imports on demand
    from embkeras.drift.plots import plot_comparison, plot_coverage, plot_drift, plot_training
    from embkeras.drift.report import DriftReport, drift_report
    from embkeras.experiments.runs import compare_strategies
    from embkeras.experiments.strategies import Strategy
    from embkeras.serving.check import check_saved_model
    from embkeras.serving.client import ServingClient
    from embkeras.serving.export import export_saved_model
    from embkeras.serving.local import ExportedModel
    from embkeras.serving.text_encoder import Encoder
    from embkeras.tables.builders import build_classifier, build_embedding
    from embkeras.tables.combined import combine_embeddings
    from embkeras.tables.embedding import PretrainedEmbedding
    from embkeras.tables.word_dropout import WordDropout
    from embkeras.text.tokenizer import Tokenizer
    from embkeras.text.vocabulary import Vocabulary
    from embkeras.training.change_vocabulary import change_vocabulary
    from embkeras.training.drift_monitor import DriftMonitor
    from embkeras.training.optimizers.rules import RowWiseAdagrad, RowWiseAdam, RowWiseAdamW, RowWiseSGD
    from embkeras.training.resume.backup import ResumableBackup
    from embkeras.training.schedule.callback import TrainabilitySchedule, gradual_unfreeze, unfreeze_at
    from embkeras.training.schedule.phases import Phase
    from embkeras.training.schedule.rows import unfreeze_rows
    from embkeras.vectors.align import AlignedMatrix, align
    from embkeras.vectors.io.registry import load_vectors, save_vectors
    from embkeras.vectors.pruning import share_rows
    from embkeras.vectors.store import KeyedVectors


def __getattr__(name: str) -> Any:
    if name in _WITH_KERAS:
        from embkeras.keras_compat.registration import check_backend

        check_backend()
    module = _WITH_KERAS.get(name) or _WITHOUT_KERAS.get(name)
    if module is None:
        raise AttributeError(f"module 'embkeras' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"embkeras.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def _register() -> None:
    from embkeras.keras_compat.registration import register_with_keras

    register_with_keras()


_register()
