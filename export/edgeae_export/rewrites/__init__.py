"""Exact graph rewrites: one module each, of one `Rewrite` in three steps; `plans` says where each is taken."""
