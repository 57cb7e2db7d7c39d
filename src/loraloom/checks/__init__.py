"""The laws of the house on the weights and pictures of a model at hand, and a report of them."""
