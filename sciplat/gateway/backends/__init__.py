"""Where clusters run: what all backends share, local processes, and Slurm."""
