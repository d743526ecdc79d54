"""The processes of one host: topology, launcher and the agent that supervises them."""
