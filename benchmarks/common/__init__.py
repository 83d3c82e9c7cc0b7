"""What all benchmarks share: timing, memory, processes, results, tables, plots, command line."""
