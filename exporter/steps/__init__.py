"""From a torch module to a portable graph with its names."""
