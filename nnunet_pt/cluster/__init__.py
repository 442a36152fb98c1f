"""Work on clusters: scripts for SLURM, and how far they have come."""
