"""File formats and tensor names of other tools."""
