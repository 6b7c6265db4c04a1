"""The network: where its files lie, how it is loaded, what is prunable, how many parameters it has."""
