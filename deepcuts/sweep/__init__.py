"""Many trials: what is left to run, in which order, at what cost, and how Ray runs it."""
