"""What notebooks 04 and 05 show of the cross-encoder and nobody wants to compute twice."""
