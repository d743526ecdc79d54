"""What users do with a cluster, what they may expect, and whether they got it.

`workloads` uses a cluster, `history` keeps what was asked and answered, `linearizability` judges it.
The cluster may be simulated (`penncloud.simulation`) or real.
"""
