"""The tracks: their descriptions (`descriptions.py`, without torch) and one module for each class."""
