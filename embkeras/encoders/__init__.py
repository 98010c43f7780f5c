"""Pre-trained encoders: read from a folder, laid open as a flat model whose token table is an embkeras layer, and heads."""
