"""One folder a target: target.py lowers a graph (build time), engine.py runs what was lowered (run time)."""
