"""The `penncloud` command."""
