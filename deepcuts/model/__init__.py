"""The network: where its files are, how it is loaded, what is prunable and how many parameters it has."""
