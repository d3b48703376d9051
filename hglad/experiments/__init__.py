"""What a profile runs: tasks, their store, the Snakemake workflow, tuning."""
