"""Workers on other machines: jobs of a Slurm cluster, and hosts that come by themselves."""
