"""Sampling plans: a planned run of a scheduler as a table of coefficients, for runtimes in other languages.

`lower` runs a scheduler's own `step` on linear forms, which look like NumPy arrays to it. No scheduler imports this
package.
"""
