"""embkeras: pre-trained word vectors in Keras, from the vector file to a SavedModel that takes token ids.

    vector file -> aligned matrix -> embedding layer -> training schedule -> drift report -> SavedModel

`import embkeras` does not import TensorFlow; the first name that needs it does.
"""

import importlib
from typing import TYPE_CHECKING, Any

from embkeras import errors

__version__ = "0.1.0"

# module -> the public names that it defines
_WITHOUT_KERAS = {
    "drift.carry": "CarriedDrift propagate_drift",
    "drift.plots": "plot_comparison plot_coverage plot_drift plot_learning_curve plot_training",
    "drift.report": "DriftReport drift_report",
    "serving.client": "ServingClient",
    "serving.convert": "convert_saved_model",
    "serving.scorer": "BatchScorer",
    "serving.text_encoder": "TextEncoder",
    "encoders.spans": "SpanAnswer SpanExample SpanWindows decode_spans encode_spans",
    "encoders.squad": "load_squad squad_scores",
    "encoders.tagging": "encode_tagged",
    "experiments.page": "report_html save_report",
    "experiments.profile": "DataProfile data_profile",
    "text.token_counts": "TokenCounts",
    "text.tokenizer": "Tokenizer",
    "text.vocabulary": "Vocabulary",
    "vectors.align": "align",
    "vectors.aligned": "AlignedMatrix",
    "vectors.io.registry": "load_vectors save_vectors",
    "vectors.store": "KeyedVectors",
}
_WITH_KERAS = {
    "encoders.adapters": "enable_adapters use_adapters",
    "encoders.decoders.generation": "generate",
    "encoders.decoders.instructions": "encode_instructions perplexity",
    "encoders.decoders.reading": "PretrainedDecoder load_decoder",
    "encoders.heads": (
        "build_encoder_classifier build_encoder_regressor build_encoder_tagger build_sentence_encoder build_span_model"
    ),
    "encoders.lora": "enable_lora merge_lora",
    "encoders.reading": "PretrainedEncoder load_pretrained",
    "encoders.tuned": "load_tuned save_tuned",
    "encoders.words": "vectors_from_encoder",
    "experiments.curves": "learning_curve",
    "experiments.race": "race_strategies",
    "experiments.runs": "compare_strategies",
    "experiments.strategies": "Strategy",
    "serving.check": "check_saved_model",
    "serving.decoders": "export_decoder",
    "serving.export": "export_saved_model",
    "serving.local": "ExportedModel",
    "tables.builders": "build_classifier build_embedding",
    "tables.combined": "combine_embeddings",
    "tables.embedding": "PretrainedEmbedding",
    "tables.word_dropout": "WordDropout",
    "training.change_vocabulary": "change_vocabulary",
    "training.drift_monitor": "DriftMonitor",
    "training.class_means": "fit_class_means",
    "training.frozen_trunk.fit": "fit_on_frozen",
    "training.optimizers.fine_tuning": "LinearDecay",
    "training.optimizers.layerwise": "layerwise_rates",
    "training.optimizers.rules": "RowWiseAdagrad RowWiseAdam RowWiseAdamW RowWiseSGD",
    "training.resume.backup": "ResumableBackup",
    "training.schedule.callback": "TrainabilitySchedule gradual_unfreeze unfreeze_at",
    "training.schedule.phases": "Phase",
    "training.schedule.rows": "unfreeze_rows",
    "training.workers.model": "MultiWorkerFit MultiWorkerModel",
}
_MODULE_OF = {name: module for module, names in (_WITHOUT_KERAS | _WITH_KERAS).items() for name in names.split()}
# Spelled out for type checkers: they read no other form.
__all__ = [
    "AlignedMatrix",
    "BatchScorer",
    "CarriedDrift",
    "DataProfile",
    "DriftMonitor",
    "DriftReport",
    "ExportedModel",
    "KeyedVectors",
    "LinearDecay",
    "MultiWorkerFit",
    "MultiWorkerModel",
    "Phase",
    "PretrainedDecoder",
    "PretrainedEmbedding",
    "PretrainedEncoder",
    "ResumableBackup",
    "RowWiseAdagrad",
    "RowWiseAdam",
    "RowWiseAdamW",
    "RowWiseSGD",
    "ServingClient",
    "SpanAnswer",
    "SpanExample",
    "SpanWindows",
    "Strategy",
    "TextEncoder",
    "TokenCounts",
    "Tokenizer",
    "TrainabilitySchedule",
    "Vocabulary",
    "WordDropout",
    "align",
    "build_classifier",
    "build_embedding",
    "build_encoder_classifier",
    "build_encoder_regressor",
    "build_encoder_tagger",
    "build_sentence_encoder",
    "build_span_model",
    "change_vocabulary",
    "check_saved_model",
    "combine_embeddings",
    "compare_strategies",
    "convert_saved_model",
    "data_profile",
    "decode_spans",
    "drift_report",
    "enable_adapters",
    "enable_lora",
    "encode_instructions",
    "encode_spans",
    "encode_tagged",
    "errors",
    "export_decoder",
    "export_saved_model",
    "fit_class_means",
    "fit_on_frozen",
    "generate",
    "gradual_unfreeze",
    "layerwise_rates",
    "learning_curve",
    "load_decoder",
    "load_pretrained",
    "load_squad",
    "load_tuned",
    "load_vectors",
    "merge_lora",
    "perplexity",
    "plot_comparison",
    "plot_coverage",
    "plot_drift",
    "plot_learning_curve",
    "plot_training",
    "propagate_drift",
    "race_strategies",
    "report_html",
    "save_report",
    "save_tuned",
    "save_vectors",
    "squad_scores",
    "unfreeze_at",
    "unfreeze_rows",
    "use_adapters",
    "vectors_from_encoder",
]

