"""Training one network on rows of sparse features."""
