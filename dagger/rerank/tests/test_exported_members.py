import rag_rerank


def test_the_package_exports_the_verb_its_error_and_its_version() -> None:
    """What is not listed is private by file."""
    assert rag_rerank.__all__ == ["StepError", "__version__", "rerank"]
    assert rag_rerank.__version__ == "0.1.0"
    assert all(hasattr(rag_rerank, name) for name in rag_rerank.__all__)
