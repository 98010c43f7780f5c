"""Texts to ids: tokenizer, vocabulary, labelled text; never TensorFlow."""
