"""The one optimisation loop, its step, and the checkpoints from which a stage goes on."""
