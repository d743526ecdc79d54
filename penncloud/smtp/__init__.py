"""Mail from and to the outside world: the SMTP server and the relay."""
