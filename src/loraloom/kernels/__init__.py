"""What adapters add to a layer's output where runs of a batch's entries wear different ones."""
