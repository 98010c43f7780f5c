"""The state of a training: what it consists of, and the file that holds it; `ResumableBackup` is made of these."""
