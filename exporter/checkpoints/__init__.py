"""Opens checkpoints and checks them before anything of them is used."""
