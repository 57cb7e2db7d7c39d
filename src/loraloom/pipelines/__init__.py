"""Requests to pictures and videos, through the model's own diffusers pipeline."""
