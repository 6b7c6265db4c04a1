"""Texts and labels: the splits of a dataset, from files, the Hub or the built-in toy, and their batches."""
