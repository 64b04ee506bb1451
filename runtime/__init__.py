"""Run time: opens a bundle and drives its engines with NumPy alone."""
