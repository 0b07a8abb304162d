"""Runs steps and phases: kept or done, recorded, resumed after a kill, and committed as milestones."""
