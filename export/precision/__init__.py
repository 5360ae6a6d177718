"""Graphs of other precisions, added to a bundle that holds fp32 graphs: fp16 and int8."""
