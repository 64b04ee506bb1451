"""Results of a verification, as values, tables and HTML."""
