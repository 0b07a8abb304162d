"""What computes the next token's logits: torch, onnxruntime or compiled C, behind one protocol, chosen by measuring."""
