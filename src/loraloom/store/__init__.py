"""Adapters by name: where a mix finds what it names."""
