"""The method, pure: which weights matter (criteria), how many are kept, the masks and their bits."""
