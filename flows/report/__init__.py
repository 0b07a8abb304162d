"""What a person reads after a run: facts, judged and rendered. It changes nothing that it reports on."""
