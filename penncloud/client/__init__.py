"""How everything above uses the store: the table interface, the client behind it, and its fake."""
