"""A web site as a source: addresses checked, robots.txt obeyed, everything bounded."""
