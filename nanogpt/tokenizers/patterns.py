"""The published rules of what byte pairs may be merged across: a token never reaches over one of their borders.

Written as published tokenizer.json files have them. tiktoken's own forms have possessive quantifiers, which the regular
expressions of `tokenizers` read otherwise: {1,3}+ is any number of digits there.
"""

from __future__ import annotations

BLANK = "\u2581"  # what SentencePiece writes for a blank
# A contraction, a word, a number, punctuation, each with the blank before it.
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
# cl100k_base's and Llama 3's: numbers of at most three digits, contractions in capitals, punctuation with its newlines.
CL100K_PATTERN = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
# Qwen's: as cl100k_base's, each digit on its own.
QWEN_PATTERN = CL100K_PATTERN.replace("{1,3}", "")
# o200k_base's: a word ends where a capital follows a small letter.
O200K_PATTERN = (
    r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
    r"""|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
    r"""|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
