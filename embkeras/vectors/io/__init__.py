"""Vector files: one file a format, and the registry that knows them."""
