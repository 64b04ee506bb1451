"""The schedulers, one algorithm a file; `registry.py` lists them."""
