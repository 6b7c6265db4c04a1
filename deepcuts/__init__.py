"""Distributed pruning sweeps for BERT-style models, from a YAML file to a Parquet store."""

__version__ = "0.1.0"
