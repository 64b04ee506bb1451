"""The checks of a verification, their metrics and gates."""
