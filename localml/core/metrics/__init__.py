"""What a job reports without knowing it: metrics in its output and in TensorBoard's files, and its parameters."""
