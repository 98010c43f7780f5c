"""Adapters as layers (Houlsby et al. 2019, Pfeiffer et al. 2021), and the layers that they are put on, in place.

A dense layer with adapters returns what its adapter makes of its output; a normalisation with adapters leaves its work to one
of its own. The layer's own weights never train then, and neither do adapters that aren't in use, whatever flag is set on a
layer around them. Each adapter has normalisations of its own, so the base stays what it was.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras

from embkeras._checks import whole_number
from embkeras.encoders.low_rank import DENSE, LowRankKernel
from embkeras.encoders.remembers import PARTS, Part, Remembers, become, plain_class, with_class
from embkeras.errors import ArgumentError
from embkeras.keras_compat.layers import children, may_train, replace_variables, unlocked
from embkeras.keras_compat.variables import stock_kernel
from embkeras.tables.addresses import own_weights, walk


def _make_bottleneck(layer: Any, width: int) -> None:
    """The two dense layers of an adapter."""
    settings = {"dtype": layer.dtype_policy}
    layer.down = keras.layers.Dense(layer.size, activation=layer.activation, name="down", **settings)
    layer.up = keras.layers.Dense(width, kernel_initializer="zeros", name="up", **settings)
    layer.down.build((None, width))
    layer.up.build((None, layer.size))


@keras.saving.register_keras_serializable("embkeras")
class Adapter(keras.layers.Layer):
    """x + up(activation(down(x))): (..., D) -> (..., D). `up` begins with zeros, so it begins as the identity.

    Args:
        size: the width between `down` and `up`.
        activation: behind `down`.
        **kwargs: as for any Keras layer.
    """

    def __init__(self, size: int, activation: Any = "gelu", **kwargs: Any):
        super().__init__(**kwargs)
        self.size = whole_number(size, "size", least=1)
        self.activation = keras.activations.get(activation)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Make both dense layers."""
        _make_bottleneck(self, input_shape[-1])
        self.built = True

    def call(self, inputs: Any) -> Any:
        """The sum."""
        return inputs + self.up(self.down(inputs))

    def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
        """The same."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        return {**super().get_config(), **settings_of(self)}


@keras.saving.register_keras_serializable("embkeras")
class AdapterNorm(keras.layers.LayerNormalization):
    """The normalisation of an adapter, or with a size its bottleneck too: norm(x + up(activation(down(norm(x)))))."""

    def __init__(self, size: int | None = None, activation: Any = "gelu", **kwargs: Any):
        super().__init__(**kwargs)
        self.size = None if size is None else whole_number(size, "size", least=1)
        self.activation = keras.activations.get(activation)

    def build(self, input_shape: Any) -> None:
        """Make gamma and beta, and the dense layers if there is a size."""
        super().build(input_shape)
        if self.size is not None:
            _make_bottleneck(self, input_shape[-1])

    def call(self, inputs: Any) -> Any:
        """What is normalised."""
        if self.size is None:
            return super().call(inputs)
        return super().call(inputs + self.up(self.down(super().call(inputs))))

    def get_config(self) -> dict[str, Any]:
        """The settings."""
        return {**super().get_config(), **settings_of(self)}


class Adapted(Remembers):
    """Beside the class of a Dense, EinsumDense or LayerNormalization: the adapter in use acts on it."""

    used_adapter: str | None  # the attributes adapter_NAME hold the adapters

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """What the layer makes without adapters, through the adapter in use."""
        adapter = adapter_in_use(self)
        plain: Any = super()
        if adapter is None:
            return plain.call(inputs)
        return adapter(plain.call(inputs)) if isinstance(self, DENSE) else adapter(inputs)


def adapters_of(layer: keras.layers.Layer) -> dict[str, keras.layers.Layer]:
    """The adapters on a layer, by name."""
    return {each.name: each for each in children(layer)} if isinstance(layer, Adapted) else {}


def adapter_in_use(layer: keras.layers.Layer) -> keras.layers.Layer | None:
    """The adapter through which a layer's output goes, if there is one."""
    return adapters_of(layer).get(layer.used_adapter or "") if isinstance(layer, Adapted) else None


def problem(layer: keras.layers.Layer) -> str | None:
    """Why a layer can't have an adapter, as the end of a sentence about it; None if it can."""
    if isinstance(layer, LowRankKernel):
        return "has LoRA: merge_lora(model) first"
    if plain_class(layer) not in (*DENSE, keras.layers.LayerNormalization):
        return f"is a {type(layer).__name__}, no Dense, EinsumDense or LayerNormalization"
    if not layer.built:
        return "is not built: call the model once on a batch"
    if getattr(layer, "quantization_mode", None) is not None:
        return f"is quantized ({layer.quantization_mode})"
    if isinstance(layer, keras.layers.EinsumDense) and _last_axis(layer) is None:
        return f"returns an axis of its input last, in {layer.equation!r}"
    if not isinstance(layer, DENSE) and len(own_weights(layer)[0].shape if own_weights(layer) else ()) != 1:
        return "normalises several axes, or has no weights"
    return None


