"""The version, in one place; importing it imports nothing."""

__version__ = "0.1.0"
