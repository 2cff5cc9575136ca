"""rag-retrieve."""
