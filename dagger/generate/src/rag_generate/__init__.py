"""rag-generate."""
