"""From documents to shards of token ids: cleaned, filtered, without duplicates, split and tokenised, at any size."""
