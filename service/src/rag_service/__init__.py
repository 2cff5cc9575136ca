"""The RAG pipeline over HTTP."""
