"""The autopilot: Prefect carries the eight phases; everything that makes a run unattended lives here."""
