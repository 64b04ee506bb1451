"""Run time: opens and runs engines of Core ML; loads no graph library."""
