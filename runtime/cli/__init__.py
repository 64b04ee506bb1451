"""The command line. Each command is one file, reached through the table in `main.py` and loaded when it is called."""
