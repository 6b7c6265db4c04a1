"""The command line: a function for each verb, with its arguments beside it."""
