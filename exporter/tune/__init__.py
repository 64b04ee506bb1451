"""Approximations of the loop: measured against the exact one, and searched for the fastest within a budget."""
