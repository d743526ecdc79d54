"""The source of truth for nodes and tablets: state machine, failure detector, and their driver."""