def new_adapter(layer: Any, name: str, size: int | None, activation: Any) -> keras.layers.Layer:
    """An adapter for a layer without a `problem`, built; that of a normalisation begins with its weights."""
    if isinstance(layer, DENSE):
        adapter: Any = Adapter(size or 1, activation, name=name, dtype=layer.dtype_policy)
        with _inside_of(layer):
            adapter.build((None, _width(layer)))
        return adapter
    plain: Any = plain_class(layer)
    config = {**plain.get_config(layer), "name": name, "size": size, "activation": activation}
    config["trainable"] = True
    adapter = AdapterNorm.from_config(config)
    with _inside_of(layer):
        adapter.build((None, None, _width(layer)))
    for before, after in zip(own_weights(layer), own_weights(adapter), strict=True):
        after.assign(before)
    return adapter


@contextmanager
def _inside_of(layer: keras.layers.Layer) -> Iterator[None]:
    """Within the block, the paths of new variables begin with that of the layer."""
    with ExitStack() as stack:
        for name in own_weights(layer)[0].path.split("/")[:-1]:
            stack.enter_context(keras.name_scope(name))
        yield


def _width(layer: Any) -> int:
    """The width of what a layer returns."""
    if isinstance(layer, keras.layers.EinsumDense):
        return int(stock_kernel(layer).shape[_last_axis(layer)])
    return int(own_weights(layer)[0].shape[-1])


def _last_axis(layer: Any) -> int | None:
    """The axis of an EinsumDense's kernel that is the last one of its output."""
    _, kernel, output = layer.equation.replace(" ", "").replace("->", ",").split(",")
    return kernel.index(output[-1]) if output[-1] in kernel else None


def put_adapter(layer: Any, adapter: keras.layers.Layer) -> None:
    """Put a built adapter on a layer; it isn't in use yet."""
    if not isinstance(layer, Adapted):
        keep(layer)
        layer.used_adapter = None
        become(layer, with_class(Adapted, plain_class(layer)))
    with unlocked(layer):
        setattr(layer, f"adapter_{adapter.name}", adapter)
    _keep_all(adapter)


def use(layer: Any, name: str | None) -> None:
    """Use one of the adapters on a layer, or none."""
    for known, adapter in adapters_of(layer).items():
        if known == name:
            for each in _inside(adapter):
                release(each)
        else:
            _keep_all(adapter)
    layer.used_adapter = name if name in adapters_of(layer) else None


def keep(layer: keras.layers.Layer) -> None:
    """Freeze a layer's own weights, so that setting `trainable` on it or on a layer around it doesn't train them."""
    _file(layer, False)
    layer.kept_for_adapters = True


def release(layer: keras.layers.Layer) -> None:
    """Let the own weights of an adapter's layer train again."""
    _file(layer, True)
    layer.kept_for_adapters = False


def _file(layer: keras.layers.Layer, trains: bool) -> None:
    own = own_weights(layer)  # all of them, so that their order stays
    if any(may_train(layer, each) is not trains for each in own):
        replace_variables(layer, own, [(each, trains) for each in own])
    for each in own:
        each.trainable = trains and layer.trainable


def _keep_all(adapter: keras.layers.Layer) -> None:
    for each in _inside(adapter):
        keep(each)


def _inside(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    yield layer
    for _, each in walk(layer):
        yield each


def settings_of(adapter: Any) -> dict[str, Any]:
    """What distinguishes adapters on one layer: the width of the bottleneck, and its activation."""
    return {"size": adapter.size, "activation": keras.activations.serialize(adapter.activation)}


def others(model: keras.layers.Layer, name: str | None = None) -> set[int]:
    """The ids of variables of adapters of other names; by default of those that are not in use."""
    found: set[int] = set()
    for each in _inside(model):
        for known, adapter in adapters_of(each).items():
            if known != (name or each.used_adapter):
                found |= {id(variable) for variable in adapter.variables}
    return found


def unread(model: keras.layers.Layer) -> set[int]:
    """The ids of variables that the model doesn't read: of adapters not in use, and of normalisations that have one in use."""
    found = others(model)
    for each in _inside(model):
        if isinstance(each, Adapted) and each.used_adapter and not isinstance(each, DENSE):
            found |= {id(variable) for variable in own_weights(each)}
    return found


def _settings(layer: Any) -> dict[str, Any] | None:
    if not isinstance(layer, Adapted):
        return None
    stored = [keras.saving.serialize_keras_object(adapter) for adapter in adapters_of(layer).values()]
    return {"in_use": layer.used_adapter, "adapters": stored}


def _put(layer: Any, settings: dict[str, Any]) -> None:
    if why := problem(layer):
        raise ArgumentError(why)
    for each in settings["adapters"]:
        with _inside_of(layer):
            adapter: Any = keras.saving.deserialize_keras_object(each)
            if not adapter.built:
                adapter.build((None, None, _width(layer)))
        put_adapter(layer, adapter)
    use(layer, settings["in_use"])


def _kept(layer: keras.layers.Layer) -> dict[str, Any] | None:
    return {} if getattr(layer, "kept_for_adapters", False) else None


PARTS["adapters"] = Part("adapters", _settings, _put, around=True)
PARTS["kept"] = Part("frozen weights", _kept, lambda layer, settings: keep(layer))
