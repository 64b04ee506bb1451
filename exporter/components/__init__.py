"""Networks of the families: one kind per file, described without torch, with its torch wrapper beside it."""
