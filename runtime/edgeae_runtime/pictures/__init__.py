"""Pictures and arrays as images of a bundle, and back as files; for the commands and `edgeae.data`."""
