"""Keeps results: the Parquet tables, masks, tensors and live state of a store, and its upkeep."""
