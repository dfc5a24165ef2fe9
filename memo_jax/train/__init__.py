"""Training by rectified flow: stages, the step, the loop around it."""
