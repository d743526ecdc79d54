"""The tests, one package per room."""

from hypothesis import HealthCheck, settings

# Examples are judged by what they do, not by how long a busy machine takes for them.
settings.register_profile("penncloud", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("penncloud")
