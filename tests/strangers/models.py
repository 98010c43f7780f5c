"""Models as other people write them around our layers, each as small as it can be."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("strangers")
class Subclassed(keras.Model):
    """A model of its own class that holds an embedding layer; its config holds that of the layer."""

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding
        self.head = keras.layers.Dense(3, name="head")

    def call(self, ids):
        """The mean vector, then three scores."""
        return self.head(keras.ops.mean(self.embedding(ids), axis=1))

    def get_config(self):
        """With the layer inside."""
        return {**super().get_config(), "embedding": keras.saving.serialize_keras_object(self.embedding)}

    @classmethod
    def from_config(cls, config):
        """With the layer inside."""
        return cls(keras.saving.deserialize_keras_object(config.pop("embedding")), **config)


@keras.saving.register_keras_serializable("strangers")
class Holder(keras.layers.Layer):
    """A custom layer that holds an embedding layer."""

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding

    def call(self, ids):
        """The mean vector."""
        return keras.ops.mean(self.embedding(ids), axis=1)

    def get_config(self):
        """With the layer inside."""
        return {**super().get_config(), "embedding": keras.saving.serialize_keras_object(self.embedding)}

    @classmethod
    def from_config(cls, config):
        """With the layer inside."""
        return cls(keras.saving.deserialize_keras_object(config.pop("embedding")), **config)


@keras.saving.register_keras_serializable("strangers")
class CalledInBuild(Subclassed):
    """A subclassed model that calls itself with zeros to build its layers."""

    def build(self, shape):
        """Build by a call."""
        self.call(tf.zeros((1, 5), tf.int64))
        self.built = True


def subclassed(embedding):
    """A model of its own class."""
    return Subclassed(embedding, name="subclassed")


def holding(embedding):
    """A functional model with a custom layer that holds the embedding."""
    ids = keras.Input((5,), dtype="int64")
    return keras.Model(ids, keras.layers.Dense(3)(Holder(embedding, name="holder")(ids)))


def called_in_build(embedding):
    """A model whose `build` computes with zeros."""
    return CalledInBuild(embedding, name="called")
