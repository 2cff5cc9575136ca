"""How to call the module rerank from Python; the Daggerverse shows each function as an example."""
