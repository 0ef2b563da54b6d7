"""One small file a task: its classes, its answers, its loss and its metrics."""
