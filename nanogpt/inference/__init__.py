"""Text from a model: two passes, prefill and decode, over a batch of prompts."""
