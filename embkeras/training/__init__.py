"""What moves in training, when, and how fast."""
