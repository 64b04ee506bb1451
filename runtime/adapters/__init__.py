"""LoRAs and textual inversion embeddings: change a pipeline at run time without another export."""
