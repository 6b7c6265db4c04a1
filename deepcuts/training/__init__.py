"""Training: the one optimisation loop, its step, and the checkpoints that a stage resumes from."""
