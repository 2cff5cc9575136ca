"""How to call the module rag from Python; the Daggerverse shows each function as an example."""
