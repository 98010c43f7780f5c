"""The smallest models and files of each kind that people bring."""
