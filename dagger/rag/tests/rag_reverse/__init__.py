"""A double of a step between retrieve and augment: it reverses the passages."""
