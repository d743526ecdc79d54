"""The load balancer that browsers meet first."""
