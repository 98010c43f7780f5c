"""LoRA on the kernel of a dense layer: kernel + lora_alpha / rank * A @ B, of which only A and B train.

The kernel is taken as the matrix that it is: from what the layer sums over (in) to what it makes (out). That of an
attention's query, of shape (384, 12, 32), is 384 x 384, so A is (384, rank) and B (rank, 384). Keras' own `enable_lora`
takes the last axis alone, (384, 12, rank) and (rank, 32), trains biases too, and leaves the kernel where the flag of a
layer around it unfreezes it.

A layer gets LoRA in place, by a change of its class: the models that contain it call it as before. The layer around it
remembers (`embkeras.encoders.remembers`).
"""

from dataclasses import dataclass
from string import ascii_letters
from typing import Any

import keras
import numpy as np

from embkeras.encoders.remembers import PARTS, Part, Remembers, become, plain_class, with_class
from embkeras.errors import ArgumentError
from embkeras.keras_compat.layers import replace_variables, unlocked
from embkeras.keras_compat.variables import stock_kernel
from embkeras.tables.stand_ins import stand_in_for

DENSE = (keras.layers.Dense, keras.layers.EinsumDense)
_A, _B = "lora_kernel_a", "lora_kernel_b"  # names of the variables, and the keys in a file of weights


@dataclass(frozen=True, eq=False)
class LowRank:
    """What a layer with LoRA holds beside its kernel and bias.

    Attributes:
        rank: columns of A, rows of B.
        alpha: the product is scaled by alpha / rank.
        train_biases: whether the layer's bias trains too.
        a: shape (in, rank).
        b: shape (rank, out).
    """

    rank: int
    alpha: float
    train_biases: bool
    a: keras.Variable
    b: keras.Variable

    def settings(self) -> dict[str, Any]:
        """What a config keeps."""
        return {"rank": self.rank, "alpha": self.alpha, "train_biases": self.train_biases}


@dataclass(frozen=True)
class _Equation:
    """The product of an EinsumDense as letters, and the two smaller products that LoRA adds."""

    kernel: str
    summed: str  # axes of the kernel that the product sums over
    made: str  # axes of the kernel that the output has
    down: str
    up: str
    whole: str

    @classmethod
    def of(cls, layer: keras.layers.Layer) -> "_Equation":
        equation = layer.equation if isinstance(layer, keras.layers.EinsumDense) else "...x,xy->...y"
        inputs, kernel, output = equation.replace(" ", "").replace("->", ",").split(",")
        summed = "".join(axis for axis in kernel if axis in inputs and axis not in output)
        made = "".join(axis for axis in kernel if axis in output and axis not in inputs)
        rank = next(letter for letter in ascii_letters if letter not in equation)
        between = "".join(axis for axis in output if axis not in made) + rank
        return cls(
            kernel,
            summed,
            made,
            down=f"{inputs},{summed}{rank}->{between}",
            up=f"{between},{rank}{made}->{output}",
            whole=f"{summed}{rank},{rank}{made}->{kernel}",
        )

    @property
    def is_matrix(self) -> bool:
        """Whether each axis of the kernel is either summed over or made; one that input and output share is neither."""
        return bool(self.summed and self.made) and len(self.summed + self.made) == len(self.kernel)


def _shapes(layer: keras.layers.Layer) -> tuple[list[int], list[int]]:
    """The sizes of the kernel's axes that are summed over, and of those that are made."""
    equation = _Equation.of(layer)
    sizes = dict(zip(equation.kernel, stock_kernel(layer).shape, strict=True))
    return [sizes[axis] for axis in equation.summed], [sizes[axis] for axis in equation.made]


