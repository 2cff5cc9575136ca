"""Questions to a team's own handbook."""
