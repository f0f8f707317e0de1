"""Modules under Meta's names, for outside code to import. All of it is our own definition, not Meta's code."""
