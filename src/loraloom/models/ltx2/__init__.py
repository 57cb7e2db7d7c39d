"""LTX-2 and LTX-2.3: what their folders hold and how they are asked."""
