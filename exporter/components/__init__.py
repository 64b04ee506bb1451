"""The networks that families are made of: one kind a file, described without torch, and its torch wrapper beside it."""
