"""The tests, one package per room."""
