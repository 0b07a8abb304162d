"""Text to token ids and back: characters, byte pairs, and published vocabularies."""
