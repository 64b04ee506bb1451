"""Checks before any work: arguments of a call, sizes, and memory."""
