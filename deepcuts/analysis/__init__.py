"""What a store tells, frames in and frames out: curves, overlap, density, comparisons."""
