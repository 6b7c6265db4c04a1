"""One trial: the order of its stages, those that trials share, and the row that it leaves."""
