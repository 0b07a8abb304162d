"""Text to token ids: fetched, cleaned, split, tokenised, and read back in an order that a seed decides."""
