"""Writing a bundle, and taking another's place; for the pipeline."""
