"""The modules that carry Meta's names so that outside code can import them. All of it is our own definition, not Meta's code."""
