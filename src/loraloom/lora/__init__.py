"""Adapters on modules: decide what changes, then change it completely or not at all."""
