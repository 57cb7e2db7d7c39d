"""Adapter files: small real ones, written here or by the libraries that write them elsewhere."""
