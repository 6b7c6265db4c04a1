"""Texts and labels: the splits of a dataset, from files, the Hub or the embedded toy, and their batches."""
