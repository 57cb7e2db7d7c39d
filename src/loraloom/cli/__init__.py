"""The command line: what people type, and the sentences that they read."""

from .app import app, main

__all__ = ["app", "main"]
