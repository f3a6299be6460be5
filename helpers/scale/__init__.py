"""How notebooks 06 and 07 score faster and more: OpenVINO, benchmarks, indexes, the bulk job."""
