"""Many runs as jobs of a Snakemake workflow: what is missing, in which order, how long, on which machine."""
