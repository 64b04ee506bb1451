"""Where a checkpoint comes from, and what is checked before anything of it is used."""
