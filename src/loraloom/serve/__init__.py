"""The HTTP server: what clients ask for becomes tasks of the engine, tickets become answers."""
