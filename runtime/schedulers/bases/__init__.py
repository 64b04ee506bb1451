"""The shared part of schedulers of one kind: plan of a run, place in it, added noise."""
