"""What is asked: the tasks and their metrics, the sweep file, the trials of a sweep and their ids."""
