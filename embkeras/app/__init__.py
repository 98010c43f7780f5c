"""The command line: commands, pipeline, demo data, and what is printed."""
