"""The bundle format: specs, manifest, checksums, and files written whole."""
