"""The command line. Each command is one file, listed in `group.py` and imported when it is called."""
