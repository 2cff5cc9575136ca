import rag_augment


def test_the_package_exports_the_verb_its_error_and_its_version() -> None:
    """What is not listed is private by file."""
    assert rag_augment.__all__ == ["StepError", "__version__", "augment"]
    assert rag_augment.__version__ == "0.1.0"
    assert all(hasattr(rag_augment, name) for name in rag_augment.__all__)
