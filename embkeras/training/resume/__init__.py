"""Saving and resuming a training: its contents, its file, and the order of its data; `ResumableBackup` uses them."""
