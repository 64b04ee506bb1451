"""Engines: the protocol, the plugins, selection for this machine, and a session over a whole bundle."""
