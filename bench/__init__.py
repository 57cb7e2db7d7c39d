"""Measurements against diffusers + peft, ours and the peer's in one run."""
