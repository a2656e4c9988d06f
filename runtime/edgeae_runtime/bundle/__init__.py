"""The bundle's format: manifest, golden vectors, signature, each checked before it is believed; for every package."""
