"""How to call the module retrieve from Python; the Daggerverse shows each function as an example."""
