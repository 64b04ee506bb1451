"""Families: one file each, with the components of its pipeline."""
