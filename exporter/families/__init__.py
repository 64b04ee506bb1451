"""One file a family: which components a pipeline has."""
