"""The model alone: tensors in, logits and loss out. It knows no file, no optimizer and no text."""
