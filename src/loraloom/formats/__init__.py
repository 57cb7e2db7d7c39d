"""How adapter files spell factors and scales; how layers are named is an argument."""
