"""Child processes under watch: the trainer, whose symptoms have their remedies in order; the project's own tests."""
