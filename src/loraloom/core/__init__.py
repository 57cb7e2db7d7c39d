"""Values and arithmetic: what an adapter is, what is worn, and what wearing means in numbers."""
