"""The same mathematics, quicker: every module here could be left out, and the results would be the same."""
