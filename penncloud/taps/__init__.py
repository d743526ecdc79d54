"""One module per role: the options of its `twistd` subcommand and the assembly of its service."""
