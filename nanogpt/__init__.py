"""A small, fast, hackable GPT: import it, read it in an afternoon, use it without any orchestrator."""
