"""The commands: parse, run the pipeline, print."""
