"""What a run shows of itself: on the terminal, in a pipe, and in Prefect's pages. It decides nothing."""
