"""A plugin for w3ray."""
