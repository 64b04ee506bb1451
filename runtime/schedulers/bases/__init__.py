"""What the schedulers of one kind share: how they plan a run and count its steps."""
