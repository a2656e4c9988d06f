"""Files in, files out: strangers' arrays, pictures and JSON, and writing that loses nothing; for every package."""
