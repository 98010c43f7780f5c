"""embkeras: pre-trained word vectors in Keras, from the vector file to a SavedModel that is asked in integer ids.

    vector file -> aligned matrix -> Embedding layer -> schedule of trainability -> drift measured -> SavedModel

TensorFlow is loaded by the first name that needs it, not by `import embkeras`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from embkeras import errors

__version__ = "0.1.0"

# public name -> the module that holds it
_WITHOUT_KERAS = {
    "AlignedMatrix": "vectors.alignment",
    "DriftReport": "drift.report",
    "Encoder": "serving.encoding",
    "KeyedVectors": "vectors.store",
    "ServingClient": "serving.remote",
    "Tokenizer": "vectors.tokenizer",
    "Vocabulary": "vectors.vocabulary",
    "align": "vectors.alignment",
    "drift_report": "drift.report",
    "load_vectors": "vectors.formats",
    "plot_comparison": "drift.plots",
    "plot_coverage": "drift.plots",
    "plot_drift": "drift.plots",
    "plot_training": "drift.plots",
    "save_vectors": "vectors.formats",
    "share_rows": "vectors.pruning",
}
_WITH_KERAS = {
    "DriftMonitor": "training.monitor",
    "ExportedModel": "serving.client",
    "Phase": "training.schedules",
    "PretrainedEmbedding": "layers.embedding",
    "ResumableBackup": "training.resume",
    "RowWiseAdagrad": "training.optimizers",
    "RowWiseAdam": "training.optimizers",
    "RowWiseAdamW": "training.optimizers",
    "RowWiseSGD": "training.optimizers",
    "TrainabilitySchedule": "training.callbacks",
    "WordDropout": "layers.word_dropout",
    "build_classifier": "layers.builders",
    "build_embedding": "layers.builders",
    "change_vocabulary": "training.vocabularies",
    "check_saved_model": "serving.check",
    "combine_embeddings": "layers.combined",
    "compare_strategies": "training.experiments",
    "export_saved_model": "serving.export",
    "gradual_unfreeze": "training.callbacks",
    "unfreeze_at": "training.callbacks",
    "unfreeze_rows": "training.row_schedule",
}
__all__ = sorted(["errors", *_WITHOUT_KERAS, *_WITH_KERAS])

if TYPE_CHECKING:  # so that editors see what __getattr__ gives
    from embkeras.drift.plots import plot_comparison, plot_coverage, plot_drift, plot_training
    from embkeras.drift.report import DriftReport, drift_report
    from embkeras.layers.builders import build_classifier, build_embedding
    from embkeras.layers.combined import combine_embeddings
    from embkeras.layers.embedding import PretrainedEmbedding
    from embkeras.layers.word_dropout import WordDropout
    from embkeras.serving.check import check_saved_model
    from embkeras.serving.client import ExportedModel
    from embkeras.serving.encoding import Encoder
    from embkeras.serving.export import export_saved_model
    from embkeras.serving.remote import ServingClient
    from embkeras.training.callbacks import TrainabilitySchedule, gradual_unfreeze, unfreeze_at
    from embkeras.training.experiments import compare_strategies
    from embkeras.training.monitor import DriftMonitor
    from embkeras.training.optimizers import RowWiseAdagrad, RowWiseAdam, RowWiseAdamW, RowWiseSGD
    from embkeras.training.resume import ResumableBackup
    from embkeras.training.row_schedule import unfreeze_rows
    from embkeras.training.schedules import Phase
    from embkeras.training.vocabularies import change_vocabulary
    from embkeras.vectors.alignment import AlignedMatrix, align
    from embkeras.vectors.formats import load_vectors, save_vectors
    from embkeras.vectors.pruning import share_rows
    from embkeras.vectors.store import KeyedVectors
    from embkeras.vectors.tokenizer import Tokenizer
    from embkeras.vectors.vocabulary import Vocabulary


def __getattr__(name: str) -> Any:
    if name in _WITH_KERAS:
        from embkeras.registration import check_backend

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
    from embkeras.registration import register_with_keras

    register_with_keras()


_register()
