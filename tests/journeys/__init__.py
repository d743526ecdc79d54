"""Browser journeys over a real cluster."""
