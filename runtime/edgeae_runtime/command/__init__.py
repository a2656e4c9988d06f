"""`edgeae-runtime`, the command: parse, call one library function, print, map errors to exit codes; nobody imports it
but `edgeae`, which hands its verbs on."""