if TYPE_CHECKING:  # for editors and type checkers; at run time __getattr__ imports on demand
    from embkeras.drift.carry import CarriedDrift as CarriedDrift
    from embkeras.drift.carry import propagate_drift as propagate_drift
    from embkeras.drift.plots import plot_comparison as plot_comparison
    from embkeras.drift.plots import plot_coverage as plot_coverage
    from embkeras.drift.plots import plot_drift as plot_drift
    from embkeras.drift.plots import plot_learning_curve as plot_learning_curve
    from embkeras.drift.plots import plot_training as plot_training
    from embkeras.drift.report import DriftReport as DriftReport
    from embkeras.drift.report import drift_report as drift_report
    from embkeras.encoders.adapters import enable_adapters as enable_adapters
    from embkeras.encoders.adapters import use_adapters as use_adapters
    from embkeras.encoders.decoders.generation import generate as generate
    from embkeras.encoders.decoders.instructions import encode_instructions as encode_instructions
    from embkeras.encoders.decoders.instructions import perplexity as perplexity
    from embkeras.encoders.decoders.reading import PretrainedDecoder as PretrainedDecoder
    from embkeras.encoders.decoders.reading import load_decoder as load_decoder
    from embkeras.encoders.heads import build_encoder_classifier as build_encoder_classifier
    from embkeras.encoders.heads import build_encoder_regressor as build_encoder_regressor
    from embkeras.encoders.heads import build_encoder_tagger as build_encoder_tagger
    from embkeras.encoders.heads import build_sentence_encoder as build_sentence_encoder
    from embkeras.encoders.heads import build_span_model as build_span_model
    from embkeras.encoders.lora import enable_lora as enable_lora
    from embkeras.encoders.lora import merge_lora as merge_lora
    from embkeras.encoders.reading import PretrainedEncoder as PretrainedEncoder
    from embkeras.encoders.reading import load_pretrained as load_pretrained
    from embkeras.encoders.spans import SpanAnswer as SpanAnswer
    from embkeras.encoders.spans import SpanExample as SpanExample
    from embkeras.encoders.spans import SpanWindows as SpanWindows
    from embkeras.encoders.spans import decode_spans as decode_spans
    from embkeras.encoders.spans import encode_spans as encode_spans
    from embkeras.encoders.squad import load_squad as load_squad
    from embkeras.encoders.squad import squad_scores as squad_scores
    from embkeras.encoders.tagging import encode_tagged as encode_tagged
    from embkeras.encoders.tuned import load_tuned as load_tuned
    from embkeras.encoders.tuned import save_tuned as save_tuned
    from embkeras.encoders.words import vectors_from_encoder as vectors_from_encoder
    from embkeras.experiments.curves import learning_curve as learning_curve
    from embkeras.experiments.page import report_html as report_html
    from embkeras.experiments.page import save_report as save_report
    from embkeras.experiments.profile import DataProfile as DataProfile
    from embkeras.experiments.profile import data_profile as data_profile
    from embkeras.experiments.race import race_strategies as race_strategies
    from embkeras.experiments.runs import compare_strategies as compare_strategies
    from embkeras.experiments.strategies import Strategy as Strategy
    from embkeras.serving.check import check_saved_model as check_saved_model
    from embkeras.serving.client import ServingClient as ServingClient
    from embkeras.serving.convert import convert_saved_model as convert_saved_model
    from embkeras.serving.decoders import export_decoder as export_decoder
    from embkeras.serving.export import export_saved_model as export_saved_model
    from embkeras.serving.local import ExportedModel as ExportedModel
    from embkeras.serving.scorer import BatchScorer as BatchScorer
    from embkeras.serving.text_encoder import TextEncoder as TextEncoder
    from embkeras.tables.builders import build_classifier as build_classifier
    from embkeras.tables.builders import build_embedding as build_embedding
    from embkeras.tables.combined import combine_embeddings as combine_embeddings
    from embkeras.tables.embedding import PretrainedEmbedding as PretrainedEmbedding
    from embkeras.tables.word_dropout import WordDropout as WordDropout
    from embkeras.text.token_counts import TokenCounts as TokenCounts
    from embkeras.text.tokenizer import Tokenizer as Tokenizer
    from embkeras.text.vocabulary import Vocabulary as Vocabulary
    from embkeras.training.change_vocabulary import change_vocabulary as change_vocabulary
    from embkeras.training.class_means import fit_class_means as fit_class_means
    from embkeras.training.drift_monitor import DriftMonitor as DriftMonitor
    from embkeras.training.frozen_trunk.fit import fit_on_frozen as fit_on_frozen
    from embkeras.training.optimizers.fine_tuning import LinearDecay as LinearDecay
    from embkeras.training.optimizers.layerwise import layerwise_rates as layerwise_rates
    from embkeras.training.optimizers.rules import RowWiseAdagrad as RowWiseAdagrad
    from embkeras.training.optimizers.rules import RowWiseAdam as RowWiseAdam
    from embkeras.training.optimizers.rules import RowWiseAdamW as RowWiseAdamW
    from embkeras.training.optimizers.rules import RowWiseSGD as RowWiseSGD
    from embkeras.training.resume.backup import ResumableBackup as ResumableBackup
    from embkeras.training.schedule.callback import TrainabilitySchedule as TrainabilitySchedule
    from embkeras.training.schedule.callback import gradual_unfreeze as gradual_unfreeze
    from embkeras.training.schedule.callback import unfreeze_at as unfreeze_at
    from embkeras.training.schedule.phases import Phase as Phase
    from embkeras.training.schedule.rows import unfreeze_rows as unfreeze_rows
    from embkeras.training.workers.model import MultiWorkerFit as MultiWorkerFit
    from embkeras.training.workers.model import MultiWorkerModel as MultiWorkerModel
    from embkeras.vectors.align import align as align
    from embkeras.vectors.aligned import AlignedMatrix as AlignedMatrix
    from embkeras.vectors.io.registry import load_vectors as load_vectors
    from embkeras.vectors.io.registry import save_vectors as save_vectors
    from embkeras.vectors.store import KeyedVectors as KeyedVectors


if not TYPE_CHECKING:  # a type checker that sees __getattr__ accepts any name, misspelt ones too

    def __getattr__(name: str) -> Any:
        module = _MODULE_OF.get(name)
        if module is None:
            raise AttributeError(f"module 'embkeras' has no attribute {name!r}")
        if module in _WITH_KERAS:
            from embkeras._registration import check_backend

            check_backend()
        value = getattr(importlib.import_module(f"embkeras.{module}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__


def _register() -> None:
    from embkeras._registration import register_with_keras

    register_with_keras()


_register()
