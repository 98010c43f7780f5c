"""LoRA on the kernel of a dense layer: kernel + lora_alpha / rank * A @ B, of which only A and B train.

The kernel is taken as the matrix that it is: from what the layer sums over (in) to what it makes (out). That of an
attention's query, of shape (384, 12, 32), is 384 x 384, so A is (384, rank) and B (rank, 384). Keras' own `enable_lora`
takes the last axis alone, (384, 12, rank) and (rank, 32), trains biases too, and leaves the kernel where the flag of a
layer around it thaws it.

A layer gets LoRA in place, by a change of its class: the models that contain it call it as before. An attention makes its
dense layers itself and doesn't mention them in its config, so the layer around them remembers in its config which have
LoRA (`remember`), and puts it back when it is loaded.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_letters
from typing import Any

import keras
import numpy as np

from embkeras.errors import ArgumentError
from embkeras.keras_compat.layers import children, may_train, replace_variables, unlocked
from embkeras.keras_compat.variables import stock_kernel
from embkeras.tables.addresses import own_weights, walk
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


# The layer that remembers --------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("embkeras", "LoRA")
class Remembers:
    """Beside a layer's own class: its config also says where inside it LoRA is, and what is frozen inside it.

    Keras keeps the flag of the layer alone: loaded, a frozen layer says that it is frozen, and the layers inside it train,
    and so do weights that were frozen by themselves. A layer inside is known by its place in the walk through all of them:
    names that Keras gives differ between processes.
    """

    plain_class: type[keras.layers.Layer]
    name: str

    def get_config(self) -> dict[str, Any]:
        """The plain layer, the settings of each layer with LoRA, and the flags of the layers inside, which Keras omits.

        Raises:
            ArgumentError: the layer makes its layers in `call`, so that LoRA can't be put back before they are called.
        """
        inside = list(_inside(self))
        places = [place for place, layer in enumerate(inside) if isinstance(layer, LowRankKernel)]
        if places not in ([], [0]) and self.plain_class.build is keras.layers.Layer.build:
            raise ArgumentError(
                f"The config of layer {self.name!r} can't say where its LoRA is: {self.plain_class.__name__} has no "
                f"build(), so its layers don't exist yet when it is loaded. Build them in build(), or write LoRA into the "
                f"kernels first: merge_lora(model)."
            )
        lora = [{"place": place, **inside[place].low_rank.settings()} for place in places]
        flags = {
            "trainable": [layer.trainable for layer in inside],
            "frozen_weights": list(map(_frozen_weights, inside)),
        }
        return {"layer": _plain(self), "lora": lora, **flags}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> keras.layers.Layer:
        """The layer with its LoRA."""
        layer = keras.saving.deserialize_keras_object(config["layer"])
        inside, flags = list(_inside(layer)), config["trainable"]
        if config["lora"] and not (layer.built and len(inside) == len(flags)):
            raise ArgumentError(
                f"Layer {layer.name!r} had LoRA inside, and {len(flags)} layers. As made from its config, it has "
                f"{len(inside)}. Has its class {type(layer).__name__} changed since it was saved?"
            )
        for each in config["lora"]:
            target, settings = inside[each["place"]], {name: each[name] for name in ("rank", "alpha", "train_biases")}
            why = problem(target) if isinstance(target, DENSE) else f"is a {type(target).__name__}"
            if not isinstance(target, LowRankKernel):  # it may have remembered by itself
                if why:
                    raise ArgumentError(f"Layer {target.name!r} inside {layer.name!r} had LoRA, and now {why}.")
                add(target, **settings)
        if layer.built and len(inside) == len(flags):
            for each, flag in zip(inside, flags, strict=True):  # parents first: their flag sets those inside
                if each.trainable != flag:
                    each.trainable = flag
            for each, places in zip(inside, config["frozen_weights"], strict=True):
                for place in places:
                    own_weights(each)[place].trainable = False
        remember(layer)
        return layer


def remember(layer: keras.layers.Layer) -> None:
    """Make the layer's config say where inside it LoRA is, and what is frozen, if there can be either."""
    late = type(layer).build is keras.layers.Layer.build  # there is nothing inside when it is loaded
    has_lora = any(isinstance(each, LowRankKernel) for each in _inside(layer))
    has_flags = bool(children(layer) or _frozen_weights(layer)) and not late
    if not isinstance(layer, Remembers) and (has_lora or has_flags):
        _become(layer, _with(Remembers, _plain_class(layer)))


def forget(layer: keras.layers.Layer) -> None:
    """Give a layer its own class again, unless there is LoRA inside it."""
    if isinstance(layer, Remembers) and not any(isinstance(each, LowRankKernel) for each in _inside(layer)):
        _become(layer, layer.plain_class)


def holders(model: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """The layers of a model whose configs Keras stores; those of a functional or Sequential model inside it too."""
    try:
        listed = isinstance(model, keras.Model) and isinstance(model.get_config().get("layers"), list)
    except NotImplementedError:  # Keras refuses to store it, with LoRA or without
        listed = False
    if not listed:
        yield model
        return
    for child in children(model):
        yield from holders(child)


def _inside(layer: Any) -> Iterator[keras.layers.Layer]:
    yield layer
    for _, each in walk(layer):
        yield each


def _frozen_weights(layer: keras.layers.Layer) -> list[int]:
    """Places of the layer's own weights that were frozen by themselves, while the layer trains."""
    frozen = [
        place for place, weight in enumerate(own_weights(layer)) if not weight.trainable and may_train(layer, weight)
    ]
    return frozen if layer.trainable else []


def _plain(layer: Any) -> dict[str, Any]:
    """What Keras stores of a layer of its own class."""
    store = keras.saving.serialize_keras_object
    named = {key: value for key, value in store(_sample(layer.plain_class)).items() if key != "shared_object_id"}
    config, built = layer.plain_class.get_config(layer), layer.get_build_config()
    return {**named, "config": store(config), **({} if built is None else {"build_config": store(built)})}


@functools.cache  # kept, because Keras knows by their ids what it has stored already
def _sample(plain: type) -> Any:
    """An object of a class with nothing in it, for which Keras stores the name of the class alone."""
    sample: Any = object.__new__(plain)
    nothing = {"get_config": dict, "get_build_config": lambda: None, "get_compile_config": lambda: None}
    object.__setattr__(sample, "__dict__", nothing)
    return sample


@functools.cache
def _with(kind: type, plain: type) -> type:
    """The class of a layer with what `kind` adds. All of them share one registered name, and one `from_config`."""
    made = type(plain.__name__, (kind, plain), {"plain_class": plain, "__module__": __name__, "__doc__": plain.__doc__})
    return keras.saving.register_keras_serializable("embkeras", "LoRA")(made)


def _plain_class(layer: keras.layers.Layer) -> type:
    return layer.plain_class if isinstance(layer, Remembers) else type(layer)


def _become(layer: keras.layers.Layer, kind: type) -> None:
    object.__setattr__(layer, "__class__", kind)


# The dense layer -----------------------------------------------------------------------------------------------------


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
    if _plain_class(layer) not in DENSE:
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
    _become(layer, _with(LowRankKernel, _plain_class(layer)))


def merge(layer: Any) -> None:
    """Write A @ B into the kernel, and make the layer plain again."""
    kernel, low = stock_kernel(layer), layer.low_rank
    kernel.assign(layer.kernel)
    own = [kernel] if layer.bias is None else [kernel, layer.bias]
    replace_variables(layer, [low.a, low.b, *own], [(each, True) for each in own])
    _become(layer, layer.plain_class)
    del layer.low_rank
