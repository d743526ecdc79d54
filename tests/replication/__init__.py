"""Tests of the replication machines."""
