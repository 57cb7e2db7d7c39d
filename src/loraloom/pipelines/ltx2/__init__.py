"""LTX-2 at work: tokens of video and sound, and the passes of its transformer."""
