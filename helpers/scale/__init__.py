"""How notebook 06 makes scoring faster and tables of pairs bigger: OpenVINO, indexes, the bulk job."""
