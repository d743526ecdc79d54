"""Directories as earlier versions wrote them; later versions must read them. Never regenerated."""
