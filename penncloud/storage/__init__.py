"""One storage server: its tablets, the protocol that clients speak to it, watches."""
