"""What changes a pipeline at run time without another export: LoRAs and textual inversion embeddings."""
