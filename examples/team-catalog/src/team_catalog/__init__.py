"""Questions to a catalogue, found by a retriever of one's own."""
