"""What is said, in Meta's words: pure, without input or output, and unaware of storage and carrier."""
