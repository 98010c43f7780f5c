"""Decoders: language models in the form of Llama, read, generating, tuned on instructions."""
