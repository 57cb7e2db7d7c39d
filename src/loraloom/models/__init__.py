"""Cards: one file a family, and what a model folder says of itself."""
