"""LowRank: LoRA on an embedding table, in which only the rows of ids that training sees move.

Keras' own `enable_lora` draws A, which has a row for each id, at random and begins B at zero: as soon as B moves, every
row of the table has moved. Here A begins at zero and B at random, so a row moves when its own row of A does.
"""

import math
import numbers
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from embkeras.errors import ArgumentError
from embkeras.keras_compat.variables import read_by_rows
from embkeras.tables.row_io import blocks, read_rows, write_rows


class LowRank:
    """Mixin before `keras.layers.Embedding`: its table is base + lora_alpha / rank * A @ B, the base frozen.

    A is (input_dim, rank), B is (rank, output_dim). The method is LoRA (Hu et al. 2021, Low-Rank Adaptation of Large
    Language Models).
    """

    _merged: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def enable_lora(
        self,
        rank: int,
        lora_alpha: float | None = None,
        a_initializer: Any = "zeros",
        b_initializer: Any = "he_uniform",
    ) -> None:
        """Freeze the table and learn a sum to it of a low rank. Do it before the model is compiled.

        Args:
            rank: columns of A.
            lora_alpha: the sum is scaled by lora_alpha / rank; by default by 1.
            a_initializer: "zeros": a row that no batch holds then stays bit-identical. That of the padding is zeros
                with any.
            b_initializer: not zeros, or nothing would ever move.

        Raises:
            ArgumentError: a rank below 1, a lora_alpha that is no finite number above 0, or a layer that is not built,
                has LoRA already, is quantized, or has a constraint.
        """
        if isinstance(rank, bool) or not isinstance(rank, int | np.integer) or rank < 1:
            raise ArgumentError(f"rank must be an integer >= 1. Received: {rank!r} (layer {self.name!r}).")
        number = isinstance(lora_alpha, numbers.Real) and not isinstance(lora_alpha, bool)
        if lora_alpha is not None and not (number and 0 < lora_alpha < math.inf):
            raise ArgumentError(
                f"lora_alpha must be a finite number > 0, or None. Received: {lora_alpha!r} (layer {self.name!r})."
            )
        for refused, why in (
            (not self.built, "is not built"),
            (self.lora_enabled, "has LoRA already"),
            (self.quantization_mode is not None, "is quantized"),
            (self.embeddings_constraint is not None, "has a constraint"),
        ):
            if refused:
                raise ArgumentError(
                    f"enable_lora takes a built layer with a plain table, once. Layer {self.name!r} {why}."
                )
        alpha = self.lora_alpha if lora_alpha is None and rank == self.lora_rank else lora_alpha  # Keras forgets it
        super().enable_lora(int(rank), alpha, a_initializer, b_initializer)
        read_by_rows(self.lora_embeddings_a, table=False)
        read_by_rows(self.lora_embeddings_b, table=False)
        if self.padding_id is not None:
            write_rows(self.lora_embeddings_a, np.array([self.padding_id]), np.zeros((1, rank)))

    @property
    def trainable(self) -> bool:
        """Whether the layer trains: with LoRA, A and B alone."""
        return keras.layers.Embedding.trainable.fget(self)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Embedding.trainable.fset(self, value)
        if self.lora_enabled:  # Keras would thaw the base too
            self._embeddings.trainable = False

    def merge_lora(self) -> None:
        """Write A @ B into the table and begin A at zero again; the layer gives the same vectors as before.

        The rows that change are kept in memory, for `unmerge_lora` to undo the last merge; they are not saved.

        Raises:
            ArgumentError: the layer has no LoRA.
        """
        self._check_lora()
        a = np.concatenate([read_rows(self.lora_embeddings_a, np.arange(*each)) for each in blocks(self._shape())])
        ids = np.flatnonzero(a.any(axis=1))
        before = read_rows(self._embeddings, ids)
        merged = before + self._lora_scale() * (a[ids] @ keras.ops.convert_to_numpy(self.lora_embeddings_b))
        write_rows(self._embeddings, ids, merged)
        write_rows(self.lora_embeddings_a, ids, np.zeros_like(a[ids]))
        if len(ids) or self._merged is None:
            self._merged = ids, before, a[ids]

    def unmerge_lora(self) -> None:
        """Put back table and A as they were before `merge_lora`, to the bit.

        Raises:
            ArgumentError: nothing was merged since the table was filled, or A has learnt since, which would be lost.
        """
        self._check_lora()
        if self._merged is None:
            raise ArgumentError(f"unmerge_lora undoes merge_lora. Layer {self.name!r} has nothing merged.")
        if any(read_rows(self.lora_embeddings_a, np.arange(*each)).any() for each in blocks(self._shape())):
            raise ArgumentError(f"unmerge_lora would lose what A of layer {self.name!r} has learnt since the merge.")
        ids, before, a = self._merged
        write_rows(self._embeddings, ids, before)
        write_rows(self.lora_embeddings_a, ids, a)
        self._merged = None

    def _low_rank_rows(self, ids: tf.Tensor) -> tf.Tensor:
        a = tf.nn.embedding_lookup(self.lora_embeddings_a.value, ids)
        rows = self._lora_scale() * (a @ tf.convert_to_tensor(self.lora_embeddings_b.value))
        return tf.cast(rows, self._embeddings.dtype)  # A and B are float32, whatever the table is

    def _lora_scale(self) -> float:
        return self.lora_alpha / self.lora_rank

    def _shape(self) -> tuple[int, int]:
        return self.input_dim, self.output_dim

    def _check_lora(self) -> None:
        if not self.lora_enabled:
            raise ArgumentError(f"Layer {self.name!r} has no LoRA: call enable_lora first.")
