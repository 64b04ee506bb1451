"""The bundle format: specs, manifest, checksums, and atomic writes."""
