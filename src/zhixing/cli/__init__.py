"""The command line: words become function calls, stories become lines. `app.py` holds the table of verbs, one file each."""
