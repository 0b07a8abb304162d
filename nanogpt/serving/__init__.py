"""Models over HTTP: OpenAI's API, a page to talk on, limits and metrics; many clients share one batch."""
