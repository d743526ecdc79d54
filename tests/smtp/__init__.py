"""Tests of the mail server."""
