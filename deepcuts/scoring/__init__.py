"""A fine-tuned network and batches to the scores of several criteria, in one pass."""
