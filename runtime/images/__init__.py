"""Images: pixels, masks, PNG files with settings, feature extractors."""
