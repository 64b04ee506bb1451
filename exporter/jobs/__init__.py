"""Jobs of an export: each runs once, in a process of its own, and is recorded."""
