"""rag-augment."""
