"""Train autoencoders and put them on a device."""
