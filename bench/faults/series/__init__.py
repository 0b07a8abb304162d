"""What takes many runs: kills at random moments, and what orchestration costs."""
