"""A PennCloud cluster on Amazon EC2, from one description of it: see `__main__`.

`shape` reads the description and says what is to be there (pure), `cloud` brings it about, `hosts` writes
each machine's configuration, `reach` runs commands on machines, `steps` puts these together.
"""
