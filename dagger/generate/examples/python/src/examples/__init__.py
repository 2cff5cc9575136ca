"""How to call the module generate from Python; the Daggerverse shows each function as an example."""
