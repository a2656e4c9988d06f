"""Export autoencoders."""