class LowRankKernel(Remembers):
    """Beside the class of a Dense or EinsumDense: its output has the part of LoRA, and kernel and bias don't train.

    They are among the variables that never train, so no flag of this layer or one around it reaches them.
    """

    low_rank: LowRank
    bias: keras.Variable | None
    activation: Any
    compute_dtype: str

    @property
    def kernel(self) -> Any:
        """The kernel with A @ B, as a tensor."""
        kernel = stock_kernel(self)
        return keras.ops.add(kernel, keras.ops.cast(_change(self), kernel.dtype))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """What the layer makes of the kernel with A @ B, without that sum: two narrow products beside the wide one."""
        stand_in = stand_in_for(self)
        return stand_in(inputs) if stand_in is not None else self.outputs(inputs, stock_kernel(self), self._low(inputs))

    def outputs(self, inputs: Any, kernel: Any, low: Any = None) -> Any:
        """Product with this kernel, part of LoRA, bias, activation."""
        if isinstance(self, keras.layers.EinsumDense):
            x = keras.ops.einsum(self.equation, inputs, kernel)
        else:
            x = keras.ops.matmul(inputs, kernel)
        for part in (low, self.bias):
            x = x if part is None else keras.ops.add(x, part)
        return x if self.activation is None else self.activation(x)

    def _low(self, inputs: Any) -> Any:
        scale, a, b = self.low_rank.alpha / self.low_rank.rank, self.low_rank.a, self.low_rank.b
        if not isinstance(self, keras.layers.EinsumDense):
            return keras.ops.matmul(keras.ops.matmul(inputs, a), b) * scale
        equation, (summed, made) = _Equation.of(self), _shapes(self)
        narrow = keras.ops.einsum(equation.down, inputs, keras.ops.reshape(a, [*summed, -1]))
        return keras.ops.einsum(equation.up, narrow, keras.ops.reshape(b, [-1, *made])) * scale

    def save_own_variables(self, store: Any) -> None:
        """As the plain layer does, with A and B beside."""
        for key, variable in self._stored().items():
            store[key] = variable

    def load_own_variables(self, store: Any) -> None:
        """From a file without LoRA the layer reads kernel and bias, and B becomes zero."""
        stored, keys = self._stored(), set(store.keys())
        if keys not in (set(stored), set(stored) - {_A, _B}):
            raise ArgumentError(
                f"Layer {self.name!r} has LoRA and reads {', '.join(stored)}. The file has {', '.join(sorted(keys))}."
            )
        for key in keys:
            stored[key].assign(store[key])
        if _B not in keys:
            self.low_rank.b.assign(np.zeros(tuple(self.low_rank.b.shape)))

    def _stored(self) -> dict[str, keras.Variable]:
        bias = {} if self.bias is None else {"1": self.bias}
        return {"0": stock_kernel(self), **bias, _A: self.low_rank.a, _B: self.low_rank.b}


def _change(layer: Any) -> Any:
    """lora_alpha / rank * A @ B in the shape of the kernel."""
    equation, (summed, made) = _Equation.of(layer), _shapes(layer)
    low = layer.low_rank
    a, b = keras.ops.reshape(low.a, [*summed, low.rank]), keras.ops.reshape(low.b, [low.rank, *made])
    return keras.ops.einsum(equation.whole, a, b) * (low.alpha / low.rank)


def problem(layer: keras.layers.Layer) -> str | None:
    """Why a Dense or EinsumDense can't have LoRA, as the end of a sentence about it; None if it can."""
    if isinstance(layer, LowRankKernel):
        return "has LoRA already"
    if getattr(layer, "kept_for_adapters", False):
        return "is kept as it is below adapters"
    if plain_class(layer) not in DENSE:
        return f"is a {type(layer).__name__}, a class of its own whose call LoRA doesn't know"
    if not layer.built:
        return "is not built: call the model once on a batch"
    if layer.lora_enabled:
        return "has Keras' own LoRA: make the layer again without lora_rank"
    if layer.quantization_mode is not None:
        return f"is quantized ({layer.quantization_mode})"
    if layer.kernel_constraint is not None:
        return "has a kernel_constraint"
    if not _Equation.of(layer).is_matrix:
        return f"has a kernel that is not one matrix: input and output share an axis of it in {layer.equation!r}"
    return None


def new_shapes(layer: keras.layers.Layer, rank: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the variables that LoRA adds to a dense layer or a table."""
    if isinstance(layer, keras.layers.Embedding):
        return {"lora_embeddings_a": (layer.input_dim, rank), "lora_embeddings_b": (rank, layer.output_dim)}
    summed, made = (int(np.prod(sizes)) for sizes in _shapes(layer))
    return {_A: (summed, rank), _B: (rank, made)}


def add(layer: Any, rank: int, alpha: float, train_biases: bool) -> None:
    """Give a layer without a `problem` its A, drawn at random, and its B, zeros; flags stay as they are."""
    shapes = new_shapes(layer, rank)
    with unlocked(layer):
        a = layer.add_weight(name=_A, shape=shapes[_A], initializer="he_uniform", dtype="float32")
        b = layer.add_weight(name=_B, shape=shapes[_B], initializer="zeros", dtype="float32")
    layer.low_rank = LowRank(rank, alpha, train_biases, a, b)
    frozen = [stock_kernel(layer)] if train_biases or layer.bias is None else [stock_kernel(layer), layer.bias]
    replace_variables(layer, frozen, [(each, False) for each in frozen])
    become(layer, with_class(LowRankKernel, plain_class(layer)))


def merge(layer: Any) -> None:
    """Write A @ B into the kernel, and make the layer plain again."""
    kernel, low = stock_kernel(layer), layer.low_rank
    kernel.assign(layer.kernel)
    own = [kernel] if layer.bias is None else [kernel, layer.bias]
    replace_variables(layer, [low.a, low.b, *own], [(each, True) for each in own])
    become(layer, layer.plain_class)
    del layer.low_rank


def _settings(layer: keras.layers.Layer) -> dict[str, Any] | None:
    return layer.low_rank.settings() if isinstance(layer, LowRankKernel) else None


def _put(layer: keras.layers.Layer, settings: dict[str, Any]) -> None:
    why = problem(layer) if isinstance(layer, DENSE) else f"is a {type(layer).__name__}"
    if why:
        raise ArgumentError(why)
    add(layer, **settings)


PARTS["lora"] = Part("LoRA", _settings, _put)
