"""How notebook 06 scores faster and more: OpenVINO, the benchmark, other indexes, the bulk job."""
