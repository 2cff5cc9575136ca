"""rag-pipeline."""
