"""The jobs of an export, each in a process of its own, done once and remembered."""
