"""One file a network class: the inputs, the outputs and the call of the network, under names of diffusers."""
