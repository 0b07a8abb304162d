"""Training under watch: the trainer is a child process, each symptom has its remedies, in order."""
