"""How to call the module augment from Python; the Daggerverse shows each function as an example."""
