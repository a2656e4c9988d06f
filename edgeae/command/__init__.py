"""`edgeae`, the command: each verb parses, calls one library function and shows what came of it, and those of the
runtime are handed on to `edgeae_runtime.command`; nobody imports this room but `edgeae.__main__`."""
